"""A plan: what a workload does, as data. And the outcomes of running it, as the block log keeps them.

In JSON::

    {"schema": 1, "kind": "crash-harness plan",
     "setup": [{"op": "creat", "path": "foo"}],
     "operations": [{"op": "write", "path": "foo", "length": 4096}, {"op": "fsync", "path": "foo"}]}

Operations are numbered from 0 through setup and operations alike. What `setup` did is synced before any power cut.

While a plan runs, these marks go into the block log:

- `op:begin N` before operation N
- `op:end JSON` after it, JSON being its Outcome; where it succeeded and persists something, the mark is the promise
  `json:JSON` instead, so that cuts before and after it are told apart
- `op:start` when the setup is done and durable: cuts begin here
"""

import posixpath
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import xxhash

from harness.blocklog import BlockLog
from harness.blocklog.format import JSON, OPERATION
from harness.errors import BadLog, Misuse
from harness.plan.operations import Operation, paths_of, persists

SCHEMA = 1
KIND = "crash-harness plan"

START = OPERATION + b"start"
_BEGIN = OPERATION + b"begin "
OUTCOME = OPERATION + b"end "


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workload. `setup` is durable before the first cut. Two equal plans have equal ids on any machine."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA
    kind: str = KIND
    setup: tuple[Operation, ...] = ()
    operations: tuple[Operation, ...]

    @property
    def all(self) -> tuple[Operation, ...]:
        """Setup and operations, in the order in which they are numbered."""
        return self.setup + self.operations

    @property
    def id(self) -> str:
        """16 hex digits that name its content."""
        return xxhash.xxh3_64_hexdigest(msgspec.json.encode([self.setup, self.operations]))

    def to_json(self) -> bytes:
        """For a file; from_json reads it back."""
        return msgspec.json.format(msgspec.json.encode(self))

    def lines(self) -> list[str]:
        """One readable line an operation, numbered; setup is marked."""
        return [
            f"{n:>3}  {operation}" + ("  (setup)" if n < len(self.setup) else "")
            for n, operation in enumerate(self.all)
        ]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How operation `n` ended. `errno` 0: it succeeded; `value`: bytes done, for those that can do less than asked.

    `inode`: st_ino of the file that it wrote to, or made, or whose new name it made; `size`: st_size after a write.
    """

    n: int
    op: str = ""
    errno: int = 0
    value: int = 0
    inode: int = 0
    size: int = 0

    @property
    def ok(self) -> bool:
        return self.errno == 0


def from_json(text: bytes | str) -> Plan:
    """Read a plan. Raises Misuse, saying where, for what is none, for a newer schema, and for paths off the volume."""
    try:
        raw: Any = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Misuse(f"not a plan: {error}", "give a JSON file as docs/writing-a-plan.md describes") from None
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise Misuse(f'not a plan: it must be a JSON object with "kind": "{KIND}"', "see docs/writing-a-plan.md")
    schema = raw.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise Misuse(
            f"the plan has schema {schema}; this harness reads up to {SCHEMA}", "upgrade: pip install -U crash-harness"
        )
    try:
        plan = msgspec.convert(raw, Plan)
    except msgspec.ValidationError as error:
        raise Misuse(f"not a plan: {error}", "correct it there; docs/writing-a-plan.md lists the operations") from None
    check_paths(plan)
    return plan


def check_paths(plan: Plan) -> None:
    """Raises Misuse for a path that leaves the volume or could mean two things."""
    for n, operation in enumerate(plan.all):
        for path in paths_of(operation):
            if path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise Misuse(f"operation {n} ({operation}) leaves the volume", "give paths below the volume's root")
            if posixpath.normpath(path) != path:
                raise Misuse(f"operation {n}: the path {path!r} is not plain", f"write {posixpath.normpath(path)!r}")


def begin_mark(n: int) -> bytes:
    return _BEGIN + b"%d" % n


def end_mark(operation: Operation, outcome: Outcome) -> bytes:
    """The mark behind an operation: a promise where it made something durable."""
    text = msgspec.json.encode(outcome)
    return (JSON if outcome.ok and persists(operation) else OUTCOME) + text


def outcomes_of(log: BlockLog) -> list[Outcome]:
    """What the marks of a log say of its plan's operations, in order. Raises BadLog for marks that cannot be read."""
    found = []
    for mark in log.marks:
        prefix = next((prefix for prefix in (OUTCOME, JSON) if mark.text.startswith(prefix)), None)
        if prefix:
            try:
                found.append(msgspec.json.decode(mark.text[len(prefix) :], type=Outcome))
            except msgspec.DecodeError as error:
                cause = f"the mark at event {mark.at} is no outcome: {error}"
                raise BadLog(cause, "is this the log of a plan?") from None
    return found


def begun_before(log: BlockLog, cut: int) -> int:
    """How many operations had begun when the power went after `events[:cut]`."""
    return sum(1 for mark in log.marks if mark.at < cut and mark.text.startswith(_BEGIN))


def persistence_points(operations: Sequence[Operation], outcomes: Sequence[Outcome]) -> list[int]:
    """The numbers of the operations that made something durable, in order: the n-th promise of the log is the n-th."""
    return [o.n for o in outcomes if o.ok and persists(operations[o.n])]

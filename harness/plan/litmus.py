"""Litmus tests as data: a few calls, and the state that surprises an author who finds it after a power cut.

After Ferrite (Bornholt et al., "Specifying and Checking File System Crash-Consistency Models", ASPLOS 2016), section 3.
In JSON (scenarios/litmus)::

    {"schema": 1, "kind": "crash-harness litmus test", "id": "ACVR", "title": "atomic-create-via-rename",
     "question": "Does a name made by rename hold the whole content, or nothing?",
     "main": [{"op": "creat", "path": "tmp"}, …, {"op": "rename", "path": "tmp", "new": "file"}],
     "surprising": {"test": "all", "of": [{"test": "exists", "path": "file"}, …]},
     "repair": {"before": 2, "operation": {"op": "fsync", "path": "tmp"}, "why": "…"},
     "published": {"ext4": "OBSERVED"}}

`surprising` is a predicate over the recovered volume. A content is a list of runs, `[["a", 2500], ["b", 2500]]`.
"""

import itertools
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from harness.errors import Misuse
from harness.plan.operations import LENGTH_MAX, Operation, Path, paths_of, persists
from harness.plan.plan import Plan, check_paths

SCHEMA = 1
KIND = "crash-harness litmus test"
NEIGHBOUR = "neighbour"
"""The file in the volume's root that belongs to the environment (harness.trial.litmus): no test may use it."""

PUBLISHED = ("ext4", "xfs", "f2fs", "nilfs2", "btrfs", "ufs2")
_RUNS_SHOWN = 6

Read = Callable[[str], "bytes | None"]
"""The content of a file of the recovered volume; None where there is none of that name."""

Letter = Annotated[str, msgspec.Meta(pattern=r"^[ -~]\Z")]
Run = tuple[Letter, Annotated[int, msgspec.Meta(ge=1, le=LENGTH_MAX)]]
Content = Annotated[tuple[Run, ...], msgspec.Meta(max_length=64)]


class _Predicate(msgspec.Struct, frozen=True, kw_only=True, tag_field="test", forbid_unknown_fields=True):
    """What all predicates have in common: the tag `test` in JSON, and `holds`."""


class Exists(_Predicate, frozen=True, kw_only=True, tag="exists"):
    """There is a file of that name."""

    path: Path

    def holds(self, read: Read, promised: int) -> bool:  # noqa: ARG002 (one signature for all)
        return read(self.path) is not None


class Absent(_Predicate, frozen=True, kw_only=True, tag="absent"):
    """There is none."""

    path: Path

    def holds(self, read: Read, promised: int) -> bool:  # noqa: ARG002
        return read(self.path) is None


class OneOf(_Predicate, frozen=True, kw_only=True, tag="content"):
    """The file exists, and its content is one of these."""

    path: Path
    one_of: Annotated[tuple[Content, ...], msgspec.Meta(min_length=1)]

    def holds(self, read: Read, promised: int) -> bool:  # noqa: ARG002
        return read(self.path) in [bytes_of(content) for content in self.one_of]


class PrefixOf(_Predicate, frozen=True, kw_only=True, tag="prefix"):
    """The file exists, and its content is a prefix of this one: the empty one and the whole one count."""

    path: Path
    of: Content

    def holds(self, read: Read, promised: int) -> bool:  # noqa: ARG002
        found = read(self.path)
        return found is not None and bytes_of(self.of).startswith(found)


class ByteAt(_Predicate, frozen=True, kw_only=True, tag="byte"):
    """The file exists and reaches so far, and this byte is there."""

    path: Path
    at: Annotated[int, msgspec.Meta(ge=0, le=LENGTH_MAX)]
    value: Letter

    def holds(self, read: Read, promised: int) -> bool:  # noqa: ARG002
        found = read(self.path)
        return found is not None and found[self.at : self.at + 1] == self.value.encode()


class Promised(_Predicate, frozen=True, kw_only=True, tag="promised"):
    """At least so many of the pattern's persisting calls had returned before the cut."""

    at_least: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1

    def holds(self, read: Read, promised: int) -> bool:  # noqa: ARG002
        return promised >= self.at_least


class Not(_Predicate, frozen=True, kw_only=True, tag="not"):
    """It does not hold."""

    of: "Predicate"

    def holds(self, read: Read, promised: int) -> bool:
        return not self.of.holds(read, promised)


class AllOf(_Predicate, frozen=True, kw_only=True, tag="all"):
    """All of them hold."""

    of: "Annotated[tuple[Predicate, ...], msgspec.Meta(min_length=1)]"

    def holds(self, read: Read, promised: int) -> bool:
        return all(each.holds(read, promised) for each in self.of)


class AnyOf(_Predicate, frozen=True, kw_only=True, tag="any"):
    """At least one of them holds."""

    of: "Annotated[tuple[Predicate, ...], msgspec.Meta(min_length=1)]"

    def holds(self, read: Read, promised: int) -> bool:
        return any(each.holds(read, promised) for each in self.of)


Predicate = Exists | Absent | OneOf | PrefixOf | ByteAt | Promised | Not | AllOf | AnyOf


class Repair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fsync that the pattern lacks, put before operation `before` of `main` (its length: behind the last one).

    `surprising`: what would be surprising then, where that is another question: of a pattern whose surprise no single
    fsync forbids, that the content is wrong although the fsync has returned.
    """

    before: Annotated[int, msgspec.Meta(ge=0)]
    operation: Operation
    why: Annotated[str, msgspec.Meta(min_length=1)]
    surprising: Predicate | None = None


class Litmus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One litmus test. `initial` is durable before the first cut; the power may go anywhere in `main`, or later.

    `nothing_lacks` says why there is no `repair`; exactly one of the two is given.
    """

    schema: int = SCHEMA
    kind: str = KIND
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9]{0,11}\Z")]
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    question: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    initial: tuple[Operation, ...] = ()
    main: Annotated[tuple[Operation, ...], msgspec.Meta(min_length=1)]
    surprising: Predicate
    outcome: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    """The surprising outcome in words."""
    repair: Repair | None = None
    nothing_lacks: str = ""
    note: str = ""
    """Why the data are as they are, where that is not obvious."""
    published: dict[str, str] = {}
    """By file system, as printed; under `note` what else the publication says of it."""

    def plan(self, *, repaired: bool = False) -> Plan:
        """The workload, with the neighbour's file in its setup. Raises Misuse where there is no repair."""
        setup: tuple[Operation, ...] = (*self.initial, *_NEIGHBOURS_FILE)
        return Plan(setup=setup, operations=self.operations(repaired=repaired))

    def operations(self, *, repaired: bool = False) -> tuple[Operation, ...]:
        """What `main` does, with or without the fsync that it lacks."""
        if not repaired:
            return self.main
        repair = self._repair
        return (*self.main[: repair.before], repair.operation, *self.main[repair.before :])

    def surprise(self, *, repaired: bool = False) -> Predicate:
        """What would be surprising to find."""
        return (self._repair.surprising or self.surprising) if repaired else self.surprising

    @property
    def _repair(self) -> Repair:
        if self.repair is None:
            raise Misuse(f"{self.id} lacks no fsync: {self.nothing_lacks}", "run it without --repaired")
        return self.repair


_NEIGHBOURS_FILE = msgspec.convert([{"op": "creat", "path": NEIGHBOUR}], tuple[Operation, ...])


def bytes_of(content: Content) -> bytes:
    """`(("a", 2), ("b", 1))` -> b"aab"."""
    return b"".join(letter.encode() * count for letter, count in content)


def describe(content: bytes | None) -> str:
    """A file's content in runs: `2500 x 'a', 1596 x NUL`."""
    if content is None:
        return "absent"
    runs = [(byte, sum(1 for _ in group)) for byte, group in itertools.groupby(content)]
    shown = [f"{count} x {_letter(byte)}" for byte, count in runs[:_RUNS_SHOWN]]
    more = [f"{len(runs) - _RUNS_SHOWN} more runs"] if len(runs) > _RUNS_SHOWN else []
    return ", ".join(shown + more) or "empty"


def _letter(byte: int) -> str:
    return repr(chr(byte)) if 0x20 <= byte < 0x7F else "NUL" if byte == 0 else f"0x{byte:02x}"


def files_of(predicate: Predicate) -> list[str]:
    """The paths that a predicate looks at, each once."""
    if isinstance(predicate, Promised):
        return []
    if isinstance(predicate, Not):
        return files_of(predicate.of)
    if isinstance(predicate, AllOf | AnyOf):
        return list(dict.fromkeys(path for each in predicate.of for path in files_of(each)))
    return [predicate.path]


def from_json(text: bytes | str, where: str) -> Litmus:
    """Read one test; `where` is the file's name. Raises Misuse that says where and what is wrong."""
    try:
        raw: Any = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise _bad(where, str(error)) from None
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise _bad(where, f'it must be a JSON object with "kind": "{KIND}"')
    schema = raw.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        cause = f"{where}: the test has schema {schema}; this harness reads up to {SCHEMA}"
        raise Misuse(cause, "upgrade: pip install -U crash-harness")
    try:
        test = msgspec.convert(raw, Litmus)
    except msgspec.ValidationError as error:
        raise _bad(where, str(error)) from None
    _check(test, where)
    return test


def _bad(where: str, what: str) -> Misuse:
    return Misuse(f"{where} is no litmus test: {what}", "correct it there; docs/litmus.md describes the format")


def _check(test: Litmus, where: str) -> None:
    """What the types cannot say."""
    if (test.repair is None) != bool(test.nothing_lacks):
        raise _bad(where, "give either `repair` or, in `nothing_lacks`, why there is none")
    if any(persists(operation) for operation in test.initial):
        raise _bad(where, "`initial` must hold no fsync: it is synced as a whole, and no promise of the pattern")
    if test.repair and test.repair.before > len(test.main):
        raise _bad(where, f"`repair.before` is {test.repair.before}, `main` has {len(test.main)} operations")
    if test.repair and not persists(test.repair.operation):
        raise _bad(where, f"`repair.operation` ({test.repair.operation}) makes nothing durable")
    unknown = set(test.published) - {*PUBLISHED, "note"}
    if unknown:
        raise _bad(where, f"`published` has results of {PUBLISHED} and `note`, not {sorted(unknown)}")
    _check_files(test, where)


def _check_files(test: Litmus, where: str) -> None:
    try:
        for plan in [test.plan(), *([test.plan(repaired=True)] if test.repair else [])]:
            check_paths(plan)
    except Misuse as error:
        raise _bad(where, error.cause) from None
    named = {path for operation in (*test.initial, *test.main) for path in paths_of(operation)}
    if NEIGHBOUR in named:
        raise _bad(where, f"the file {NEIGHBOUR!r} belongs to the environment")
    predicates = [test.surprising, *([test.repair.surprising] if test.repair and test.repair.surprising else [])]
    strange = {path for predicate in predicates for path in files_of(predicate)} - named
    if strange:
        raise _bad(where, f"the predicate looks at {sorted(strange)}, which no operation names")

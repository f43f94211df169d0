"""A shard: some seconds of work, as data. What judging it came to, as data. Both travel to other machines.

A shard names its content, so a shard that was judged twice (its worker was thought lost, the harness was killed between
two steps) is counted once.
"""

from typing import Any

import msgspec
import xxhash

from harness.campaign.drawing import draw_plans
from harness.campaign.records import BugSignature, Sighting, Trial
from harness.plan.operations import Fallocate, Operation, Write, persists
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.verdict import Verdict

NO_PERSISTENCE = "none"

_NOT_OF_THE_RESULT = ("workers", "scratch", "timeout", "log_max")


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be judged: plans drawn from a seed; or plans that were given; or a run of pytest."""

    source: str
    guarantee: str
    seed: int = 0
    plans: int = 0
    """How many are drawn."""
    operations: tuple[int, int] = (1, 8)
    settings: Settings = Settings()
    drawn_by: str = ""
    canary: bool = False
    """A bug is planted, and the shard ends with the first plan that shows it."""
    given: tuple[Plan, ...] = ()
    again: BugSignature | None = None
    """The bug that the given plan showed before."""
    group: tuple[str, str] = ("", "")
    """Its kind and rule, as harness.trial.report.group tells them."""
    pytest: tuple[str, ...] = ()
    """Arguments for pytest."""

    @property
    def name(self) -> str:
        """16 hex digits of all that its result depends on."""
        plain = Settings()
        same = {name: getattr(plain, name) for name in _NOT_OF_THE_RESULT}
        return xxhash.xxh3_64_hexdigest(
            msgspec.json.encode(msgspec.structs.replace(self, settings=msgspec.structs.replace(self.settings, **same)))
        )

    def contents(self) -> list[Plan]:
        """Its plans, the same ones on every machine with the same versions (see drawing)."""
        return list(self.given) or draw_plans(self.seed, self.plans, self.operations)


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of which there are enough examples: it is counted under its signature, and not shrunk once more."""

    source: str
    group: tuple[str, str]
    signature: BugSignature


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A shard on its way to a server."""

    shard: Shard
    known: tuple[Known, ...] = ()
    attempt: int = 0


class Working(msgspec.Struct, frozen=True, kw_only=True, tag="working"):
    """A sign of life from a server. Counts are those of the shard so far; `seconds` until the next one is due."""

    shard: str
    plans: int
    states: int
    seconds: float


class ShardResult(msgspec.Struct, kw_only=True, tag="result"):
    """What a shard came to. Trials that are INTACT, and were expected to be, are counted in `keys` and `states`."""

    shard: str
    drawn_by: str = ""
    trials: list[tuple[Trial, list[Sighting]]] = []
    keys: list[bytes] = []
    states: list[int] = []
    seconds: float = 0.0
    judging_seconds: float = 0.0
    bundles: dict[str, bytes] = {}
    """By file name, which the sightings name too."""
    groups: list[tuple[tuple[str, str], BugSignature]] = []
    """Of the findings that were shrunk here."""
    coverage: dict[str, int] = {}
    """`rename/fsync` -> how many such operations were judged."""
    notes: list[str] = []
    trouble: str = ""
    """Why the shard could not be judged; empty if it was."""

    @property
    def plans(self) -> int:
        return len(self.keys) + len(self.trials)

    @property
    def judged(self) -> int:
        """States."""
        return sum(self.states) + sum(trial.judged for trial, _ in self.trials)

    @property
    def unknown(self) -> int:
        """Trials without a verdict."""
        return sum(trial.verdict is Verdict.UNKNOWN for trial, _ in self.trials)

    @property
    def convicts(self) -> bool:
        """Whether something was found."""
        return any(trial.verdict is Verdict.CORRUPTED for trial, _ in self.trials)


Message = Working | ShardResult


def kind_of(operation: Operation) -> str:
    """`rename`, `direct write`, `fallocate punch-hole`: an operation's kind, as coverage counts it."""
    if isinstance(operation, Write):
        return "write" if operation.how == "write" else f"{operation.how} write"
    tag: Any = type(operation).__struct_config__.tag
    return f"fallocate {operation.mode}" if isinstance(operation, Fallocate) else str(tag)


def coverage_of(plan: Plan) -> dict[str, int]:
    """How often each kind of operation stood before each kind of persistence: that which comes next in the plan."""
    found: dict[str, int] = {}
    behind = NO_PERSISTENCE
    for operation in reversed(plan.operations):
        kind = kind_of(operation)
        if persists(operation):
            behind = kind
            continue
        key = f"{kind}/{behind}"
        found[key] = found.get(key, 0) + 1
    return found

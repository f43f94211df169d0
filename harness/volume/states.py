"""The states of a volume, what may follow what, what its journal says of them, and how both are brought together."""

import enum
from collections.abc import Mapping, Sequence

import msgspec

from harness.errors import BadJournal, Misuse
from harness.machine.loop import Bound


class State(enum.StrEnum):
    """Where a volume is in its life."""

    CREATED = "created"
    ATTACHED = "attached"
    MOUNTED = "mounted"
    DETACHING = "detaching"
    DETACHED = "detached"
    FAILED = "failed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.CREATED: frozenset({State.ATTACHED, State.FAILED}),
    State.ATTACHED: frozenset({State.MOUNTED, State.DETACHING, State.DETACHED, State.FAILED}),
    State.MOUNTED: frozenset({State.ATTACHED, State.DETACHING, State.DETACHED, State.FAILED}),
    State.DETACHING: frozenset({State.DETACHED}),
    State.DETACHED: frozenset({State.ATTACHED, State.FAILED}),
    State.FAILED: frozenset({State.DETACHING}),
}
"""Which state may follow which. By what: docs/volumes.md."""


class Intent(enum.StrEnum):
    """An act of the kernel that is about to begin; the state is still the one before it."""

    ATTACH = "attach"
    MOUNT = "mount"
    FORCE = "force"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a volume's journal: what holds from here on. Times in seconds of the volume's clock."""

    volume: str
    state: State
    intent: Intent | None = None
    at: float = 0.0
    where: str = ""
    """The node or instance that the volume is attached to, or was last."""
    device: str = ""
    target: str = ""
    detaching_since: float = 0.0
    forced: bool = False
    held_by: tuple[str, ...] = ()
    """What force was needed for."""
    sync_error: str = ""
    """A sync before the unmount failed: what was only written may be lost."""
    note: str = ""
    writer: str = ""
    """The process that wrote this (owners.Owner)."""


def check(records: Sequence[Record], volume: str, path: str) -> None:
    """Raises Misuse for another volume's journal, BadJournal for a history that cannot be."""
    before = State.CREATED
    for number, record in enumerate(records, 1):
        if record.volume != volume:
            raise Misuse(f"{path} is the journal of volume {record.volume}, not of {volume}", "give each its own")
        if record.state is not before and record.state not in TRANSITIONS[before]:
            raise BadJournal(f"{path}: record {number} goes from {before} to {record.state}", "see docs/volumes.md")
        before = record.state


def definite(last: Record, bound: Sequence[Bound], mounted: bool) -> tuple[State, str]:
    """The state of a volume whose journal ends with `last` and of which the kernel has `bound`; and why, in words.

    `bound` is without what force left to its holders. `mounted`: in this process's mount namespace.
    """
    live = [status.path for status in bound if not status.removed]
    if last.state is State.DETACHING:
        return (State.DETACHING, "") if bound else (State.DETACHED, "the kernel had let go of it")
    if last.state is State.FAILED:
        return State.FAILED, ""
    if last.state in (State.ATTACHED, State.MOUNTED):
        return _in_use(bound, live, mounted)
    if not live:
        return last.state, "nothing was attached"
    if len(live) > 1 or last.intent is not Intent.ATTACH:
        return State.FAILED, "attached, though not by this journal: " + ", ".join(live)
    return State.ATTACHED, "it had been attached"


def _in_use(bound: Sequence[Bound], live: Sequence[str], mounted: bool) -> tuple[State, str]:
    if not bound:
        return State.DETACHED, "the kernel let go of it when its owner died"
    if not live:
        return State.FAILED, "the device was pulled out"
    if len(live) > 1:
        return State.FAILED, "attached more than once: " + ", ".join(live)
    return (State.MOUNTED, "it is mounted") if mounted else (State.ATTACHED, "it is not mounted here")

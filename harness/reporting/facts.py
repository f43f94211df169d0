"""What a report tells of one crash state: where the power went, what was lost, what had been promised by then."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.blocklog import Kind, Promise
from harness.crash import CrashState, StateSpace
from harness.settings import Settings
from harness.trial.recording import Recording, lost_atoms
from harness.trial.report import Found


class Lost(NamedTuple):
    """A write (or a discard, or with model torn a part of a write) that did not reach the disk. Bytes."""

    event: int
    kind: Kind
    offset: int
    length: int


class Facts(NamedTuple):
    """One state in the words of the crash model."""

    cut: int
    """The power went after `cut` events of the log."""
    events: int
    epoch: int
    epochs: int
    writes: int
    """Unflushed writes (discards, atomic units) of the epoch before the cut: what could be lost."""
    lost: list[Lost]
    promises: list[Promise]
    """Made before the cut."""
    promises_total: int

    @property
    def where(self) -> str:
        return f"after {self.cut:,} of {self.events:,} events, in epoch {self.epoch + 1:,} of {self.epochs:,}"


def facts(recording: Recording, space: StateSpace, state: CrashState) -> Facts:
    """What is known of `state`, which `space` (of the same recording) allows."""
    epoch = space.epochs[state.epoch]
    lost = [
        Lost(atom.event, recording.log.events[atom.event].kind, atom.offset, atom.length)
        for atom in (epoch.atoms[n] for n in lost_atoms(space, state))
    ]
    made = recording.log.promises(recording.end)
    return Facts(
        cut=state.cut,
        events=len(recording.log.events),
        epoch=state.epoch,
        epochs=len(space.epochs),
        writes=sum(1 for atom in epoch.atoms if atom.event < state.cut),
        lost=lost,
        promises=made[: state.promises],
        promises_total=len(made),
    )


def facts_of(found: Found, recording: Recording, settings: Settings) -> Facts:
    """The same for an entry of a report: of the second crash, where there were two."""
    its = found.deeper or recording
    return facts(its, its.space(settings), found.state)


class EpochRow(NamedTuple):
    """One epoch of a log: events[start:stop], what they did, and whether a flush ends it."""

    number: int
    """Counted from 0."""
    start: int
    stop: int
    writes: int
    bytes: int
    discards: int
    promises: int
    flushed: bool


def epoch_rows(recording: Recording, space: StateSpace) -> list[EpochRow]:
    """The log, epoch by epoch."""
    events = recording.log.events
    promised = {promise.at for promise in recording.log.promises()}
    rows = []
    for epoch in space.epochs:
        inside = events[epoch.start : epoch.stop]
        writes = [event.length for event in inside if event.kind is Kind.WRITE]
        rows.append(
            EpochRow(
                epoch.index,
                epoch.start,
                epoch.stop,
                len(writes),
                sum(writes),
                sum(1 for event in inside if event.kind is Kind.DISCARD),
                sum(1 for at in range(epoch.start, epoch.stop) if at in promised),
                epoch.stop < len(events),
            )
        )
    return rows


def last(promises: Sequence[Promise], count: int) -> list[Promise]:
    return list(promises[-count:]) if count else []

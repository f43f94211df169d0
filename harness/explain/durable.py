"""When each operation of a workload was durable, as far as its log proves it.

Told for ext2, ext3 and ext4, whose blocks are all named. Their metadata are durable when the commit block of a
transaction that holds them, and all before it, are (the kernel's Documentation/filesystems/ext4/journal.rst); data are
written to their own places before. Of xfs and btrfs nothing is said: their logs are not taken apart to the operation.
"""

import posixpath
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from harness.explain.evidence import Evidence, Track
from harness.explain.explained import Step
from harness.explain.inside import UNDERSTOOD
from harness.layout.kinds import BlockKind
from harness.plan import operations as op
from harness.plan.operations import Operation, paths_of
from harness.plan.plan import Outcome, Plan
from harness.trial.recording import Recording

_NAMES = (op.Creat, op.Link, op.Symlink, op.Rename, op.Unlink, op.Remove, op.Mkdir, op.Rmdir)
_ATTRIBUTES = (op.Chmod, op.Utimens, op.SetXattr, op.RemoveXattr)


class Needs(NamedTuple):
    """Events of the writes that an operation needs on the disk. `all_known`: there are no others."""

    events: list[int]
    flushed: list[int]
    """For each the event after which it was durable; -1: never."""
    all_known: bool

    @classmethod
    def unknown(cls) -> "Needs":
        return cls([], [], False)


def with_states(
    steps: Sequence[Step], recording: Recording, evidence: Evidence, plan: Plan | None, ended: Mapping[int, Outcome]
) -> tuple[Step, ...]:
    """The steps, each with when it was durable and what it was at the cut, where that can be told."""
    if plan is None:
        return tuple(_with_state(step, _of_stretch(step, evidence), evidence.cut) for step in steps)
    finder = _Finder(recording, evidence, plan, ended)
    return tuple(_with_state(step, finder.needs(n, step), evidence.cut) for n, step in enumerate(steps))


def _with_state(step: Step, needs: Needs, cut: int) -> Step:
    durable = -1 if not needs.all_known else Evidence.latest(needs.flushed)
    return msgspec.structs.replace(step, durable=durable, state=_state(step, needs, durable, cut))


def _state(step: Step, needs: Needs, durable: int, cut: int) -> str:
    if step.begin >= cut:
        return "not begun"
    if not 0 <= step.end < cut:
        return "running"
    if not needs.events or not needs.all_known:
        return ""
    if 0 <= durable < cut:
        return "durable"
    return "in the device's cache" if max(needs.events) < cut else "in memory only"


def _of_stretch(step: Step, evidence: Evidence) -> Needs:
    """Of a program only what reached the device is known, not what it asked for."""
    stop = step.end if step.end >= 0 else sys.maxsize
    events = [entry.event for entry in evidence.writes_in(step.begin, stop) if tells_a_file(entry.pieces)]
    return Needs(events, [evidence.durable_at(event) for event in events], bool(events))


def tells_a_file(pieces: Sequence[object]) -> bool:
    """Whether a write carries something of a file, in place or through the journal, rather than upkeep alone."""
    kinds = {getattr(piece, "kind", None) for piece in pieces}
    upkeep = {BlockKind.SUPERBLOCK, BlockKind.JOURNAL_SUPERBLOCK, BlockKind.GROUP_DESCRIPTOR, BlockKind.FREE}
    return bool(kinds - upkeep)


class _Finder:
    """Finds what each operation of a plan needs."""

    def __init__(self, recording: Recording, evidence: Evidence, plan: Plan, ended: Mapping[int, Outcome]) -> None:
        self._understood = recording.spec.fs in UNDERSTOOD
        self._block = evidence.inside.block_size
        self._journal = bool(evidence.transactions)
        self._begin = recording.begin
        self._evidence = evidence
        self._plan = plan
        self._ended = ended
        self._sizes: dict[int, int] = {}

    def needs(self, n: int, step: Step) -> Needs:
        operation, outcome = self._plan.all[n], self._ended.get(n)
        grew = self._grew(outcome)
        if not self._understood or outcome is None or not outcome.ok or step.begin < self._begin:
            return Needs.unknown()
        if isinstance(operation, op.Write):
            return self._written(operation, outcome, step, grew=grew)
        if isinstance(operation, _NAMES):
            return self._metadata(step, [_folder(path) for path in _bound(operation)], 0)
        if isinstance(operation, _ATTRIBUTES) and outcome.inode:
            return self._metadata(step, [], outcome.inode)
        return Needs.unknown()

    def _grew(self, outcome: Outcome | None) -> bool:
        """Whether the file is longer than it ever was before: then its inode must be durable too."""
        if outcome is None or not outcome.inode:
            return True
        before = self._sizes.get(outcome.inode, -1)
        self._sizes[outcome.inode] = max(before, outcome.size)
        return outcome.size > before

    def _written(self, operation: op.Write, outcome: Outcome, step: Step, *, grew: bool) -> Needs:
        end = outcome.size if operation.append else operation.offset + operation.length
        first, last = (end - operation.length) // self._block, (end - 1) // self._block
        track = self._track(outcome.inode, step)
        if track is None:
            return Needs.unknown()
        found: dict[int, int] = {}
        for event, piece in track.content:
            if event >= step.begin:
                for block in range(piece.block, piece.block + -(-piece.length // self._block)):
                    found.setdefault(block, event)
        events = [found[block] for block in range(first, last + 1) if block in found]
        if len(events) != last + 1 - first:
            return Needs.unknown()
        needs = self._of(events)
        if not grew:
            return needs
        metadata = self._metadata(step, [], outcome.inode, since=max(events))
        return Needs(needs.events + metadata.events, needs.flushed + metadata.flushed, metadata.all_known)

    def _track(self, inode: int, step: Step) -> Track | None:
        """The file that had the number then: of several, the first that wrote anything since."""
        since = [
            (event, track)
            for track in self._evidence.tracks.values()
            if track.inode == inode and (event := next((e for e, _ in track.content if e >= step.begin), -1)) >= 0
        ]
        return min(since, key=lambda each: each[0])[1] if since else None

    def _metadata(self, step: Step, folders: Sequence[str], inode: int, since: int = -1) -> Needs:
        wanted = [{"path": folder} for folder in dict.fromkeys(folders)] if folders else [{"inode": inode}]
        needs = Needs([], [], True)
        for which in wanted:
            one = self._first(max(step.begin, since), **which)
            needs = Needs(needs.events + one.events, needs.flushed + one.flushed, needs.all_known and one.all_known)
        return needs

    def _first(self, since: int, *, path: str = "", inode: int = 0) -> Needs:
        """The first that holds it: of the journal a transaction, else writes in place."""
        evidence = self._evidence
        if self._journal:
            held = [t for t in evidence.holding(inode=inode, path=path, since=since) if t.commit >= 0]
            if not held:
                return Needs.unknown()
            return Needs([held[0].events[0], held[0].commit], [evidence.flushed(held[0])], True)
        track = next((t for t in evidence.tracks.values() if (inode and t.inode == inode) or path in t.paths), None)
        events = [event for event, piece in track.metadata if event >= since] if track else []
        return self._of(events[:1]) if events else Needs.unknown()

    def _of(self, events: Sequence[int]) -> Needs:
        return Needs(list(events), [self._evidence.durable_at(event) for event in events], True)


def _bound(operation: Operation) -> tuple[str, ...]:
    """The paths whose names the operation changes: of a link only the new one."""
    paths = paths_of(operation)
    return paths[1:] if isinstance(operation, op.Link | op.Symlink) and len(paths) > 1 else paths


def _folder(path: str) -> str:
    return "/" + posixpath.dirname(path)


def asked_before(
    cut: int, steps: Sequence[Step], plan: Plan, ended: Mapping[int, Outcome], unit: int
) -> dict[int, list[range]]:
    """By inode: the blocks that operations begun before the cut were to write. `unit`: bytes of a block."""
    asked: dict[int, list[range]] = {}
    for n, step in enumerate(steps):
        operation, outcome = plan.all[n], ended.get(n)
        if step.begin < cut and outcome and outcome.inode:
            asked.setdefault(outcome.inode, []).append(_blocks_of(operation, outcome, unit))
    return asked


def _blocks_of(operation: Operation, outcome: Outcome, unit: int) -> range:
    if not isinstance(operation, op.Write):
        return range(1 << 40)  # how much of the file a copy or the like touches is not asked here
    end = outcome.size if operation.append else operation.offset + operation.length
    return range((end - operation.length) // unit, (end - 1) // unit + 1)

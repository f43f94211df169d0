"""Whose a data block was when it was written, from what file systems wrote about it before and afterwards.

File systems write data first and say later whose it is. Both xfs and btrfs give a freed block to another file only
after the freeing is durable (xfs: fs/xfs/xfs_extent_busy.c; btrfs: extents stay pinned until the superblock is
written). So a block's owner is whoever had it before and still has it, or whoever is first said to have it afterwards,
if it cannot have changed hands in between. Everything else has no owner here: a wrong name is worse than none.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

BEFORE = -1
"""The event number of what stood on the volume before the log."""


class Owner(NamedTuple):
    """A file: `tree` tells subvolumes apart, `generation` the files that had one inode number."""

    inode: int
    generation: int = 0
    tree: int = 0


class Place(NamedTuple):
    """Block `block` within a file (-1: not known), and the event that said so."""

    owner: Owner
    block: int
    event: int


class _Change(NamedTuple):
    event: int
    owner: Owner
    block: int
    held: bool
    written: bool


class Mappings:
    """Units are numbers of blocks on the volume. Events must come in order, but for those BEFORE the log."""

    def __init__(self) -> None:
        self._changes: dict[int, list[_Change]] = {}
        self._writes: dict[int, list[int]] = {}
        self.commits: list[int] = []
        """Events after which a freed block can have been given to another file, ascending."""

    def write(self, event: int, first: int, count: int) -> None:
        """These units were written as data, or so it seems."""
        for unit in range(first, first + count):
            self._writes.setdefault(unit, []).append(event)

    def hold(self, event: int, owner: Owner, first: int, count: int, block: int, *, written: bool) -> None:
        """From `event` on the file has these units, beginning with its block `block` (-1: not known which).

        `written`: they hold its data; else they are only set aside for it, and something in them may be another's.
        """
        step = 1 if block >= 0 else 0
        for n in range(count):
            change = _Change(event, owner, block + n * step, True, written)
            changes = self._changes.setdefault(first + n, [])
            if event == BEFORE:
                changes.insert(0, change)
            else:
                changes.append(change)

    def drop(self, event: int, owner: Owner, first: int, count: int) -> None:
        """From `event` on the file has these units no more."""
        for unit in range(first, first + count):
            self._changes.setdefault(unit, []).append(_Change(event, owner, -1, False, False))

    def places(self, event: int, unit: int) -> list[Place]:
        """Whose the write `event` to this unit was: several for a shared block, none if that is not known."""
        changes = self._changes.get(unit, ())
        held = _held(changes, event)
        return held or self._afterwards(changes, event, unit)

    def _afterwards(self, changes: "list[_Change] | tuple[()]", event: int, unit: int) -> list[Place]:
        later = [change for change in changes if change.event > event and change.held]
        first = next((change for change in later if change.written), None)
        if first is None or any(change.owner != first.owner and change.event < first.event for change in later):
            return []
        writes = self._writes.get(unit, ())
        last = bisect_left(writes, first.event) - 1
        if last >= 0 and self._committed_between(event, writes[last]):
            return []
        same = {c.owner: Place(c.owner, c.block, c.event) for c in later if c.event == first.event and c.written}
        return list(same.values())

    def _committed_between(self, event: int, later: int) -> bool:
        return bisect_right(self.commits, event) < bisect_right(self.commits, later)


def _held(changes: "list[_Change] | tuple[()]", event: int) -> list[Place]:
    held: dict[Owner, Place] = {}
    for change in changes:
        if change.event > event:
            break
        if change.held:
            held[change.owner] = Place(change.owner, change.block, change.event)
        else:
            held.pop(change.owner, None)
    return list(held.values())


def runs(places: list[tuple[Place, ...]]) -> Iterator[tuple[int, int]]:
    """(first, count) of neighbours that are one file's blocks in a row, or all of them nobody's."""
    first = 0
    for n in range(1, len(places) + 1):
        if n == len(places) or not _follows(places[n - 1], places[n]):
            yield first, n - first
            first = n


def _follows(one: tuple[Place, ...], two: tuple[Place, ...]) -> bool:
    return [(p.owner, p.block + (p.block >= 0)) for p in one] == [(p.owner, p.block) for p in two]

"""Names every block that the log of an ext2, ext3 or ext4 volume wrote.

The meaning of a block is a matter of time. Metadata first go to the journal and to their place much later; data are
written before the transaction that maps them. So a block is named by the last transaction that was complete when it
was written, if that knows an owner, and else by the next one that does (harness.layout.ext4_history). Without a
journal, the versions are the writes of the metadata themselves.
Source: the kernel's Documentation/filesystems/ext4; Documentation/filesystems/ext4/journal.rst for ordered mode.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from harness.blocklog import BlockLog, Kind
from harness.blocklog.reader import Event
from harness.layout import jbd2
from harness.layout.ext4_geometry import Geometry, NotUnderstood, Region
from harness.layout.ext4_history import Owner
from harness.layout.ext4_inodes import Role
from harness.layout.ext4_names import Label, Names
from harness.layout.ext4_replay import Replay
from harness.layout.kinds import BlockKind, Named
from harness.layout.naming import Buffer, unnamed

_KINDS = {
    Role.DATA: BlockKind.DATA,
    Role.DIRECTORY: BlockKind.DIRECTORY,
    Role.SYMLINK: BlockKind.SYMLINK,
    Role.EXTENTS: BlockKind.EXTENT_TREE,
    Role.INDIRECT: BlockKind.METADATA,
    Role.XATTR: BlockKind.XATTR,
    Role.XATTR_VALUE: BlockKind.XATTR,
    Role.SPECIAL: BlockKind.METADATA,
}
_CONTROLS = {
    jbd2.Control.DESCRIPTOR: (BlockKind.JOURNAL_DESCRIPTOR, "descriptor"),
    jbd2.Control.COMMIT: (BlockKind.JOURNAL_COMMIT, "commit"),
    jbd2.Control.REVOKE: (BlockKind.JOURNAL_REVOKE, "revoke"),
}
_SHOWN_INODES_MAX = 8


def name_writes(base: Buffer, log: BlockLog, size: int, *, end: int | None = None) -> dict[int, tuple[Named, ...]]:
    """As harness.layout.naming.name_writes, of a volume of `size` bytes that is an ext2, ext3 or ext4."""
    try:
        replay = Replay(Geometry(memoryview(base)[:size]), base, log, end)
    except NotUnderstood as why:
        return unnamed(log, f"not named: {why}", end)
    replay.run()
    return _Namer(replay).run()


class _Thing(NamedTuple):
    """What a block is. Blocks of one write with the same thing, at places that follow each other, are one run."""

    kind: BlockKind
    text: str = ""
    region: Region | None = None
    owner: Owner | None = None
    changed: tuple[int, ...] = ()
    time: int = 0
    transaction: int = 0
    """Of the journal: that of a copy, or of a block of its own."""
    copy: bool = False


_Placed = tuple[_Thing, int]
"""A thing, and which block of it."""


class _Namer:
    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._geometry = replay.geometry
        self._history = replay.history
        self._names = Names(replay.history)
        transactions = replay.journal.transactions if replay.journal else []
        self._commits = sorted(each.at for each in transactions if not each.given_up)

    @cached_property
    def _writes(self) -> dict[int, list[int]]:
        """Block -> the events that wrote it."""
        found: dict[int, list[int]] = {}
        for number, event in enumerate(self._replay.events):
            for block in self._replay.blocks_of(event) if event.kind is Kind.WRITE else ():
                found.setdefault(block, []).append(number)
        return found

    def run(self) -> dict[int, tuple[Named, ...]]:
        """All events."""
        events = enumerate(self._replay.events)
        return {
            number: tuple(self._pieces(number, event))
            for number, event in events
            if event.kind in (Kind.WRITE, Kind.DISCARD)
        }

    def _pieces(self, number: int, event: Event) -> Iterator[Named]:
        blocks = self._replay.blocks_of(event)
        find = self._discarded if event.kind is Kind.DISCARD else self._written
        if len(blocks) == 1:  # most are
            yield self._named(event, blocks.start, blocks.stop, *find(number, blocks.start))
            return
        first = blocks.start
        thing, place = find(number, first)
        for block in range(first + 1, blocks.stop):
            other, at = find(number, block)
            if other != thing or at != place + block - first:
                yield self._named(event, first, block, thing, place)
                first, thing, place = block, other, at
        yield self._named(event, first, blocks.stop, thing, place)

    def _written(self, number: int, block: int) -> _Placed:
        if (place := self._replay.places.get(block)) is not None:
            return self._in_journal(number, place)
        if (region := self._geometry.region(block)) is not None:
            changed = self._replay.changed.get((number, block), ())
            return self._fixed(region, block, changed, number)
        return self._owned(block, number, self._owner(block, number))

    def _discarded(self, number: int, block: int) -> _Placed:
        """What is discarded was freed before; only what has an owner at that time is named by one."""
        if block in self._replay.places:
            return _Thing(BlockKind.JOURNAL_BLOCK, "journal"), self._replay.places[block]
        if (region := self._geometry.region(block)) is not None:
            return self._fixed(region, block, self._replay.changed.get((number, block), ()), number)
        return self._owned(block, number, self._history.owner_of(block, number))

    def _owner(self, block: int, number: int) -> Owner | None:
        """Whose the block is that event `number` wrote: now, or next, as far as one can be sure of that.

        A block is allocated before its data are written, in the transaction that runs then: that is the next one to
        be complete, or the one behind it where the next was being committed. A block that is freed is not used again
        before the freeing is committed (ext4_free_blocks() in fs/ext4/mballoc.c). So a later owner writes it anew.
        Without a journal a freed block can be written for its next file before the disk knows that it was freed.
        """
        now = self._history.owner_of(block, number)
        if now and self._geometry.has_journal:
            return now
        after = self._history.next_owner(block, number)
        if after is None:
            return now
        between = bisect_left(self._commits, after[0]) - bisect_right(self._commits, number)
        if self._geometry.has_journal and between != 1:
            return after[1] if between == 0 else None
        writes = self._writes[block]
        last = writes[bisect_left(writes, after[0]) - 1] == number
        return after[1] if last else now

    def _fixed(self, region: Region, block: int, changed: tuple[int, ...], time: int) -> _Placed:
        if region.kind is not BlockKind.INODE_TABLE:
            return _Thing(region.kind, region=region), block - region.start
        return _Thing(region.kind, region=region, changed=changed, time=time), block - region.start

    def _owned(self, block: int, time: int, owner: Owner | None) -> _Placed:
        if owner is None:
            if block >= self._geometry.blocks:
                return _Thing(BlockKind.UNKNOWN, "block behind the end of the file system"), block
            return _Thing(BlockKind.FREE), block
        text = ""
        if owner.role is Role.DIRECTORY and owner.inode in self._history.hashed:
            text = self._htree(time, block, block - owner.shift)
        return _Thing(_KINDS[owner.role], text, owner=owner, time=time), block - owner.shift

    def _htree(self, number: int, block: int, place: int) -> str:
        if place == 0:
            return ", htree root"
        if number >= len(self._replay.events):
            return ""
        head = self._replay.content(number, block)[:6]
        # An inner node is to others one empty entry as long as the block (directory.rst, struct dx_node).
        empty = head[:4] == bytes(4) and int.from_bytes(head[4:6], "little") == self._geometry.block_size
        return ", htree node" if empty else ""

    def _in_journal(self, number: int, place: int) -> _Placed:
        journal = self._replay.journal
        if journal is None:
            return _Thing(BlockKind.JOURNAL_BLOCK, "journal"), place
        key = (number, place)
        if (control := journal.blocks.get(key)) is not None:
            if control.superblock:
                return _Thing(BlockKind.JOURNAL_SUPERBLOCK, jbd2.superblock_text(control.superblock)), place
            kind, word = _CONTROLS[control.control]
            text = f"journal {word}, transaction {control.sequence}{jbd2.described(journal.blocks, key)}"
            return _Thing(kind, text, transaction=control.sequence), place
        if key not in journal.copies:
            fast = self._geometry.fast_commit
            text = "fast commit, or journal block of no transaction" if fast else "journal block of no transaction"
            return _Thing(BlockKind.JOURNAL_BLOCK, text), place
        transaction, home = journal.copies[key]
        return self._copied(number, place, transaction, home)

    def _copied(self, number: int, place: int, transaction: jbd2.Transaction, home: int) -> _Placed:
        """What a copy in the journal is a copy of, when its transaction is complete."""
        if home in self._replay.places:
            thing, at = _Thing(BlockKind.JOURNAL_BLOCK, "journal"), self._replay.places[home]
        elif (region := self._geometry.region(home)) is not None:
            changed = self._replay.changed_copies.get((number, place), ())
            thing, at = self._fixed(region, home, changed, transaction.at)
        else:
            thing, at = self._owned(home, transaction.at, self._history.owner_of(home, transaction.at))
        return thing._replace(transaction=transaction.sequence, copy=True), at

    def _named(self, event: Event, first: int, stop: int, thing: _Thing, place: int) -> Named:
        size = self._geometry.block_size
        offset, end = first * size, stop * size
        if offset < event.offset or end > event.offset + event.length:
            offset, end = max(event.offset, offset), min(event.offset + event.length, end)
        text, label, inode, generation = self._described(thing, place, stop - first)
        kind, place_in_file = thing.kind, -1
        if thing.owner and thing.owner.role in (
            Role.DATA,
            Role.DIRECTORY,
            Role.SYMLINK,
            Role.XATTR_VALUE,
            Role.SPECIAL,
        ):
            place_in_file = place
        if thing.copy:
            kind, text = BlockKind.JOURNAL_BLOCK, f"journal copy of {text}, transaction {thing.transaction}"
        return Named(
            offset=offset,
            length=end - offset,
            kind=kind,
            text=text,
            path=label.path if label else "",
            inode=inode,
            block=place_in_file,
            transaction=thing.transaction,
            generation=generation,
        )

    def _described(self, thing: _Thing, place: int, count: int) -> tuple[str, Label | None, int, int]:
        """(text, label of its file, inode, generation)."""
        if thing.owner is not None:
            owner = thing.owner
            label = self._names.label(owner.inode, owner.generation, thing.time)
            return _owned_text(thing, label, place, count), label, owner.inode, owner.generation
        if thing.region is not None and thing.region.kind is BlockKind.INODE_TABLE:
            return self._table(thing)
        if thing.region is not None:
            return thing.region.text, None, 0, 0
        if thing.kind is BlockKind.FREE:
            return ("unused blocks" if count > 1 else "unused block"), None, 0, 0
        return thing.text, None, 0, 0

    def _table(self, thing: _Thing) -> tuple[str, Label | None, int, int]:
        """The piece is called for the first file that changed; for a directory, if no other did."""
        if not thing.changed or thing.region is None:
            return f"{thing.region.text if thing.region else ''}, no inode changed", None, 0, 0
        found = []
        for inode in thing.changed:
            generation = self._names.generation(inode, thing.time)
            found.append((inode, generation, self._names.label(inode, generation, thing.time)))
        texts = [label.inode_text for _, _, label in found]
        more = f" and {len(texts) - _SHOWN_INODES_MAX} more" if len(texts) > _SHOWN_INODES_MAX else ""
        inode, generation, label = min(found, key=lambda each: self._rank(each[0], thing.time))
        return f"inode table, {', '.join(texts[:_SHOWN_INODES_MAX])}{more}", label, inode, generation

    def _rank(self, inode: int, time: int) -> int:
        return int(self._names.is_directory(inode, time)) + 2 * (inode < self._geometry.first_inode)


def _owned_text(thing: _Thing, label: Label, place: int, count: int) -> str:
    role = thing.owner.role if thing.owner else Role.DATA
    if role is Role.DATA or role is Role.DIRECTORY:
        which = f"{role.value} {place}" if count == 1 else f"{role.value}s {place} to {place + count - 1}"
        return f"{which} of {label.text}{thing.text}"
    if role in (Role.EXTENTS, Role.INDIRECT):
        return f"{role.value} of {label.text}, from block {place} on"
    if role is Role.SPECIAL:
        return f"{label.text}, block {place}" + (f" to {place + count - 1}" if count > 1 else "")
    return f"{role.value} of {label.text}"

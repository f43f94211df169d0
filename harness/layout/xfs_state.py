"""What an xfs volume holds after each write to it: the log's transactions applied as recovery would apply them.

xfs says in its log what changed long before it writes that to its place, or never does. Log and in-place writes
together tell which inode had which blocks and which name, and when.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from harness.layout import xfs_log
from harness.layout.links import Links
from harness.layout.mappings import BEFORE, Mappings, Owner
from harness.layout.xfs_format import (
    BTREE,
    EXTENT_BYTES,
    EXTENTS,
    LOCAL,
    Buffer,
    Extent,
    Geometry,
    Inode,
    block_entries,
    extent,
    inode_core,
    inode_on_disk,
    is_entries,
    short_entries,
    tree_block,
    tree_roots,
)

_TREE_HEADER = 72


class State:
    """The volume as it was after the events that were taken in."""

    def __init__(self, base: Buffer, geo: Geometry) -> None:
        self.geo = geo
        self.mappings = Mappings()
        self.links = Links((0, geo.root))
        self._base = base
        self._blocks: dict[int, bytearray] = {}
        self._inodes: dict[int, Inode] = {}
        self._held: dict[int, tuple[Owner, list[Extent]]] = {}
        self._shapes: dict[int, tuple[Owner, int, int, int, bytes]] = {}
        self._unpacked: dict[bytes, Extent] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._walk()

    def block(self, number: int) -> bytes:
        """A block of the device, by its number from the device's start, as metadata says it is now."""
        size = self.geo.block
        found = self._blocks.get(number)
        return bytes(found if found is not None else self._base[number * size : (number + 1) * size])

    def inode(self, number: int) -> Inode | None:
        """The inode as it is now. An inode that the log has not touched is read from its place."""
        if number not in self._inodes:
            place = self.geo.inode_at(number)
            raw = self.block(place // self.geo.block)
            found = inode_on_disk(raw, place % self.geo.block, self.geo) if len(raw) == self.geo.block else None
            if found is None or found.number != number:
                return None
            self._inodes[number] = found
        return self._inodes[number]

    def path(self, inode: int, event: int, generation: int = -1) -> str:
        """A path of the inode near `event`; of that generation of it alone, if one is given."""
        return self.links.path((0, inode), event, generation)

    def apply(self, event: int, transaction: xfs_log.Transaction) -> list[int | str]:
        """Apply a committed transaction; what it changed: inode numbers, and device bytes of buffers as `@byte`."""
        touched: dict[int, None] = {}
        told: list[int | str] = []
        for item in transaction.items:
            if item.kind == xfs_log.INODE and (logged := xfs_log.inode_item(item)):
                self._log_inode(logged, transaction.lsn)
                touched[logged.number] = None
                told.append(logged.number)
            elif item.kind == xfs_log.BUFFER and (buffer := xfs_log.buffer_item(item)):
                told.append(f"@{buffer.offset}")
                if not buffer.cancelled and not buffer.of_inodes:
                    self._log_buffer(buffer)
                    touched |= dict.fromkeys(self._owner(buffer.offset))
        self._touched(event, touched)
        self.mappings.commits.append(event)
        return told

    def place_block(self, event: int, number: int, raw: bytes) -> None:
        """A metadata block was written to its place."""
        self._blocks[number] = bytearray(raw)
        self._touched(event, self._owner(number * self.geo.block))

    def place_inodes(self, event: int, number: int, raw: bytes) -> list[int]:
        """A block of inodes was written to its place; numbers of those that it changes there."""
        before = self.block(number)
        self._blocks[number] = bytearray(raw)
        changed = []
        for at in range(0, len(raw), self.geo.inode):
            if raw[at : at + self.geo.inode] == before[at : at + self.geo.inode]:
                continue
            found = inode_on_disk(raw, at, self.geo)
            if found is None:
                continue
            known = self._inodes.get(found.number)
            if found.mode or self.links.seen((0, found.number)):
                changed.append(found.number)
            # One that is in the log only is newer than what lies in its place.
            if known is None or found.lsn > known.lsn:
                self._inodes[found.number] = found
                self._touched(event, (found.number,))
        return changed

    def _log_inode(self, logged: xfs_log.InodeItem, lsn: int) -> None:
        core = inode_core(logged.core, "<")
        if core is None:
            return
        before = self.inode(logged.number)
        if before and before.mode and not self.links.seen((0, before.number)):
            self._update(BEFORE, before)
        if logged.has_fork:
            core = core._replace(fork=logged.fork, logged=True)
        elif before and before.format == core.format and before.generation == core.generation:
            core = core._replace(fork=before.fork, logged=before.logged)
        self._inodes[logged.number] = core._replace(number=logged.number, lsn=lsn)

    def _log_buffer(self, buffer: xfs_log.BufferItem) -> None:
        size = self.geo.block
        for offset, data in buffer.pieces:
            at = buffer.offset + offset
            while data:
                number, inside = divmod(at, size)
                block = self._blocks.setdefault(number, bytearray(self.block(number)))
                part = data[: size - inside]
                block[inside : inside + len(part)] = part
                at, data = at + len(part), data[len(part) :]

    def _owner(self, offset: int) -> list[int]:
        """The inode whose directory or extent tree this block is a part of."""
        raw = self.block(offset // self.geo.block)
        if raw[:4] in (b"XDB3", b"XDD3"):
            return [int.from_bytes(raw[40:48], "big")]
        return [int.from_bytes(raw[56:64], "big")] if raw[:4] == b"BMA3" else []

    def _touched(self, event: int, inodes: Iterable[int]) -> None:
        for number in inodes:
            found = self.inode(number)
            if found:
                self._update(event, found)

    def _update(self, event: int, inode: Inode) -> None:
        if inode.mode:
            self.links.lives(event, (0, inode.number), inode.generation)
        self._remap(event, inode)
        if inode.is_dir or inode.number in self._names:
            self._rename(event, inode)

    def _remap(self, event: int, inode: Inode) -> None:
        owner = Owner(inode.number, inode.generation)
        shape = (owner, inode.mode, inode.format, inode.nextents, inode.fork)
        if inode.format != BTREE and self._shapes.get(inode.number) == shape:
            return
        self._shapes[inode.number] = shape
        now = [] if inode.is_dir or inode.is_symlink or not inode.mode else sorted(self.extents(inode))
        former, before = self._held.get(inode.number, (owner, []))
        self._held[inode.number] = (owner, now)
        if former != owner:
            for its in before:
                self.mappings.drop(event, former, its.first, its.blocks)
            before = []
        for its, gone in _difference(before, now):
            if gone:
                self.mappings.drop(event, owner, its.first, its.blocks)
            else:
                self.mappings.hold(event, owner, its.first, its.blocks, its.block, written=its.written)

    def extents(self, inode: Inode) -> Iterator[Extent]:
        """The extents of an inode's data fork."""
        if inode.format == EXTENTS:
            yield from self._extents(inode.fork, inode.nextents)
        elif inode.format == BTREE:
            level, children = tree_roots(inode)
            for _ in range(level - 1):
                children = [each for child in children for each in self._children(child, inode.number)]
            for child in children:
                raw = self._tree_block(child, inode.number)
                if raw:
                    yield from self._extents(raw[_TREE_HEADER:], tree_block(raw)[1])

    def _extents(self, raw: bytes, count: int) -> Iterator[Extent]:
        """From one version of an inode to the next nearly all of its extents are the same."""
        for at in range(0, min(count, len(raw) // EXTENT_BYTES) * EXTENT_BYTES, EXTENT_BYTES):
            packed = raw[at : at + EXTENT_BYTES]
            found = self._unpacked.get(packed)
            if found is None:
                found = self._unpacked[packed] = extent(packed, self.geo)
            if found.first + found.blocks <= self.geo.ag_blocks * self.geo.ag_count:  # else it is damaged
                yield found

    def _tree_block(self, fsblock: int, inode: int) -> bytes:
        raw = self.block(self.geo.byte(fsblock) // self.geo.block)
        return raw if raw[:4] == b"BMA3" and int.from_bytes(raw[56:64], "big") == inode else b""

    def _children(self, fsblock: int, inode: int) -> list[int]:
        raw = self._tree_block(fsblock, inode)
        room = (len(raw) - _TREE_HEADER) // 16
        start = _TREE_HEADER + 8 * room
        count = min(tree_block(raw)[1], room) if raw else 0
        return [int.from_bytes(raw[start + 8 * n : start + 8 * n + 8], "big") for n in range(count)]

    def directory_block(self, inode: int, number: int) -> int:
        """Which block of that directory this block of the device is; -1 if its inode does not say so (yet)."""
        found = self.inode(inode)
        its = self.extents(found) if found and found.is_dir else ()
        return next((e.block + number - e.first for e in its if e.first <= number < e.first + e.blocks), -1)

    def _rename(self, event: int, inode: Inode) -> None:
        now = dict(self._entries(inode)) if inode.is_dir else {}
        before = self._names.get(inode.number, {})
        self._names[inode.number] = now
        for name, number in before.items():
            if now.get(name) != number:
                self.links.unlink(event, (0, number), (0, inode.number), name)
        for name, number in now.items():
            if before.get(name) != number:
                self.links.link(event, (0, number), (0, inode.number), name)

    def _entries(self, inode: Inode) -> Iterator[tuple[str, int]]:
        if inode.format == LOCAL:
            yield from short_entries(inode, self.geo)
            return
        blocks = self.geo.dir_block // self.geo.block
        content: dict[int, bytes] = {}
        for its in self.extents(inode):
            if is_entries(its, self.geo):
                for n in range(its.blocks):
                    content[its.block + n] = self.block(its.first + n)
        for first in sorted(content):
            if first % blocks == 0 and content[first][40:48] == inode.number.to_bytes(8, "big"):
                raw = b"".join(content.get(first + n, b"") for n in range(blocks))
                if raw[:4] in (b"XDB3", b"XDD3") and len(raw) == self.geo.dir_block:
                    yield from block_entries(raw, self.geo)

    def _walk(self) -> None:
        """The names that the volume had before the log."""
        waiting, seen = [self.geo.root], {self.geo.root}
        while waiting:
            found = self.inode(waiting.pop())
            if found is None or not found.is_dir:
                continue
            self._update(BEFORE, found)
            fresh = [number for number in self._names[found.number].values() if number not in seen]
            seen.update(fresh)
            waiting += fresh


def _difference(before: list[Extent], now: list[Extent]) -> Iterator[tuple[Extent, bool]]:
    """What became of the blocks whose mapping changed: (extent, True) for those that are gone, then the new ones."""
    head = next((n for n, (was, is_now) in enumerate(zip(before, now, strict=False)) if was != is_now), None)
    if head is None:
        head = min(len(before), len(now))
    kept = set(before[head:]) & set(now[head:])
    old, new = [e for e in before[head:] if e not in kept], [e for e in now[head:] if e not in kept]
    cuts = sorted({edge for e in (*old, *new) for edge in (e.block, e.block + e.blocks)})
    pieces = [(_part(old, lo, hi), _part(new, lo, hi)) for lo, hi in pairwise(cuts)]
    yield from ((was, True) for was, is_now in pieces if was and was != is_now)
    yield from ((is_now, False) for was, is_now in pieces if is_now and was != is_now)


def _part(among: list[Extent], lo: int, hi: int) -> Extent | None:
    for its in among:
        if its.block <= lo < its.block + its.blocks:
            return Extent(lo, its.first + lo - its.block, hi - lo, its.written)
    return None

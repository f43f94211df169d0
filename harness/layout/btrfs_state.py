"""What a btrfs volume says of its files in the leaves that it writes: names, and which extents are whose."""

from collections.abc import Iterator
from typing import NamedTuple

from harness.layout import btrfs_format as disk
from harness.layout.btrfs_format import FIRST_FREE, FS_TREE, LOG_TREE, Buffer, Header, Item, Stripe, Super
from harness.layout.links import File, Links
from harness.layout.mappings import BEFORE, Mappings, Owner

_OF_FILES = frozenset({disk.INODE_ITEM, disk.INODE_REF, disk.INODE_EXTREF, disk.EXTENT_DATA})
_OF_ROOTS = frozenset({disk.ROOT_ITEM, disk.ROOT_BACKREF, disk.EXTENT_DATA})
_CHUNKS = frozenset({disk.CHUNK_ITEM})
_LEVELS_MAX = 8


class Leaf(NamedTuple):
    """What is told of a leaf: the files that it changes (written in its own generation), and the others in it."""

    changed: tuple[File, ...] = ()
    others: tuple[File, ...] = ()


class _Extent(NamedTuple):
    """One extent of one file: its generation makes it another one when the same place is used again."""

    tree: int
    inode: int
    at: int
    extent: disk.FileExtent


class State:
    """Everything that leaves told, with the events at which they did."""

    def __init__(self, base: Buffer, first: Super) -> None:
        self.links = Links((FS_TREE, FIRST_FREE))
        self.mappings = Mappings()
        self._base, self._super = base, first
        self._stripes: dict[Stripe, None] = dict.fromkeys(disk.system_chunks(first.system_chunks))
        self._names: dict[File, set[tuple[File, str]]] = {}
        self._extents: dict[_Extent, list[int]] = {}
        self._told: dict[tuple[int, Item], list[int]] = {}
        """Of items that leaves repeat, as most do: what `_extents` has for them."""
        self._subvolumes = {FS_TREE}
        self._generation = first.generation
        self._walk_base()

    def stripes(self, physical: int) -> list[Stripe]:
        """The stripes that ever had this byte of the device."""
        return [s for s in self._stripes if s.physical <= physical < s.physical + s.length]

    def is_at(self, logical: int, physical: int) -> Stripe | None:
        """The stripe that has this logical address at this byte of the device."""
        return next((s for s in self.stripes(physical) if physical - s.physical == logical - s.logical), None)

    def take_super(self, event: int, found: Super) -> None:
        """A superblock was written: with a new generation, what was freed before may be used again."""
        if found.generation > self._generation:
            self._generation = found.generation
            self.mappings.commits.append(event)

    def take(self, event: int, raw: bytes) -> Leaf:
        """A tree block was written."""
        head = disk.header(raw)
        if head.level:
            return Leaf()
        if head.owner == disk.CHUNK_TREE:
            self._take_chunks(raw)
        elif head.owner == disk.ROOT_TREE:
            self._take_roots(event, raw)
        elif disk.is_subvolume(head.owner) or head.owner == LOG_TREE:
            return self._take_files(event, raw, head)
        return Leaf()

    def settle(self) -> None:
        """All leaves have been taken: from the first to the last that had an extent, it was its file's."""
        changes = [(span[0], 1, extent) for extent, span in self._extents.items()]
        changes += [(span[1] + 1, 0, extent) for extent, span in self._extents.items()]
        sector = self._super.sector
        for event, begins, (tree, inode, at, extent) in sorted(changes):
            owner = Owner(inode, 0, tree)
            if extent.compressed:
                first, count, block = extent.disk, extent.disk_length, -1
            else:
                first, count, block = extent.disk + extent.shift, extent.length, at // sector
            if not any(s.logical <= first and first + count <= s.logical + s.length for s in self._stripes):
                continue  # striped, or damaged
            units = -(-count // sector)
            if begins:
                self.mappings.hold(event, owner, first // sector, units, block, written=extent.written)
            else:
                self.mappings.drop(event, owner, first // sector, units)

    def _take_chunks(self, raw: bytes) -> None:
        for item in disk.items(raw, _CHUNKS):
            self._stripes |= dict.fromkeys(disk.chunk(item.offset, item.data))

    def _take_roots(self, event: int, raw: bytes) -> None:
        for item in disk.items(raw, _OF_ROOTS):
            if item.kind == disk.EXTENT_DATA:  # of the free space cache, which is a file of the root tree
                self._take_extent(event, disk.ROOT_TREE, item)
            elif item.kind == disk.ROOT_ITEM and disk.is_subvolume(item.objectid):
                self._subvolumes.add(item.objectid)
            elif item.kind == disk.ROOT_BACKREF and (found := disk.backref(item)):
                top = (item.objectid, FIRST_FREE)
                self._rename(event, top, {((item.offset, found[0]), found[1])})

    def _take_files(self, event: int, raw: bytes, head: Header) -> Leaf:
        # The log tree does not say of which subvolume it is: with one there is no doubt.
        tree = head.owner
        if tree == LOG_TREE:
            tree = FS_TREE if len(self._subvolumes) == 1 else LOG_TREE
        files: dict[File, bool] = {}
        names: dict[File, set[tuple[File, str]]] = {}
        for item in disk.items(raw, _OF_FILES):
            file = (tree, item.objectid)
            files.setdefault(file, False)
            if item.kind == disk.INODE_ITEM and len(item.data) >= 16:
                self.links.lives(event, file, int.from_bytes(item.data[:8], "little"))
                files[file] = int.from_bytes(item.data[8:16], "little") == head.generation
            elif item.kind == disk.EXTENT_DATA:
                self._take_extent(event, tree, item)
            else:
                names.setdefault(file, set()).update(((tree, parent), name) for parent, name in disk.names(item))
        for file, its in names.items():
            if file[1] != FIRST_FREE:  # a subvolume's root names itself ".."
                self._rename(event, file, its)
        changed = tuple(file for file, now in files.items() if now)
        return Leaf(changed, tuple(file for file, now in files.items() if not now))

    def _take_extent(self, event: int, tree: int, item: Item) -> None:
        if event == BEFORE:
            return
        span = self._told.get((tree, item))
        if span is None:
            extent = disk.file_extent(item)
            span = [event, event]
            if extent:
                span = self._extents.setdefault(_Extent(tree, item.objectid, item.offset, extent), span)
            self._told[tree, item] = span
        span[1] = event

    def _rename(self, event: int, file: File, now: set[tuple[File, str]]) -> None:
        before = self._names.get(file, set())
        self._names[file] = now
        for parent, name in sorted(before - now):
            self.links.unlink(event, file, parent, name)
        for parent, name in sorted(now - before):
            self.links.link(event, file, parent, name)

    def _walk_base(self) -> None:
        """Chunks, subvolumes and names that the volume had before the log."""
        for raw in self._leaves(self._super.chunk_root):
            self.take(BEFORE, raw)
        roots = list(self._leaves(self._super.root))
        for raw in roots:
            self.take(BEFORE, raw)
        for raw in roots:
            for item in disk.items(raw, frozenset({disk.ROOT_ITEM})):
                if disk.is_subvolume(item.objectid):
                    for leaf in self._leaves(disk.root_of(item)):
                        self.take(BEFORE, leaf)

    def _leaves(self, logical: int, level: int = _LEVELS_MAX) -> Iterator[bytes]:
        stripe = next((s for s in self._stripes if s.logical <= logical < s.logical + s.length), None)
        if stripe is None:
            return
        at = stripe.physical + logical - stripe.logical
        raw = bytes(self._base[at : at + self._super.node])
        if len(raw) < self._super.node or raw[32:48] != self._super.uuid or disk.header(raw).logical != logical:
            return
        below = disk.header(raw).level
        if below == 0:
            yield raw
        elif below < level:
            for child in disk.children(raw):
                yield from self._leaves(child, below)

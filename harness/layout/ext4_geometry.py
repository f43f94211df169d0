"""Where the fixed things of an ext2, ext3 or ext4 volume lie: superblocks, descriptors, bitmaps, inode tables.

Sources: the kernel's Documentation/filesystems/ext4, super.rst, group_descr.rst, blockgroup.rst, special_inodes.rst.
"""

from bisect import bisect_right
from collections.abc import Callable, Container
from struct import Struct, unpack_from
from typing import NamedTuple

from harness.layout.kinds import BlockKind
from harness.layout.naming import Buffer

SUPERBLOCK_AT = 1024
SUPERBLOCK_BYTES = 1024
_MAGIC = 0xEF53
_GROUP = Struct("<IIIHHHH")  # both bitmaps, the table, free blocks, free inodes, directories, flags
_GROUP_HIGH = Struct("<III")
_INODE_UNINIT = 1

_SPARSE_SUPER, _SPARSE_SUPER2 = 0x1, 0x200
_META_BG, _64BIT, _MMP = 0x10, 0x80, 0x100
_HAS_JOURNAL, _FAST_COMMIT = 0x4, 0x400

_JOURNAL_DEVICE = 0x8
# filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, casefold
_INCOMPAT_KNOWN = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x20000
_INCOMPAT_NAMES = {0x1: "compression", 0x8: "journal_dev", 0x1000: "dirdata", 0x10000: "encrypt"}
# Features that only a writer must know, but that change what a block is.
_RO_COMPAT_UNKNOWN = {0x80: "has_snapshot", 0x200: "bigalloc", 0x800: "replica", 0x4000: "shared_blocks"}

BAD_BLOCKS, USER_QUOTA, GROUP_QUOTA, RESIZE, JOURNAL = 1, 3, 4, 7, 8
ROOT = 2


class NotUnderstood(Exception):
    """What this volume has that is not known here, in words. Caught in ext4.py: nothing is named then."""


class Group(NamedTuple):
    """One block group: block numbers, and whether its inodes were ever used."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    unused: bool


class Region(NamedTuple):
    """Blocks whose meaning never changes. `group` is where they lie, or for a table whose inodes they hold."""

    start: int
    length: int
    kind: BlockKind
    group: int
    text: str


class Geometry:
    """A superblock, and all that follows from it."""

    def __init__(self, base: Buffer) -> None:
        """`base` holds the whole volume. Raises NotUnderstood."""
        if len(base) < SUPERBLOCK_AT + SUPERBLOCK_BYTES:
            raise NotUnderstood("the volume is too small for a superblock")
        data = bytes(base[SUPERBLOCK_AT : SUPERBLOCK_AT + SUPERBLOCK_BYTES])
        if _u16(data, 0x38) != _MAGIC:
            raise NotUnderstood("the volume began without an ext2, ext3 or ext4 superblock")
        self._read_features(data)
        self._read_sizes(data)
        if self.blocks * self.block_size > len(base) or not self.blocks_per_group or not self.inodes_per_group:
            raise NotUnderstood("the superblock does not fit the volume")
        self.special = self._read_special(data)
        self.groups = self._read_groups(base)
        self._regions = sorted(self._find_regions(data))
        self._starts = [region.start for region in self._regions]

    def _read_features(self, data: bytes) -> None:
        revision, self.compat, self.incompat, self.ro_compat = (_u32(data, at) for at in (0x4C, 0x5C, 0x60, 0x64))
        if revision == 0:
            self.compat = self.incompat = self.ro_compat = 0
        self.revision = revision
        unknown = self.incompat & ~_INCOMPAT_KNOWN
        names = [_INCOMPAT_NAMES.get(bit, f"incompat {bit:#x}") for bit in _bits(unknown)]
        names += [name for bit, name in _RO_COMPAT_UNKNOWN.items() if self.ro_compat & bit]
        if names:
            raise NotUnderstood(f"the volume has the feature {', '.join(names)}")
        self.has_journal = bool(self.compat & _HAS_JOURNAL)
        self.fast_commit = bool(self.compat & _FAST_COMMIT)
        if self.has_journal and (_u32(data, 0xE4) or not _u32(data, 0xE0)):
            raise NotUnderstood("the volume's journal is on another device")
        self.journal_inode = _u32(data, 0xE0) if self.has_journal else 0

    def _read_sizes(self, data: bytes) -> None:
        self.block_size = 1024 << min(_u32(data, 0x18), 10)
        wide = bool(self.incompat & _64BIT)
        self.blocks = _u32(data, 0x4) + ((_u32(data, 0x150) << 32) if wide else 0)
        self.inodes, self.first_data_block = _u32(data, 0x0), _u32(data, 0x14)
        self.blocks_per_group, self.inodes_per_group = _u32(data, 0x20), _u32(data, 0x28)
        self.inode_size = _u16(data, 0x58) if self.revision else 128
        self.first_inode = _u32(data, 0x54) if self.revision else 11
        self.descriptor_size = max(32, _u16(data, 0xFE)) if wide else 32
        self.reserved_descriptors, self.first_meta_group = _u16(data, 0xCE), _u32(data, 0x104)
        if self.inode_size < 128 or self.block_size % self.inode_size:
            raise NotUnderstood(f"the superblock speaks of inodes of {self.inode_size} bytes")

    def _read_special(self, data: bytes) -> dict[int, str]:
        """What the inodes are called that have no name in any directory."""
        special = {BAD_BLOCKS: "list of bad blocks", RESIZE: "resize inode", 5: "boot loader", 6: "undelete directory"}
        special |= {
            USER_QUOTA: "user quota",
            GROUP_QUOTA: "group quota",
            JOURNAL: "journal",
            9: "exclude",
            10: "replica",
        }
        for at, what in (
            (0x240, "user quota"),
            (0x244, "group quota"),
            (0x26C, "project quota"),
            (0x280, "orphan file"),
        ):
            if number := _u32(data, at):
                special[number] = what
        if self.journal_inode:
            special[self.journal_inode] = "journal"
        return special

    def _read_groups(self, base: Buffer) -> list[Group]:
        count = -(-(self.blocks - self.first_data_block) // self.blocks_per_group)
        per_block = self.block_size // self.descriptor_size
        found = []
        for number in range(count):
            at = self._descriptor_block(number // per_block) * self.block_size
            at += number % per_block * self.descriptor_size
            raw = bytes(base[at : at + self.descriptor_size])
            if len(raw) < 32:
                raise NotUnderstood("a group descriptor lies beyond the volume")
            blocks, inodes, table, *_, flags = _GROUP.unpack_from(raw)
            high = _GROUP_HIGH.unpack_from(raw, 0x20) if len(raw) >= 64 else (0, 0, 0)
            places = [low + (up << 32) for low, up in zip((blocks, inodes, table), high, strict=True)]
            # Without checksums nobody keeps the flag.
            unused = bool(flags & _INODE_UNINIT) and bool(self.ro_compat & 0x410)
            found.append(Group(places[0], places[1], places[2], unused))
        return found

    def _descriptor_block(self, index: int) -> int:
        """Where block `index` of the group descriptors lies, the first copy."""
        if not self.incompat & _META_BG or index < self.first_meta_group:
            return self.first_data_block + 1 + index
        group = index * (self.block_size // self.descriptor_size)
        return self._first_of(group) + self._has_super(group)

    def _first_of(self, group: int) -> int:
        return self.first_data_block + group * self.blocks_per_group

    def _has_super(self, group: int) -> bool:
        if self.compat & _SPARSE_SUPER2:
            return group == 0 or group in self.backups
        if group <= 1 or not self.ro_compat & _SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))

    @property
    def backups(self) -> tuple[int, ...]:
        return self._backups

    def _find_regions(self, data: bytes) -> list[Region]:
        self._backups = (_u32(data, 0x24C), _u32(data, 0x250))
        table = -(-self.inodes_per_group * self.inode_size // self.block_size)
        regions = []
        if self.first_data_block:
            regions.append(Region(0, self.first_data_block, BlockKind.METADATA, 0, "boot block"))
        if self.incompat & _MMP and (at := unpack_from("<Q", data, 0x168)[0]):
            regions.append(Region(at, 1, BlockKind.METADATA, 0, "multiple mount protection block"))
        for number, group in enumerate(self.groups):
            regions += self._head_of(number)
            for at, length, kind, text in (
                (group.block_bitmap, 1, BlockKind.BLOCK_BITMAP, f"block bitmap of group {number}"),
                (group.inode_bitmap, 1, BlockKind.INODE_BITMAP, f"inode bitmap of group {number}"),
                (group.inode_table, table, BlockKind.INODE_TABLE, f"inode table of group {number}"),
            ):
                regions.append(Region(at, length, kind, number, text))
        return regions

    def _head_of(self, group: int) -> list[Region]:
        """Superblock and group descriptors, as far as this group has a copy of them."""
        at, found = self._first_of(group), []
        backup = f", backup in group {group}" if group else ""
        if self._has_super(group):
            found.append(Region(at, 1, BlockKind.SUPERBLOCK, group, f"superblock{backup}"))
            at += 1
        per_block = self.block_size // self.descriptor_size
        meta = bool(self.incompat & _META_BG)
        if meta and group >= self.first_meta_group * per_block:
            if group % per_block in (0, 1, per_block - 1):
                first = group - group % per_block
                text = f"group descriptors from group {first} on{backup if group != first else ''}"
                found.append(Region(at, 1, BlockKind.GROUP_DESCRIPTOR, group, text))
        elif self._has_super(group):
            count = self.first_meta_group if meta else -(-len(self.groups) // per_block)
            found.append(Region(at, count, BlockKind.GROUP_DESCRIPTOR, group, f"group descriptors{backup}"))
            if self.reserved_descriptors and not meta:
                text = f"reserved group descriptors{backup}"
                found.append(Region(at + count, self.reserved_descriptors, BlockKind.GROUP_DESCRIPTOR, group, text))
        return [region for region in found if region.length]

    def region(self, block: int) -> Region | None:
        """The fixed thing that `block` is, if it is one."""
        at = bisect_right(self._starts, block) - 1
        if at < 0:
            return None
        region = self._regions[at]
        return region if block < region.start + region.length else None

    def tables_in(self, first: int, stop: int) -> list[int]:
        """The blocks of inode tables in [first, stop)."""
        at = max(0, bisect_right(self._starts, first) - 1)
        found: list[int] = []
        while at < len(self._regions) and self._starts[at] < stop:
            region = self._regions[at]
            if region.kind is BlockKind.INODE_TABLE:
                found += range(max(first, region.start), min(stop, region.start + region.length))
            at += 1
        return found

    def first_inode_in(self, block: int) -> int:
        """Number of the first inode in that block of an inode table; 0 where the block is something else."""
        region = self.region(block)
        if region is None or region.kind is not BlockKind.INODE_TABLE:
            return 0
        per_block = self.block_size // self.inode_size
        return region.group * self.inodes_per_group + (block - region.start) * per_block + 1

    def place_of(self, inode: int) -> tuple[int, int]:
        """(block, byte in it) where the inode lies."""
        group, index = divmod(inode - 1, self.inodes_per_group)
        block, rest = divmod(index * self.inode_size, self.block_size)
        return self.groups[group].inode_table + block, rest

    def used_inodes(self, read: Callable[[int], bytes], newer: Container[int]) -> list[int]:
        """The inodes that the bitmaps call used. `newer`: blocks that the journal has a newer copy of, so that what
        the descriptors say of their group is old.
        """
        found = []
        for number, group in enumerate(self.groups):
            if group.unused and group.inode_bitmap not in newer:
                continue
            bitmap = read(group.inode_bitmap)[: -(-self.inodes_per_group // 8)]
            first = number * self.inodes_per_group + 1
            for byte, bits in enumerate(bitmap):
                if bits:
                    found += [first + byte * 8 + bit for bit in range(8) if bits >> bit & 1]
        return [inode for inode in found if inode <= self.inodes]


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _bits(word: int) -> list[int]:
    return [1 << bit for bit in range(32) if word >> bit & 1]


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1

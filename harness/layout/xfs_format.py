"""The on-disk structures of xfs, version 5, as far as names of blocks need them. Integers are big-endian.

Source: "XFS Algorithms & Data Structures" (the on-disk format document of xfs-documentation), and the layouts that
Linux fs/xfs/libxfs/xfs_format.h and xfs_da_format.h fix. Bytes in, records out.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

Buffer = bytes | bytearray | mmap.mmap | memoryview

SECTOR = 512
"""The unit of disk addresses (daddr), whatever the device's sectors are."""

SB_MAGIC = b"XFSB"
_FTYPE = 1 << 0
_META_UUID = 1 << 2
_NREXT64 = 1 << 4
_DIR_DATA_END = 32 << 30
"""Byte offset within a directory at which its index begins."""

_S_IFMT, _S_IFDIR, _S_IFLNK = 0o170000, 0o040000, 0o120000
LOCAL, EXTENTS, BTREE = 1, 2, 3
CORE_BYTES = 176
EXTENT_BYTES = 16


class Geometry(NamedTuple):
    """What the superblock says of the volume. Sizes in bytes unless they are said to be blocks."""

    block: int
    ag_blocks: int
    ag_count: int
    ag_shift: int
    sector: int
    inode: int
    log_start: int
    log_size: int
    log_header: int
    root: int
    dir_block: int
    ftype: bool
    uuid: bytes
    """That metadata blocks carry."""

    @property
    def per_block_shift(self) -> int:
        """Inodes in a block, as a power of two."""
        return (self.block // self.inode).bit_length() - 1

    def byte(self, fsblock: int) -> int:
        """The device's byte at which a file system block begins."""
        ag, block = fsblock >> self.ag_shift, fsblock & ((1 << self.ag_shift) - 1)
        return (ag * self.ag_blocks + block) * self.block

    def inode_at(self, inode: int) -> int:
        """The device's byte at which an inode lies."""
        slot = inode & ((1 << self.per_block_shift) - 1)
        return self.byte(inode >> self.per_block_shift) + slot * self.inode

    def first_inode(self, offset: int) -> int:
        """The number that the inode at the start of this device block would have."""
        ag, block = divmod(offset // self.block, self.ag_blocks)
        return ((ag << self.ag_shift) + block) << self.per_block_shift


class Extent(NamedTuple):
    """Blocks of a file. `first` is a block of the device, counted from its start."""

    block: int
    first: int
    blocks: int
    written: bool


class Inode(NamedTuple):
    """One version of an inode. `fork` is its data fork as bytes; `logged`: in the form that the log has it."""

    number: int
    mode: int
    generation: int
    nlink: int
    size: int
    format: int
    nextents: int
    lsn: int
    fork: bytes
    logged: bool = False

    @property
    def is_dir(self) -> bool:
        return self.mode & _S_IFMT == _S_IFDIR

    @property
    def is_symlink(self) -> bool:
        return self.mode & _S_IFMT == _S_IFLNK


def geometry(base: Buffer, size: int) -> Geometry | None:
    """Of a version 5 volume of `size` bytes; None for an older one, for a larger one, and for what is no xfs."""
    raw = bytes(base[:264])
    if len(raw) < 264 or raw[:4] != SB_MAGIC or _u16(raw, 100) & 0xF != 5:
        return None
    block, (start, root) = _u32(raw, 4), struct.unpack_from(">QQ", raw, 48)
    if block * int.from_bytes(raw[8:16], "big") > size:
        return None
    incompat = _u32(raw, 216)
    shift, ag_blocks = raw[124], _u32(raw, 84)
    empty = Geometry(
        block=block,
        ag_blocks=ag_blocks,
        ag_count=_u32(raw, 88),
        ag_shift=shift,
        sector=_u16(raw, 102),
        inode=_u16(raw, 104),
        log_start=0,
        log_size=_u32(raw, 96) * block,
        log_header=SECTOR,
        root=root,
        dir_block=block << raw[192],
        ftype=bool(incompat & _FTYPE),
        uuid=raw[248:264] if incompat & _META_UUID else raw[32:48],
    )
    return empty._replace(log_start=empty.byte(start)) if start else empty._replace(log_size=0)


def inode_core(raw: bytes, order: str, at: int = 0) -> Inode | None:
    """An inode's fixed part, big-endian (">") on disk and in the machine's order ("<") in the log; None: it is none."""
    magic, mode, version, form = struct.unpack_from(order + "HHBB", raw, at)
    if magic != 0x494E or version != 3:
        return None
    flags2, number = (
        struct.unpack_from(order + "Q", raw, at + 120)[0],
        struct.unpack_from(order + "Q", raw, at + 152)[0],
    )
    wide = flags2 & _NREXT64
    (nextents,) = struct.unpack_from(order + ("Q" if wide else "I"), raw, at + (24 if wide else 76))
    (nlink,) = struct.unpack_from(order + "I", raw, at + 16)
    (size,) = struct.unpack_from(order + "Q", raw, at + 56)
    (generation,) = struct.unpack_from(order + "I", raw, at + 92)
    (lsn,) = struct.unpack_from(order + "Q", raw, at + 112)
    return Inode(number, mode, generation, nlink, size, form, nextents, lsn, b"")


def inode_on_disk(raw: bytes, at: int, geo: Geometry) -> Inode | None:
    """The inode at byte `at` of `raw`; None if none of this volume is there."""
    core = inode_core(raw, ">", at)
    if core is None or raw[at + 160 : at + 176] != geo.uuid:
        return None
    end = at + CORE_BYTES + raw[at + 82] * 8 if raw[at + 82] else at + geo.inode
    return core._replace(fork=raw[at + CORE_BYTES : end])


def extent(raw: bytes, geo: Geometry) -> Extent:
    """A packed extent record: 1 bit unwritten, 54 file block, 52 device block, 21 count."""
    high, low = struct.unpack(">QQ", raw)
    start = (high & 0x1FF) << 43 | low >> 21
    block, length = (high >> 9) & ((1 << 54) - 1), low & ((1 << 21) - 1)
    return Extent(block, geo.byte(start) // geo.block, length, not high >> 63)


def tree_roots(inode: Inode) -> tuple[int, list[int]]:
    """Level and children (file system blocks) of a data fork's btree root. The log has it in its form in memory."""
    fork = inode.fork
    if inode.logged:  # a long btree header of 72 bytes, keys and pointers for as many as fit
        level, number, header = _u16(fork, 4), _u16(fork, 6), 72
    else:
        level, number, header = _u16(fork, 0), _u16(fork, 2), 4
    room = (len(fork) - header) // 16
    if number > room:
        return level, []
    return level, list(struct.unpack_from(f">{number}Q", fork, header + room * 8))


def tree_block(raw: bytes) -> tuple[int, int]:
    """Level and number of records of a BMA3 block, whose records begin at byte 72."""
    return _u16(raw, 4), _u16(raw, 6)


def short_entries(inode: Inode, geo: Geometry) -> Iterator[tuple[str, int]]:
    """Names and inodes of a directory that lies within its inode."""
    raw = inode.fork
    if len(raw) < 6:
        return
    count, wide = raw[0], 8 if raw[1] else 4
    at = 2 + wide
    for _ in range(count):
        end = at + 3 + raw[at] if at < len(raw) else len(raw)
        tail = end + geo.ftype
        if tail + wide > len(raw):
            return
        yield _name(raw[at + 3 : end]), int.from_bytes(raw[tail : tail + wide], "big")
        at = tail + wide


def block_entries(raw: bytes, geo: Geometry) -> Iterator[tuple[str, int]]:
    """Names and inodes of one directory block, XDB3 or XDD3."""
    end = len(raw)
    if raw[:4] == b"XDB3":  # its index stands at its end: count, stale entries
        end -= 8 + _u32(raw, end - 8) * 8
    at = 64
    while at + 16 <= end:
        if raw[at : at + 2] == b"\xff\xff":
            length = _u16(raw, at + 2)
        else:
            size = raw[at + 8]
            name = raw[at + 9 : at + 9 + size]
            if name not in (b".", b".."):
                yield _name(name), int.from_bytes(raw[at : at + 8], "big")
            length = -(-(11 + size + geo.ftype) // 8) * 8
        if length < 8:
            return
        at += length


def is_entries(extent: Extent, geo: Geometry) -> bool:
    """Whether these blocks of a directory hold names, and not its index."""
    return extent.block * geo.block < _DIR_DATA_END


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _u16(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "big")


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "big")

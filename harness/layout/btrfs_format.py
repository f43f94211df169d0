"""The on-disk structures of btrfs, as far as names of blocks need them. Integers are little-endian.

Source: btrfs.readthedocs.io, "On-disk Format", and the layouts that Linux include/uapi/linux/btrfs_tree.h fixes. Bytes
in, records out.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

Buffer = bytes | bytearray | mmap.mmap | memoryview

SUPERBLOCKS = (64 << 10, 64 << 20, 256 << 30)
"""Where the copies of the superblock lie, on a device that is large enough."""

SUPER_BYTES = 4096
_MAGIC = b"_BHRfS_M"
_METADATA_UUID = 1 << 10
_SYSTEM_CHUNKS_AT = 811
_HEADER = 101
_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")
_KEY = struct.Struct("<QBQ")
_EXTENT = struct.Struct("<QQBBHBQQQQ")

ROOT_TREE, CHUNK_TREE, FS_TREE = 1, 3, 5
FIRST_FREE = 256
"""Number of the first subvolume, and of the root directory in each."""
LOG_TREE = (1 << 64) - 6
_LAST_FREE = (1 << 64) - 256

INODE_ITEM, INODE_REF, INODE_EXTREF, EXTENT_DATA = 1, 12, 13, 108
ROOT_ITEM, ROOT_BACKREF, CHUNK_ITEM = 132, 144, 228

_TREES = {
    1: "root tree",
    2: "extent tree",
    3: "chunk tree",
    4: "device tree",
    5: "fs tree",
    7: "checksum tree",
    8: "quota tree",
    9: "UUID tree",
    10: "free space tree",
    11: "block group tree",
    12: "raid stripe tree",
    LOG_TREE: "log tree",
    (1 << 64) - 8: "relocation tree",
    (1 << 64) - 9: "data relocation tree",
}
# Profiles whose every stripe is a whole copy: RAID1, DUP, RAID1C3, RAID1C4. Without any of them there is one stripe.
_COPIES = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 10
_PROFILES = 0x7F8


class Super(NamedTuple):
    """A superblock. `uuid` is what tree blocks carry."""

    uuid: bytes
    generation: int
    root: int
    chunk_root: int
    log_root: int
    sector: int
    node: int
    size: int
    system_chunks: bytes


class Stripe(NamedTuple):
    """`length` bytes at `physical` of the device hold what is at `logical`. `copy` counts from 0 of `copies`."""

    physical: int
    length: int
    logical: int
    copy: int
    copies: int


class Header(NamedTuple):
    """What a tree block says of itself. `logical`: its own address."""

    logical: int
    generation: int
    owner: int
    items: int
    level: int


class Item(NamedTuple):
    """An item of a leaf: its key (`objectid`, `kind`, `offset`) and its data."""

    objectid: int
    kind: int
    offset: int
    data: bytes


class FileExtent(NamedTuple):
    """An extent of a file, not inline. `disk`, `disk_length`: logical. `shift`, `length`: the part that is used."""

    generation: int
    compressed: bool
    written: bool
    disk: int
    disk_length: int
    shift: int
    length: int


def superblock(raw: bytes) -> Super | None:
    """Of the first bytes of a copy; None for what is none."""
    if len(raw) < SUPER_BYTES or raw[64:72] != _MAGIC:
        return None
    generation, root, chunk_root, log_root = struct.unpack_from("<QQQQ", raw, 72)
    sector, node = struct.unpack_from("<II", raw, 144)
    (size,) = struct.unpack_from("<Q", raw, 112)
    (length,) = struct.unpack_from("<I", raw, 160)
    (incompat,) = struct.unpack_from("<Q", raw, 188)
    uuid = raw[571:587] if incompat & _METADATA_UUID else raw[32:48]
    system = raw[_SYSTEM_CHUNKS_AT : _SYSTEM_CHUNKS_AT + length]
    return Super(uuid, generation, root, chunk_root, log_root, sector, node, size, system)


def system_chunks(raw: bytes) -> Iterator[Stripe]:
    """The chunks that a superblock carries itself: key, chunk, key, chunk, …"""
    at = 0
    while at + _KEY.size + 48 <= len(raw):
        _, _, logical = _KEY.unpack_from(raw, at)
        at += _KEY.size
        yield from chunk(logical, raw[at:])
        at += 48 + 32 * struct.unpack_from("<H", raw, at + 44)[0]


def chunk(logical: int, raw: bytes) -> list[Stripe]:
    """The stripes of a chunk item, if each of them is a whole copy; of striped profiles nothing."""
    (length,), (kind,) = struct.unpack_from("<Q", raw), struct.unpack_from("<Q", raw, 24)
    (copies,) = struct.unpack_from("<H", raw, 44)
    if kind & _PROFILES & ~_COPIES or len(raw) < 48 + 32 * copies:
        return []
    places = [struct.unpack_from("<Q", raw, 48 + 32 * n + 8)[0] for n in range(copies)]
    return [Stripe(place, length, logical, n, copies) for n, place in enumerate(places)]


def header(raw: bytes, at: int = 0) -> Header:
    """The header of the tree block at byte `at`; whether it is one, the caller has to see."""
    (logical,) = struct.unpack_from("<Q", raw, at + 48)
    return Header(logical, *struct.unpack_from("<QQIB", raw, at + 80))


def items(raw: bytes, wanted: frozenset[int]) -> Iterator[Item]:
    """Items of these kinds in a leaf, in order of their keys."""
    count = min(header(raw).items, (len(raw) - _HEADER) // _ITEM.size)
    for objectid, kind, offset, start, size in _ITEM.iter_unpack(raw[_HEADER : _HEADER + count * _ITEM.size]):
        if kind in wanted:
            yield Item(objectid, kind, offset, raw[_HEADER + start : _HEADER + start + size])


def children(raw: bytes) -> list[int]:
    """Logical addresses below a node."""
    count = min(header(raw).items, (len(raw) - _HEADER) // _POINTER.size)
    return [each[3] for each in _POINTER.iter_unpack(raw[_HEADER : _HEADER + count * _POINTER.size])]


def names(item: Item) -> Iterator[tuple[int, str]]:
    """(parent inode, name) of an INODE_REF, whose key has the parent, or an INODE_EXTREF, whose entries have it."""
    at, extended = 0, item.kind == INODE_EXTREF
    while at + (18 if extended else 10) <= len(item.data):
        parent = struct.unpack_from("<Q", item.data, at)[0] if extended else item.offset
        at += 8 if extended else 0
        (length,) = struct.unpack_from("<H", item.data, at + 8)
        yield parent, _name(item.data[at + 10 : at + 10 + length])
        at += 10 + length


def backref(item: Item) -> tuple[int, str] | None:
    """(directory, name) of a subvolume, from its ROOT_BACKREF."""
    if len(item.data) < 18:
        return None
    directory, _, length = struct.unpack_from("<QQH", item.data)
    return directory, _name(item.data[18 : 18 + length])


def root_of(item: Item) -> int:
    """Where the tree of a ROOT_ITEM has its root: a logical address."""
    return int.from_bytes(item.data[176:184], "little")


def file_extent(item: Item) -> FileExtent | None:
    """None for an inline extent, which lies in its leaf, and for a hole."""
    if len(item.data) < _EXTENT.size:
        return None
    generation, _, compression, _, _, kind, disk, disk_length, shift, length = _EXTENT.unpack_from(item.data)
    if kind not in (1, 2) or not disk:
        return None
    return FileExtent(generation, bool(compression), kind == 1, disk, disk_length, shift, length)


def is_subvolume(tree: int) -> bool:
    return tree == FS_TREE or FIRST_FREE <= tree < _LAST_FREE


def tree_name(tree: int) -> str:
    return _TREES.get(tree) or (f"subvolume {tree}" if is_subvolume(tree) else f"tree {tree}")


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")

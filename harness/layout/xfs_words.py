"""What a block of xfs metadata is called. Source: "XFS Algorithms & Data Structures", the magic numbers."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from harness.layout.kinds import BlockKind
from harness.layout.xfs_format import SECTOR, Geometry

AG_SECTORS = 4
"""Superblock, AGF, AGI and AGFL stand in the first sectors of each allocation group."""

DIRECTORY_BLOCK = "directory block"
"""One that holds names."""

_LISTED_MAX = 6


class Metadata(NamedTuple):
    """`owner`: the inode that it belongs to, or 0."""

    kind: BlockKind
    text: str
    owner: int = 0


class _Layout(NamedTuple):
    """Where a kind of block has its own address (in sectors), the volume's UUID, its owner (0: none) and its width."""

    address: int
    uuid: int
    owner: int


_SHORT, _LONG, _DIR, _DA, _REMOTE = (
    _Layout(16, 32, 0),
    _Layout(24, 40, 56),
    _Layout(8, 24, 40),
    _Layout(16, 32, 48),
    _Layout(40, 16, 32),
)
_KINDS: dict[bytes, tuple[_Layout, BlockKind, str]] = {
    b"AB3B": (_SHORT, BlockKind.METADATA, "free space btree by block"),
    b"AB3C": (_SHORT, BlockKind.METADATA, "free space btree by size"),
    b"IAB3": (_SHORT, BlockKind.METADATA, "inode btree"),
    b"FIB3": (_SHORT, BlockKind.METADATA, "free inode btree"),
    b"RMB3": (_SHORT, BlockKind.METADATA, "reverse map btree"),
    b"R3FC": (_SHORT, BlockKind.METADATA, "reference count btree"),
    b"BMA3": (_LONG, BlockKind.EXTENT_TREE, "extent btree block"),
    b"XDB3": (_DIR, BlockKind.DIRECTORY, DIRECTORY_BLOCK),
    b"XDD3": (_DIR, BlockKind.DIRECTORY, DIRECTORY_BLOCK),
    b"XDF3": (_DIR, BlockKind.DIRECTORY, "directory free space index"),
    b"XARM": (_REMOTE, BlockKind.XATTR, "extended attribute value"),
    b"XSLM": (_REMOTE, BlockKind.SYMLINK, "symbolic link target"),
}
_DA_KINDS: dict[bytes, tuple[_Layout, BlockKind, str]] = {
    b"\x3d\xf1": (_DA, BlockKind.DIRECTORY, "directory index leaf"),
    b"\x3d\xff": (_DA, BlockKind.DIRECTORY, "directory index leaf"),
    b"\x3e\xbe": (_DA, BlockKind.METADATA, "directory or attribute index node"),
    b"\x3b\xee": (_DA, BlockKind.XATTR, "extended attribute leaf"),
}


def metadata(geo: Geometry, offset: int, raw: bytes) -> Metadata | None:
    """What the block at this device byte says it is; None where it does not carry its own address and our UUID."""
    known = _KINDS.get(raw[:4]) or _DA_KINDS.get(raw[8:10])
    if known is None:
        return None
    layout, kind, text = known
    if raw[layout.uuid : layout.uuid + 16] != geo.uuid or _u64(raw, layout.address) * SECTOR != offset:
        return None
    if layout is _SHORT:
        return Metadata(kind, f"{text} of AG {offset // (geo.ag_blocks * geo.block)}")
    return Metadata(kind, text, _u64(raw, layout.owner))


def ag_header(geo: Geometry, offset: int) -> Metadata:
    """One of the first sectors of an allocation group, at this byte of the device."""
    ag, within = divmod(offset, geo.ag_blocks * geo.block)
    sector = within // geo.sector
    if sector == 0:
        which = "superblock" if ag == 0 else f"superblock copy of AG {ag}"
        return Metadata(BlockKind.SUPERBLOCK, which)
    name = ("AGF (free space)", "AGI (inodes)", "AGFL (free list)")[sector - 1]
    return Metadata(BlockKind.METADATA, f"{name} of AG {ag}")


def listed(words: Sequence[str]) -> str:
    """`a, b, c and 4 more`."""
    if len(words) <= _LISTED_MAX:
        return ", ".join(words)
    return f"{', '.join(words[:_LISTED_MAX])} and {len(words) - _LISTED_MAX} more"


def _u64(raw: bytes, at: int) -> int:
    value: int = struct.unpack_from(">Q", raw, at)[0]
    return value

"""Where the journal of a file system lies on its device.

Sources: Documentation/filesystems/ext4/super.rst (s_jnl_backup_type, s_jnl_blocks), ifork.rst (extent tree);
fs/xfs/libxfs/xfs_format.h (struct xfs_dsb).
"""

import itertools
import re
import struct

from harness.extents import Extent
from harness.machine import process
from harness.machine.image import Image

_BLOCK = 4096

_EXT_SUPERBLOCK_AT = 1024
_EXT_COMPAT_AT = _EXT_SUPERBLOCK_AT + 0x5C
_EXT_HAS_JOURNAL = 4
# The superblock keeps a copy of the i_block of the journal's inode: what kind of copy it is, and the copy.
_EXT_COPY_AT = _EXT_SUPERBLOCK_AT + 0xFD
_EXT_I_BLOCK_AT = _EXT_SUPERBLOCK_AT + 0x10C
_EXTENT_HEADER = struct.Struct("<HHHHI")  # magic, entries, max, depth, generation
_EXTENT = struct.Struct("<IHHI")  # first block in the file, length, first block on disk: high half, low half
_EXTENT_MAGIC = 0xF30A

_XFS_BLOCK_SIZE, _XFS_LOG_START, _XFS_AG_BLOCKS, _XFS_LOG_BLOCKS = (">I", 4), (">Q", 48), (">I", 84), (">I", 96)
_XFS_AG_BLOCKS_LOG = (">B", 124)


def journal_of(fs: str, image: Image) -> tuple[Extent, ...]:
    """The journal of a file system that lies on `image` at rest, in bytes, in the journal's own order.

    Of ext3 and ext4 the file of inode 8, whose first block is the journal's superblock; of xfs the internal log. Empty
    where there is none. Raises RequirementMissing where debugfs must be asked, and is not there.
    """
    if fs == "xfs":
        return _xfs_log(image)
    if fs in ("ext2", "ext3", "ext4") and _number(image, "<I", _EXT_COMPAT_AT) & _EXT_HAS_JOURNAL:
        return _ext_copy(image) or _ext_asked(image)
    return ()


def _ext_copy(image: Image) -> tuple[Extent, ...]:
    """By the superblock; empty where that has no list of extents: a journal with a deep tree, or one of ext3."""
    magic, count, _, depth, _ = _EXTENT_HEADER.unpack(image.read(_EXT_I_BLOCK_AT, _EXTENT_HEADER.size))
    if image.read(_EXT_COPY_AT, 1) != b"\1" or magic != _EXTENT_MAGIC or depth:
        return ()
    found = []
    for number in range(count):
        at = _EXT_I_BLOCK_AT + _EXTENT_HEADER.size + number * _EXTENT.size
        _, length, high, low = _EXTENT.unpack(image.read(at, _EXTENT.size))
        found.append((((high << 32) + low) * _BLOCK, length * _BLOCK))
    return tuple(found)


def _ext_asked(image: Image) -> tuple[Extent, ...]:
    said = process.run(["debugfs", "-R", "blocks <8>", image.path]).output.decode(errors="replace")
    blocks = [int(word) for word in re.findall(r"\d+", said.partition("\n")[2])]  # the first line names the version
    runs = itertools.groupby(enumerate(blocks), lambda pair: pair[1] - pair[0])
    found = [[block for _, block in run] for _, run in runs]
    return tuple((run[0] * _BLOCK, len(run) * _BLOCK) for run in found)


def _xfs_log(image: Image) -> tuple[Extent, ...]:
    """A block number of xfs has its allocation group in the upper bits (XFS_FSB_TO_AGNO). 0: the log is elsewhere."""
    block, start = _number(image, *_XFS_BLOCK_SIZE), _number(image, *_XFS_LOG_START)
    if not start:
        return ()
    bits = _number(image, *_XFS_AG_BLOCKS_LOG)
    at = (start >> bits) * _number(image, *_XFS_AG_BLOCKS) + (start & ((1 << bits) - 1))
    return ((at * block, _number(image, *_XFS_LOG_BLOCKS) * block),)


def _number(image: Image, kind: str, at: int) -> int:
    return int(struct.unpack(kind, image.read(at, struct.calcsize(kind)))[0])

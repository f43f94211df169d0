"""Where on the device a place of an address lies, in bytes.

Sources: Documentation/filesystems/ext4/ (superblock at byte 1024, journal in inode 8), fs/xfs/libxfs/xfs_format.h
(struct xfs_dsb), fs/btrfs/volumes.h (btrfs_sb_offset).
"""

import os
import re
import struct

from harness.errors import Missing, Misuse
from harness.extents import Extent, merge
from harness.faults.address import File, Journal, Place, Range, Superblock
from harness.faults.target import Target
from harness.machine import process
from harness.machine.fiemap import file_extents
from harness.machine.image import Image
from harness.volume.disks import ServedDisk
from harness.volume.spec import VolumeSpec

_EXT = ("ext2", "ext3", "ext4")
_EXT_SUPERBLOCK = (1024, 1024)
_EXT_HAS_JOURNAL = 4
_EXT_COMPAT_AT = 1024 + 0x5C
_BTRFS_SUPERBLOCK = (64 << 10, 4096)
_XFS_BLOCK_SIZE, _XFS_LOG_START, _XFS_AG_BLOCKS, _XFS_LOG_BLOCKS = (">I", 4), (">Q", 48), (">I", 84), (">I", 96)
_XFS_AG_BLOCKS_LOG = (">B", 124)
_BLOCK = 4096

_journals: dict[bytes, tuple[Extent, ...]] = {}
"""By the first block of the file system, which has its UUID: asking costs a program run."""


def missing_place(place: Place | None, target: Target) -> Missing | None:
    """Why this volume has no such place; None if it has."""
    fs = target.spec.file_system
    if isinstance(place, Journal) and not _has_journal(target):
        return Missing(
            f"a journal of {fs.name}", f"{place} is where the fault strikes", "use ext4 or xfs with a journal"
        )
    if isinstance(place, File) and fs.fs_type == "btrfs":
        why = "a file's next write goes to blocks that it does not have yet, and FIEMAP tells no place on the device"
        return Missing("files of btrfs that stay where they are", why, "address the fault by count: write:3")
    return None


def extents_of(place: Place | None, target: Target) -> tuple[Extent, ...]:
    """Where it is; empty for None, which is everywhere. Raises Misuse for a file that is not there or has no blocks."""
    if place is None:
        return ()
    if isinstance(place, Range):
        return ((place.offset, place.length),)
    if isinstance(place, File):
        return _file(place, target)
    return (_superblock(target.spec),) if isinstance(place, Superblock) else _journal(target)


def _file(place: File, target: Target) -> tuple[Extent, ...]:
    try:
        fd = os.open(os.path.join(target.mount, place.path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Misuse(
            f"a fault in {place.path}, which is not on the volume: {error.strerror}", "make it first"
        ) from error
    try:
        found = file_extents(fd)
    finally:
        os.close(fd)
    placed = [(extent.physical, extent.length) for extent in found if extent.placed]
    if not placed:
        raise Misuse(f"{place.path} has no blocks of its own to fail", "write to it first, or reserve it (fallocate)")
    return tuple(merge(placed, _BLOCK, target.spec.size))


def _superblock(spec: VolumeSpec) -> Extent:
    if spec.fs in _EXT:
        return _EXT_SUPERBLOCK
    return _BTRFS_SUPERBLOCK if spec.fs == "btrfs" else (0, spec.sector_size)


def _has_journal(target: Target) -> bool:
    if target.spec.fs not in _EXT:
        return target.spec.fs == "xfs" and _xfs(_image(target), *_XFS_LOG_START) != 0
    (features,) = struct.unpack("<I", _image(target).read(_EXT_COMPAT_AT, 4))
    return bool(features & _EXT_HAS_JOURNAL)


def _journal(target: Target) -> tuple[Extent, ...]:
    image = _image(target)
    key = image.read(0, _BLOCK)
    if key not in _journals:
        _journals[key] = _xfs_log(image) if target.spec.fs == "xfs" else _ext_journal(image)
    return _journals[key]


def _ext_journal(image: Image) -> tuple[Extent, ...]:
    said = process.run(["debugfs", "-R", "blocks <8>", image.path]).output.decode(errors="replace")
    blocks = re.findall(r"\d+", said.partition("\n")[2])  # the first line names the version
    return tuple(merge(((int(block) * _BLOCK, _BLOCK) for block in blocks), _BLOCK, image.size))


def _xfs_log(image: Image) -> tuple[Extent, ...]:
    """A block number of xfs has its allocation group in the upper bits (XFS_FSB_TO_AGNO)."""
    block, start = _xfs(image, *_XFS_BLOCK_SIZE), _xfs(image, *_XFS_LOG_START)
    bits = _xfs(image, *_XFS_AG_BLOCKS_LOG)
    at = (start >> bits) * _xfs(image, *_XFS_AG_BLOCKS) + (start & ((1 << bits) - 1))
    return ((at * block, _xfs(image, *_XFS_LOG_BLOCKS) * block),)


def _xfs(image: Image, kind: str, at: int) -> int:
    return int(struct.unpack(kind, image.read(at, struct.calcsize(kind)))[0])


def _image(target: Target) -> Image:
    return target.disk.base if isinstance(target.disk, ServedDisk) else target.disk.image

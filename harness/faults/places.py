"""Where on the device a place of an address lies, in bytes.

Sources: Documentation/filesystems/ext4/ (superblock at byte 1024), fs/btrfs/volumes.h (btrfs_sb_offset).
"""

import os

from harness.errors import Missing, Misuse
from harness.extents import Extent, merge
from harness.faults.address import File, Journal, Place, Range, Superblock
from harness.faults.target import Target
from harness.machine.fiemap import file_extents
from harness.machine.journals import journal_of
from harness.volume.disks import ServedDisk
from harness.volume.spec import VolumeSpec

_EXT = ("ext2", "ext3", "ext4")
_EXT_SUPERBLOCK = (1024, 1024)
_BTRFS_SUPERBLOCK = (64 << 10, 4096)
_BLOCK = 4096

_journals: dict[bytes, tuple[Extent, ...]] = {}
"""By the first block of the file system, which has its UUID: asking may cost a program run."""


def missing_place(place: Place | None, target: Target) -> Missing | None:
    """Why this volume has no such place; None if it has."""
    fs = target.spec.file_system
    if isinstance(place, Journal) and not _journal(target):
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


def _journal(target: Target) -> tuple[Extent, ...]:
    image = target.disk.base if isinstance(target.disk, ServedDisk) else target.disk.image
    key = image.read(0, _BLOCK)
    if key not in _journals:
        _journals[key] = journal_of(target.spec.fs, image)
    return _journals[key]

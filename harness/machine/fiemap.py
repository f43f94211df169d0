"""Where a file lies on its device: FS_IOC_FIEMAP. Source: Documentation/filesystems/fiemap.rst, uapi/linux/fiemap.h."""

import ctypes
import enum
import struct
from typing import NamedTuple

from harness.machine import syscalls

_FS_IOC_FIEMAP = 0xC020660B  # _IOWR('f', 11, struct fiemap)
_SYNC = 1
_TO_THE_END = (1 << 64) - 1
_HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped_extents, extent_count, reserved
_EXTENT = struct.Struct("=QQQ16xI12x")  # logical, physical, length, flags
_AT_ONCE = 256


class Flag(enum.IntFlag):
    """What the kernel says of an extent, as far as it matters here."""

    LAST = 0x1
    UNKNOWN = 0x2
    """It has no place yet: delayed allocation."""
    ENCODED = 0x8
    """Compressed or encrypted."""
    INLINE = 0x200
    """Inside the inode or a tree block, which hold other things as well."""
    UNWRITTEN = 0x800
    """Allocated, and reads as zeros: fallocate(2)."""


class FileExtent(NamedTuple):
    """A piece of a file, all in bytes: where it is in the file, and where on the device."""

    logical: int
    physical: int
    length: int
    flags: Flag

    @property
    def placed(self) -> bool:
        """`physical` is a place on the device that is the file's alone."""
        return not self.flags & (Flag.UNKNOWN | Flag.INLINE)


def file_extents(fd: int, *, sync: bool = True) -> list[FileExtent]:
    """The extents of the open file, in its own order; holes are left out.

    `sync` writes its dirty pages out first, so that each has a place (nothing is made durable: no flush). On btrfs the
    places are the file system's own logical addresses, not the device's. Raises OSError: EOPNOTSUPP where the file
    system tells none.
    """
    found: list[FileExtent] = []
    start = 0
    while True:
        piece = _ask(fd, start, _SYNC if sync else 0)
        found += piece
        if len(piece) < _AT_ONCE or piece[-1].flags & Flag.LAST:
            return found
        start = piece[-1].logical + piece[-1].length


def _ask(fd: int, start: int, flags: int) -> list[FileExtent]:
    buffer = ctypes.create_string_buffer(_HEAD.size + _AT_ONCE * _EXTENT.size)
    _HEAD.pack_into(buffer, 0, start, _TO_THE_END - start, flags, 0, _AT_ONCE, 0)
    syscalls.ioctl_pointer(fd, _FS_IOC_FIEMAP, buffer)
    mapped = _HEAD.unpack_from(buffer)[3]
    fields = (_EXTENT.unpack_from(buffer, _HEAD.size + n * _EXTENT.size) for n in range(mapped))
    return [FileExtent(logical, physical, length, Flag(bits)) for logical, physical, length, bits in fields]

"""System calls on files that Python 3.11 has no function for. Each raises OSError with the kernel's errno.

Sources: fallocate(2), rename(2), sync_file_range(2), mmap(2), msync(2): glibc has wrappers for all of them since 2.28.
For the ioctls uapi/linux/fs.h (BLKROSET), fs/ext4/ext4.h and fs/xfs/libxfs/xfs_fs.h (shutdown: the same in both).
"""

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator

from harness.extents import Extent

FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_COLLAPSE_RANGE = 0x08
FALLOC_ZERO_RANGE = 0x10
FALLOC_INSERT_RANGE = 0x20

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

WAIT_BEFORE = 1
WRITE = 2
WAIT_AFTER = 4

_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_SUCH_SHUTDOWN = 1000
_BLKROSET = 0x125D
_INT = struct.Struct("=i")

_PROT_NONE = 0
_MAP_SHARED = 1
_MS_SYNC = 4
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) of `length` bytes at `offset`; `mode` is 0 or FALLOC_… flags. `fd` is open for writing."""
    _call(lambda: _libc.fallocate(fd, mode, offset, length))


def rename(old: str, new: str, flags: int, *, old_dir_fd: int, new_dir_fd: int) -> None:
    """renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE; paths are relative to the two directories."""
    source, target = os.fsencode(old), os.fsencode(new)
    _call(lambda: _libc.renameat2(old_dir_fd, source, new_dir_fd, target, flags), old)


def sync_file_range(fd: int, offset: int, length: int, flags: int = WAIT_BEFORE | WRITE | WAIT_AFTER) -> None:
    """sync_file_range(2): write out dirty pages of the range, and by default wait for them. Nothing is durable yet."""
    _call(lambda: _libc.sync_file_range(fd, offset, length, flags))


def msync(fd: int, offset: int, length: int) -> None:
    """Map the range of the file, msync(2) it with MS_SYNC, and unmap it. It may reach beyond the file's end.

    `fd` must be open for reading *and* writing: the kernel does nothing for a shared mapping of a file that was opened
    for reading alone (mm/mmap.c takes VM_SHARED away, mm/msync.c asks for it).
    """
    with _mapped(fd, offset, length) as address:
        _call(lambda: _libc.msync(address, length, _MS_SYNC))


def data_extents(fd: int) -> Iterator[Extent]:
    """(offset, length) in bytes of what is no hole, ascending (lseek(2), SEEK_DATA and SEEK_HOLE)."""
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at - start


def read_exactly(fd: int, into: memoryview, offset: int) -> None:
    """Fill `into` from `offset` on (pread(2)), whatever pieces it comes in. Raises OSError: EIO where the file ends."""
    done = os.preadv(fd, [into], offset)
    while done < len(into):
        got = os.preadv(fd, [into[done:]], offset + done)
        if not got:
            raise OSError(errno.EIO, f"it ends at byte {offset + done}")
        done += got


class Shutdown(enum.IntEnum):
    """What survives of a file system that is shut down. Nothing more reaches the device, and every call gets EIO."""

    LOG_FLUSHED = 1
    """The journal is written out first: metadata survive, dirty pages do not."""
    LOG_LOST = 2
    """What only memory has of the journal is lost."""


def shut_down(path: str, how: Shutdown) -> None:
    """FS_IOC_SHUTDOWN of the file system at `path`, until it is unmounted. Raises OSError: ENOTTY where it has none."""
    _shut_down(path, how)


def can_shut_down(path: str) -> bool:
    """Whether the file system at `path` knows the ioctl. Asked with flags that none has: EINVAL, nothing done."""
    try:
        _shut_down(path, _NO_SUCH_SHUTDOWN)
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


def _shut_down(path: str, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _IOC_SHUTDOWN, _INT.pack(flags))
    finally:
        os.close(fd)


def set_read_only(fd: int, read_only: bool) -> None:
    """BLKROSET: no mount of the block device for writing from here on. What is mounted already writes on (measured)."""
    fcntl.ioctl(fd, _BLKROSET, _INT.pack(read_only))


@contextlib.contextmanager
def _mapped(fd: int, offset: int, length: int) -> Iterator[int]:
    # By libc: Python's mmap refuses what lies beyond the end of the file, or an empty one.
    address = _libc.mmap(None, length, _PROT_NONE, _MAP_SHARED, fd, offset)
    if address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        yield address
    finally:
        _libc.munmap(address, length)


def _call(function: Callable[[], int], about: str | None = None) -> None:
    """Again after a signal, as Python's own functions do (PEP 475)."""
    while function() < 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), about)

"""The FUSE protocol, as much of it as a server of a few files needs: numbers, layouts, and the mount itself.

Source: include/uapi/linux/fuse.h (protocol 7.31, which every kernel since 5.4 speaks), fuse(4). Names are the header's
own without the FUSE_ prefix; all layouts are little-endian.
"""

import ctypes
import enum
import os
import struct
from typing import NamedTuple

from harness.errors import Missing, RequirementMissing
from harness.machine import syscalls

DEVICE = "/dev/fuse"
MAJOR, MINOR = 7, 31
ROOT_ID = 1

REQUEST_MAX = 1 << 20
"""Largest payload of one WRITE or READ, in bytes; the kernel's own limit with 4 KiB pages (256 of them)."""


class Op(enum.IntEnum):
    """Opcodes, fuse.h `enum fuse_opcode`. Whatever is not here is answered with ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    LSEEK = 46


# INIT flags.
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
ASYNC_DIO = 1 << 15
MAX_PAGES = 1 << 22

# Flags of OPEN's answer.
FOPEN_DIRECT_IO = 1 << 0
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6

# Modes of FALLOCATE, include/uapi/linux/falloc.h.
FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_ZERO_RANGE = 0x10

IN_HEADER = struct.Struct("<IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""
IN_BRIEF = struct.Struct("<IIQQ")
"""The first fields of IN_HEADER: len, opcode, unique, nodeid."""
WRITE_REQUEST = struct.Struct("<IIQQ16xQQI20x")
"""IN_HEADER's brief fields and fuse_write_in's first: fh, offset, size. 80 bytes: the payload follows."""
OUT_HEADER = struct.Struct("<IiQ")
"""len, error (0 or -errno), unique."""
WRITE_REPLY = struct.Struct("<IiQII")
"""OUT_HEADER and fuse_write_out: size, padding."""
WRITE_OUT = struct.Struct("<II")
"""fuse_write_out: size, padding."""

INIT_IN = struct.Struct("<IIII")
"""major, minor, max_readahead, flags."""
READ_IN = struct.Struct("<QQI")
"""fh, offset, size: first in fuse_read_in and fuse_write_in."""
HANDLE_IN = struct.Struct("<Q")
"""fh: first in fuse_release_in, fuse_flush_in, fuse_fsync_in."""
FALLOCATE_IN = struct.Struct("<QQQI")
"""fh, offset, length, mode."""
LSEEK_IN = struct.Struct("<QQI")
"""fh, offset, whence."""

_ATTR = struct.Struct("<6Q10I")
_ENTRY_HEAD = struct.Struct("<4QII")
_ATTR_HEAD = struct.Struct("<QII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_STATFS = struct.Struct("<5Q3I28x")
_OPEN_OUT = struct.Struct("<QII")
_OFFSET_OUT = struct.Struct("<Q")

_FOR_EVER = 1 << 31
"""Seconds for which the kernel may keep names and attributes: this server never changes them."""

_PR_SET_IO_FLUSHER = 57

_BLOCK = 512  # st_blocks counts these, stat(2)


class Attributes(NamedTuple):
    """What stat(2) shows of one file: inode number, size in bytes, st_mode, preferred block in bytes."""

    inode: int
    size: int
    mode: int
    block: int = 4096

    def pack(self) -> bytes:
        blocks = -(-self.size // _BLOCK)
        return _ATTR.pack(self.inode, self.size, blocks, 0, 0, 0, 0, 0, 0, self.mode, 1, 0, 0, 0, self.block, 0)


def init_reply(kernel_flags: int, wanted: int, *, max_background: int) -> bytes:
    """fuse_init_out: the flags of `wanted` that the kernel has, requests of REQUEST_MAX bytes."""
    pages = REQUEST_MAX // 4096
    congested = max_background * 3 // 4
    flags = kernel_flags & wanted
    return _INIT_OUT.pack(MAJOR, MINOR, REQUEST_MAX, flags, max_background, congested, REQUEST_MAX, 1, pages, 0, 0)


def entry_reply(attributes: Attributes) -> bytes:
    """fuse_entry_out: the inode number is the node id too."""
    return _ENTRY_HEAD.pack(attributes.inode, 0, _FOR_EVER, _FOR_EVER, 0, 0) + attributes.pack()


def attr_reply(attributes: Attributes) -> bytes:
    """fuse_attr_out."""
    return _ATTR_HEAD.pack(_FOR_EVER, 0, 0) + attributes.pack()


def open_reply(handle: int, flags: int) -> bytes:
    """fuse_open_out."""
    return _OPEN_OUT.pack(handle, flags, 0)


def offset_reply(offset: int) -> bytes:
    """fuse_lseek_out."""
    return _OFFSET_OUT.pack(offset)


def statfs_reply(size: int, block: int) -> bytes:
    """fuse_statfs_out. The loop driver takes `block` as the granularity of discards (drivers/block/loop.c)."""
    return _STATFS.pack(size // block, 0, 0, 8, 0, block, 255, block)


def open_connection() -> int:
    """A descriptor for one FUSE connection. Raises RequirementMissing where there is no /dev/fuse to open."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError) as error:
        why = f"the recording engine serves the volume through it ({error.strerror})"
        remedy = "run as root on a kernel with CONFIG_FUSE_FS (modprobe fuse), or pass --device /dev/fuse"
        raise RequirementMissing([Missing(DEVICE, why, remedy)]) from error


def mount(fd: int, target: str) -> None:
    """Mount the file system that the reader of `fd` serves, for every user, with the kernel checking st_mode.

    Returns before INIT has been answered; whoever touches the mount waits for that. Raises OSError as mount(2) does.
    """
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("crash-harness", target, "fuse.crash-harness", flags, options)


def become_io_flusher() -> bool:
    """PR_SET_IO_FLUSHER: memory that this process allocates is never reclaimed by writing to the volume that it serves.

    True when the kernel agreed; it wants CAP_SYS_RESOURCE (prctl(2)). Without it a machine out of memory may stall.
    """
    return bool(ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)

"""Loop devices by ioctl: no losetup, no leak.

A device is bound with LO_FLAGS_AUTOCLEAR, so the kernel releases it when the last opener (this process, a mount) is
gone, however that came about. It carries our ownership mark in lo_file_name. Source: loop(4), uapi/linux/loop.h.
"""

import errno
import fcntl
import os
import struct
import time

from harness.closing import Closing
from harness.errors import Missing, RequirementMissing

OWNER_MARK = b"crash-harness"

_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_MAJOR = 7

_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16

# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt_type, encrypt_key_size, flags;
# file_name, crypt_name, encrypt_key, init.
_INFO = struct.Struct("<QQQQQIIII64s64s32s16s")
_CONFIG_HEAD = struct.Struct("<II")
_CONFIG_RESERVED = bytes(64)

_ATTEMPTS_SECONDS = 10.0


class LoopDevice(Closing):
    """A bound loop device. Closing the last descriptor (ours, or a mount's) releases it."""

    def __init__(self, number: int, fd: int) -> None:
        self.number = number
        self.fd = fd

    @property
    def path(self) -> str:
        return f"/dev/loop{self.number}"

    @property
    def name(self) -> str:
        """As the kernel log spells it: loop3."""
        return f"loop{self.number}"

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def attach(fd: int, *, sector_size: int = 4096, direct_io: bool = False, read_only: bool = False) -> LoopDevice:
    """Bind a free loop device to the file open as `fd`, in one LOOP_CONFIGURE.

    LOOP_CTL_GET_FREE followed by LOOP_CONFIGURE is a race between processes: on EBUSY the next free device is tried.
    Raises RequirementMissing where there is no /dev/loop-control, OSError for what the kernel refuses.
    """
    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_DIRECT_IO if direct_io else 0) | (_LO_FLAGS_READ_ONLY if read_only else 0)
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, OWNER_MARK, b"", b"", b"")
    config = _CONFIG_HEAD.pack(fd, sector_size) + info + _CONFIG_RESERVED
    give_up_at = time.monotonic() + _ATTEMPTS_SECONDS
    control = _open_control()
    try:
        while True:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = _open_device(number, read_only)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
                return LoopDevice(number, device)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY or time.monotonic() > give_up_at:
                    raise
    finally:
        os.close(control)


def ours() -> list[str]:
    """Paths of all loop devices on this machine that carry our ownership mark."""
    bound = [name for name in sorted(os.listdir("/sys/block")) if os.path.exists(f"/sys/block/{name}/loop")]
    return [f"/dev/{name}" for name in bound if _mark_of(f"/dev/{name}") == OWNER_MARK]


def _mark_of(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        info = bytearray(_INFO.size)
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
        name: bytes = _INFO.unpack(info)[9]
        return name.rstrip(b"\0")
    except OSError:
        return b""  # ENXIO: not bound
    finally:
        os.close(fd)


def _open_control() -> int:
    try:
        return os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError) as error:
        reason = "no such device" if isinstance(error, FileNotFoundError) else "permission denied"
        why = f"loop devices carry every volume ({reason})"
        raise RequirementMissing(
            [Missing("/dev/loop-control", why, "run as root on the host, or a container with --privileged")]
        ) from error


def _open_device(number: int, read_only: bool) -> int:
    path = f"/dev/loop{number}"
    mode = os.O_RDONLY if read_only else os.O_RDWR
    try:
        return os.open(path, mode | os.O_CLOEXEC)
    except FileNotFoundError:
        # A container's /dev is often a static copy: the kernel made the device, nobody made the node.
        os.mknod(path, 0o060600, os.makedev(_LOOP_MAJOR, number))
        return os.open(path, mode | os.O_CLOEXEC)

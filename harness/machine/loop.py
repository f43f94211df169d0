"""Loop devices by ioctl: no losetup, no leak.

A device is bound with LO_FLAGS_AUTOCLEAR, so the kernel releases it when the last opener (this process, a mount) is
gone, however that came about. It carries our ownership mark in lo_file_name, with the label of its volume and the
process that bound it: `crash-harness:LABEL@OWNER` (owners.Owner). Source: loop(4), uapi/linux/loop.h,
drivers/block/loop.c.
"""

import errno
import fcntl
import os
import struct
import time
from typing import NamedTuple

from harness.closing import Closing
from harness.errors import InternalError, Missing, RequirementMissing
from harness.machine import owners

OWNER_MARK = b"crash-harness"

_LOOP_CLR_FD = 0x4C01
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_BLKFLSBUF = 0x1261
_LOOP_MAJOR = 7

_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16

# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt_type, encrypt_key_size, flags;
# file_name, crypt_name, encrypt_key, init.
_INFO = struct.Struct("<QQQQQIIII64s64s32s16s")
_SIZE_LIMIT, _FILE_NAME = 4, 9
_CONFIG_HEAD = struct.Struct("<II")
_CONFIG_RESERVED = bytes(64)

_FILES = ("memfd:crash-harness:", "crash-harness-disk-")
"""How the names of our files begin: those of an Image and of an engine."""

_NAME_MAX = 63  # lo_file_name ends with a NUL
LABEL_MAX = 22
"""Bytes of a label: what the rest of the mark leaves, whatever pid, start and namespace the owner has."""

GONE = 512
"""The size limit, in bytes, of a device that was taken away: one sector is left, and all I/O of a file system fails
with "attempt to access beyond end of device". With 0 sectors the kernel fails it too, but does not say why."""

_ATTEMPTS_SECONDS = 10.0


class Bound(NamedTuple):
    """A bound loop device; `size_limit` in bytes, 0 for none."""

    path: str
    size_limit: int

    @property
    def removed(self) -> bool:
        """Its capacity was taken away: nothing can be read from it or written to it."""
        return 0 < self.size_limit <= GONE


class Status(NamedTuple):
    """What the kernel says of a bound device (LOOP_GET_STATUS64). `backing`: st_dev and st_ino of the file below it."""

    path: str
    label: str
    backing: tuple[int, int]
    size_limit: int
    autoclear: bool
    owner: owners.Owner | None = None
    """The process that bound it, or that adopted it since."""

    @property
    def removed(self) -> bool:
        """See Bound."""
        return Bound(self.path, self.size_limit).removed


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

    def limit(self, size: int) -> None:
        """Let the device have the first `size` bytes of its file alone; 0: all of it again. Mounted or not.

        GONE is what a device looks like that was pulled out. The kernel first waits for the requests in flight: behind
        an engine that answers none, this hangs.
        """
        limit(self.fd, size)

    def flush_cache(self) -> None:
        """BLKFLSBUF: write out and drop the page cache of the device itself (not of files of a mount on it)."""
        fcntl.ioctl(self.fd, _BLKFLSBUF, 0)

    def release(self) -> None:
        """LOOP_CLR_FD, and close. Where others have the device open it stays bound until the last of them is gone."""
        if self.fd >= 0:
            clear(self.fd)
            self.close()


def limit(fd: int, size: int) -> None:
    """LoopDevice.limit for a device that somebody else bound, open here as `fd`."""
    _change(fd, _SIZE_LIMIT, size)


def clear(fd: int) -> None:
    """LOOP_CLR_FD: the device lets go of its file when nobody but us has it open; else at the last close."""
    fcntl.ioctl(fd, _LOOP_CLR_FD)


def attach(
    fd: int, *, sector_size: int = 4096, direct_io: bool = False, read_only: bool = False, label: str = ""
) -> LoopDevice:
    """Bind a free loop device to the file open as `fd`, in one LOOP_CONFIGURE. `label`: at most LABEL_MAX bytes.

    LOOP_CTL_GET_FREE followed by LOOP_CONFIGURE is a race between processes: on EBUSY the next free device is tried.
    Raises RequirementMissing where there is no /dev/loop-control, OSError for what the kernel refuses.
    """
    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_DIRECT_IO if direct_io else 0) | (_LO_FLAGS_READ_ONLY if read_only else 0)
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, _mark(label), b"", b"", b"")
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


def adopt(path: str) -> LoopDevice:
    """Hold a device that another process of ours bound, and that may be dead: it is this process's from here on.

    Raises OSError: ENXIO where it is no longer bound.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        status = status_at(fd, path)
        if status is None:
            raise OSError(errno.ENXIO, "not a device of ours any more", path)
        _change(fd, _FILE_NAME, _mark(status.label))
    except BaseException:
        os.close(fd)
        raise
    return LoopDevice(int(path.removeprefix("/dev/loop")), fd)


def ours() -> list[str]:
    """Paths of all loop devices on this machine that carry our ownership mark."""
    return [status.path for status in bound()]


def bound() -> list[Status]:
    """All bound loop devices on this machine that carry our ownership mark, asked one by one.

    To ask a device whose capacity is being changed while it answers nothing is to hang with it: see `over`.
    """
    names = [name for name in sorted(os.listdir("/sys/block")) if os.path.basename(_backing(name)).startswith(_FILES)]
    return [status for name in names if (status := status_of(f"/dev/{name}"))]


def over(*files: str) -> list[Bound]:
    """The loop devices over files of these names (file_name), as sysfs has them: no device is opened, nothing hangs."""
    names = [name for name in sorted(os.listdir("/sys/block")) if os.path.basename(_backing(name)) in files]
    return [Bound(f"/dev/{name}", _size_limit(name)) for name in names]


def over_fd(fd: int) -> list[Bound]:
    """The same over the file open as `fd`: more than one that is not removed is a split attachment."""
    return over(file_name(fd))


def file_name(fd: int) -> str:
    """What `over` is to be asked for: the name of the file open as `fd`, which is no other's (Image, ServedDisk)."""
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


def removed() -> list[Bound]:
    """All loop devices on this machine, whosever they are, that have no capacity. None of them is opened."""
    found = [Bound(f"/dev/{name}", _size_limit(name)) for name in sorted(os.listdir("/sys/block"))]
    return [device for device in found if device.removed]


def _size_limit(name: str) -> int:
    return int(_attribute(name, "sizelimit") or 0)


def _backing(name: str) -> str:
    """The file below a loop device, as sysfs spells it; empty for one that is not bound, and for what is none."""
    return _attribute(name, "backing_file")


def _attribute(name: str, attribute: str) -> str:
    try:
        with open(f"/sys/block/{name}/loop/{attribute}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def status_of(path: str) -> Status | None:
    """What the kernel says of a device of ours; None where it is not bound, or not ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return status_at(fd, path)
    finally:
        os.close(fd)


def status_at(fd: int, path: str) -> Status | None:
    """The same for a device that is open as `fd`."""
    info = bytearray(_INFO.size)
    try:
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
    except OSError:
        return None  # ENXIO: not bound
    device, inode, _, _, size_limit, _, _, _, flags, name, *_ = _INFO.unpack(info)
    mark, _, rest = name.rstrip(b"\0").partition(b":")
    if mark != OWNER_MARK:
        return None
    label, _, owner = rest.decode(errors="replace").rpartition("@")
    autoclear = bool(flags & _LO_FLAGS_AUTOCLEAR)
    return Status(path, label, (device, inode), size_limit, autoclear, owners.parse(owner))


def held(path: str) -> bool:
    """Whether the device is mounted anywhere: in any mount namespace, or out of sight after a lazy unmount.

    A block device that a file system uses refuses O_EXCL with EBUSY (open(2)); the superblock itself holds it
    (fs/super.c, bd_holder), so no namespace can hide that. Another exclusive opener counts as well.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        return False
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.ENODEV):
            return False
        raise


def _change(fd: int, field: int, value: int | bytes) -> None:
    info = bytearray(_INFO.size)
    fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
    fields = list(_INFO.unpack(info))
    fields[field] = value
    fcntl.ioctl(fd, _LOOP_SET_STATUS64, _INFO.pack(*fields))


def _mark(label: str) -> bytes:
    if len(label.encode()) > LABEL_MAX:
        raise InternalError(f"the label {label!r} is longer than {LABEL_MAX} bytes", "give the volume a shorter name")
    return b"%s:%s@%s" % (OWNER_MARK, label.encode(), str(owners.this_process()).encode())


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

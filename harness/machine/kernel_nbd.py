"""The kernel's own NBD client, where there is one: whatever serves NBD becomes a block device, /dev/nbdN.

By ioctl rather than by its netlink family: NBD_DO_IT blocks in a process, and the device is bound for as long as that
process lives. It is a child of ours that dies with us, so whoever is killed leaves no device. What netlink binds would
outlive us. Source: uapi/linux/nbd.h, drivers/block/nbd.c (nbd_ioctl, nbd_start_device_ioctl), nbd-client(8).
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time

from harness.closing import Closing
from harness.errors import InternalError, Missing, RequirementMissing
from harness.machine import syscalls
from harness.machine.sandbox import Init, spawn_init

REMEDY = "modprobe nbd, or boot a kernel that has it (CONFIG_BLK_DEV_NBD): those of Debian, Ubuntu and Fedora do"
"""What to do where there is none."""

_SET_SOCK = 0xAB00
_SET_BLKSIZE = 0xAB01
_DO_IT = 0xAB03
_CLEAR_SOCK = 0xAB04
_SET_SIZE_BLOCKS = 0xAB07
_DISCONNECT = 0xAB08
_SET_TIMEOUT = 0xAB09
_SET_FLAGS = 0xAB0A

_SECTOR = 512  # the unit of /sys/block/*/size, whatever the device's own
_BOUND_SECONDS = 10.0
_DISCONNECT_SECONDS = 5.0
_POLL_SECONDS = 0.001


class KernelNbd(Closing):
    """A bound device. It goes with close(), with this process, or when the server ends."""

    def __init__(self, number: int, fd: int, binder: Init) -> None:
        self.number = number
        self.fd = fd
        self._binder = binder

    @property
    def path(self) -> str:
        return f"/dev/nbd{self.number}"

    @property
    def name(self) -> str:
        """As the kernel log spells it: nbd3."""
        return f"nbd{self.number}"

    def close(self) -> None:
        """NBD_DISCONNECT, and let go. What was not flushed is lost. A server that does not hang up is left."""
        if self.fd < 0:
            return
        try:
            with contextlib.suppress(OSError):  # the server may have ended before
                fcntl.ioctl(self.fd, _DISCONNECT)
            self._binder.wait(_DISCONNECT_SECONDS)
        finally:
            os.close(self.fd)
            self.fd = -1
            self._binder.close()


def problem() -> str | None:
    """Why no device can be had here; None where one is free."""
    numbers = _numbers()
    if not numbers:
        return "this kernel has no nbd, or its module is not loaded"
    return None if any(map(_is_free, numbers)) else f"all {len(numbers)} devices of the kernel's nbd are in use"


def attach(
    sock: socket.socket, size: int, flags: int, *, block_size: int = 4096, timeout_seconds: int = 30
) -> KernelNbd:
    """Bind a free device to a server that `sock` (TCP or unix stream) is connected to, after the handshake.

    `size` in bytes, a multiple of `block_size`; `flags`: the transmission flags that the server announced. A request
    that is not answered within `timeout_seconds` costs the connection (0: never). The kernel holds the socket; ours may
    be closed. Raises RequirementMissing where there is no device, OSError for what the kernel refuses.
    """
    wrong = problem()
    if wrong:
        raise RequirementMissing([Missing("kernel NBD", wrong, REMEDY)])
    told, tell = os.pipe2(os.O_CLOEXEC)
    device = -1
    binder: Init | None = None
    try:
        settings = {
            _SET_BLKSIZE: block_size,
            _SET_SIZE_BLOCKS: size // block_size,
            _SET_FLAGS: flags,
            _SET_TIMEOUT: timeout_seconds,
        }
        binder = spawn_init(lambda: _bind(sock.fileno(), settings, tell), name="harness-nbd", mounts=False)
        os.close(tell)
        tell = -1
        number = _answer(told)
        device = os.open(_node(number), os.O_RDWR | os.O_CLOEXEC)
        _wait_for(number, size, binder)
        return KernelNbd(number, device, binder)
    except BaseException:
        if device >= 0:
            os.close(device)
        if binder is not None:
            binder.close()
        raise
    finally:
        os.close(told)
        if tell >= 0:
            os.close(tell)


def _numbers() -> list[int]:
    if not os.path.isdir("/sys/block"):
        return []
    names = (name.removeprefix("nbd") for name in os.listdir("/sys/block") if name.startswith("nbd"))
    return sorted(int(name) for name in names if name.isdigit())


def _is_free(number: int) -> bool:
    """A bound device has an attribute `pid` (nbd_start_device); one that is being bound answers EBUSY."""
    return not os.path.exists(f"/sys/block/nbd{number}/pid")


def _node(number: int) -> str:
    path = f"/dev/nbd{number}"
    if not os.path.exists(path):
        # A container's /dev is often a static copy: the kernel made the device, nobody made the node.
        with open(f"/sys/block/nbd{number}/dev", encoding="ascii") as file:
            major, _, minor = file.read().strip().partition(":")
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    return path


def _bind(sock: int, settings: dict[int, int], tell: int) -> int:
    """In the child. Tells the device's number, or minus an errno, and stays for as long as the device is bound."""
    # Or the server's own end of the connection might stay open in here, and its end go unnoticed.
    syscalls.close_all_except({0, 1, 2, sock, tell})
    try:
        number, device = _claim(sock)
        for request, value in settings.items():
            fcntl.ioctl(device, request, value)
    except OSError as error:
        os.write(tell, b"%d" % -(error.errno or errno.EIO))
        return 1
    os.write(tell, b"%d" % number)
    os.close(tell)
    try:
        fcntl.ioctl(device, _DO_IT)
    except OSError:
        return 1  # the server ended, or did not answer in time: the kernel's log says which
    finally:
        fcntl.ioctl(device, _CLEAR_SOCK)
    return 0


def _claim(sock: int) -> tuple[int, int]:
    """NBD_SET_SOCK comes first: it alone answers EBUSY for a device that somebody else is about to bind."""
    for number in filter(_is_free, _numbers()):
        device = os.open(_node(number), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _SET_SOCK, sock)
            return number, device
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:
                raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _answer(told: int) -> int:
    said = os.read(told, 32)
    if not said:
        raise InternalError("the process that was to bind an NBD device died")
    number = int(said)
    if number < 0:
        raise OSError(-number, os.strerror(-number), "/dev/nbd*")
    return number


def _wait_for(number: int, size: int, binder: Init) -> None:
    """The capacity shows once NBD_DO_IT has begun."""
    deadline = time.monotonic() + _BOUND_SECONDS
    while True:
        with open(f"/sys/block/nbd{number}/size", encoding="ascii") as file:
            if int(file.read()) * _SECTOR == size:
                return
        if binder.poll() is not None or time.monotonic() > deadline:
            raise InternalError(f"/dev/nbd{number} was not bound", "see `dmesg | grep nbd`")
        time.sleep(_POLL_SECONDS)

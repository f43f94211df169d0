"""zram devices: block devices in memory with no worker thread, the fastest scratch disks that a stock kernel has.

Unlike a loop device, a zram device outlives its user. So one small process, the keeper, adds the devices and owns them:
it waits on a pipe that ends when the last of us is gone, however that came about, then resets and removes what it
added. A device that was there before is never touched. Source: Documentation/admin-guide/blockdev/zram.rst.
"""

import contextlib
import errno
import os
import signal
import stat
import sys
import time
from typing import NamedTuple

from harness.closing import Closing
from harness.errors import InternalError
from harness.machine import syscalls
from harness.machine.mounts import Workspace

SECTOR_SIZE = 4096
"""Logical sectors of every zram device, in bytes."""

_CONTROL = "/sys/class/zram-control"
_RELEASE_SECONDS = 30.0
_RETRY_SECONDS = 0.002


class ZramDevice(NamedTuple):
    """`path` may be opened from this process; `name` is how the kernel log spells it."""

    name: str
    path: str


def available() -> bool:
    """Whether this kernel has zram, and /sys lets us add a device."""
    return os.access(f"{_CONTROL}/hot_add", os.R_OK) and os.access(f"{_CONTROL}/hot_remove", os.W_OK)


def stored_bytes(name: str) -> int:
    """How many bytes of the device are stored at all, compressed or as a repeated word; discarded ones are not."""
    with open(f"/sys/block/{name}/mm_stat") as file:
        return int(file.read().split()[0])


class ZramPool(Closing):
    """`count` new zram devices of `size` bytes each, gone when the pool closes or its last process dies.

    Raises InternalError, with the kernel's words, where the devices cannot be made.
    """

    def __init__(self, workspace: Workspace, count: int, size: int) -> None:
        report_read, report_write = os.pipe()
        hold_read, self._hold = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._keeper = os.fork()
        if self._keeper == 0:
            _be_keeper(hold_read, report_write, count, size)
        os.close(hold_read)
        os.close(report_write)
        with os.fdopen(report_read) as report:
            words = report.read().split()
        if len(words) != count or words[0] == "error":
            self.close()
            raise InternalError("zram devices could not be added: " + " ".join(words[1:]), "use --scratch loop")
        try:
            self.devices = [ZramDevice(name, _node(workspace, name)) for name in words]
        except OSError as error:  # no node in /dev, and not the right to make one (CAP_MKNOD)
            self.close()
            raise InternalError(f"zram devices have no node: {error}", "use --scratch loop") from error

    def close(self) -> None:
        """Hand the devices back and wait until they are removed."""
        if self._hold >= 0:
            # Processes that were forked since then may hold the pipe's end too: for them the keeper must not wait.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._hold, b".")
            os.close(self._hold)
            self._hold = -1
            os.waitpid(self._keeper, 0)


def _node(workspace: Workspace, name: str) -> str:
    """The device's node; made in our private tmpfs where /dev is a static copy, as in many containers."""
    with open(f"/sys/block/{name}/dev") as file:
        major, minor = map(int, file.read().split(":"))
    path = f"/dev/{name}"
    if os.path.exists(path) and os.stat(path).st_rdev == os.makedev(major, minor):
        return path
    private = workspace.path(name)
    os.mknod(private, stat.S_IFBLK | 0o600, os.makedev(major, minor))
    return private


def _be_keeper(hold: int, report: int, count: int, size: int) -> None:
    """The keeper's whole life. In a session of its own, so that neither Ctrl-C nor a kill of our group reaches it."""
    added: list[int] = []
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        syscalls.set_process_name("harness-zram")
        syscalls.close_all_except({hold, report})
        try:
            while len(added) < count:
                _add(added, size)
            os.write(report, " ".join(f"zram{n}" for n in added).encode())
        except OSError as error:
            os.write(report, f"error {error}".encode())
        os.close(report)
        os.read(hold, 1)
    finally:
        for number in added:
            _remove(number)
        os._exit(0)


def _add(added: list[int], size: int) -> None:
    """Add one device; it is in `added`, and so will be removed, even if setting it up fails."""
    with open(f"{_CONTROL}/hot_add") as file:
        added.append(number := int(file.read()))
    # lz4 is the fastest of zram's algorithms where the kernel has it; any other works as well.
    if "lz4" in _read(number, "comp_algorithm"):
        _write(number, "comp_algorithm", "lz4")
    _write(number, "disksize", str(size))


def _remove(number: int) -> None:
    """Reset and remove, waiting for those who still hold the device: dying workers, a namespace on its way out."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while time.monotonic() < deadline:
        try:
            _write(number, "reset", "1")
            with open(f"{_CONTROL}/hot_remove", "w") as file:
                file.write(str(number))
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
            time.sleep(_RETRY_SECONDS)


def _read(number: int, attribute: str) -> str:
    with open(f"/sys/block/zram{number}/{attribute}") as file:
        return file.read()


def _write(number: int, attribute: str, value: str) -> None:
    with open(f"/sys/block/zram{number}/{attribute}", "w") as file:
        file.write(value)

"""Faults of the volume as its users see it: shut down, read-only, full."""

import contextlib
import errno
import os

from harness.errors import Missing, TrialUnknown
from harness.faults.fault import Back, SingleFault
from harness.faults.target import Target
from harness.machine import fileops, mounts, syscalls
from harness.machine.fileops import Shutdown

FILLER = ".harness-full"
"""The file that fills a volume, in its root."""

_FILL_STEP = 1 << 30


class ShutDown(SingleFault, frozen=True, tag="shutdown"):
    """The file system stops (FS_IOC_SHUTDOWN): every call gets EIO, and nothing more is written, until it is unmounted.

    With `flush_log` its journal is written out first, else what only memory has of it is lost.
    """

    flush_log: bool = False

    needs_mount = True

    def availability(self, target: Target) -> Missing | None:
        """See SingleFault."""
        missing = super().availability(target)
        if missing or fileops.can_shut_down(target.mount):
            return missing
        name = target.spec.fs
        return Missing(f"FS_IOC_SHUTDOWN of {name}", f"{self} asks for it", "use ext4 or xfs; or remove the device")

    def act(self, target: Target) -> None:
        """See SingleFault."""
        fileops.shut_down(target.mount, Shutdown.LOG_FLUSHED if self.flush_log else Shutdown.LOG_LOST)


class WriteProtect(SingleFault, frozen=True, tag="write-protect"):
    """The block device is set read-only (BLKROSET): it cannot be *mounted* for writing.

    What is mounted writes on; the kernel warns once, "Trying to write to read-only block-device" (measured; block/
    blk-core.c, bio_check_ro). A device that takes no writes under a mounted volume is `read-only`.
    """

    gives_back = Back.VOLUME

    def act(self, target: Target) -> None:
        """See SingleFault."""
        fileops.set_read_only(target.disk.attached.fd, True)

    def undo(self, target: Target) -> None:
        """See SingleFault."""
        if target.disk.device:
            fileops.set_read_only(target.disk.device.fd, False)


class RemountReadOnly(SingleFault, frozen=True, tag="remount-ro"):
    """The mount becomes read-only, in order. Impossible while a file is open for writing; see `abort`."""

    needs_mount = True
    gives_back = Back.VOLUME

    def act(self, target: Target) -> None:
        """See SingleFault."""
        try:
            _remount(target, syscalls.MS_RDONLY)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise TrialUnknown(
                f"{target.mount} cannot be remounted read-only: a file on it is open for writing",
                "use `abort`, with which ext4 goes read-only under open files",
            ) from error

    def undo(self, target: Target) -> None:
        """See SingleFault."""
        with contextlib.suppress(FileNotFoundError):
            _remount(target, 0)


class Abort(SingleFault, frozen=True, tag="abort"):
    """ext4 aborts its journal and is read-only, under open files too, as after an error: EROFS until it is unmounted.

    The mount option `abort`, ext4(5): "Simulate the effects of calling ext4_abort() for debugging purposes."
    """

    needs_mount = True

    def availability(self, target: Target) -> Missing | None:
        """See SingleFault."""
        if target.spec.fs not in ("ext3", "ext4"):
            why = f"the mount option by which {self} is made is theirs"
            return Missing("ext4 or ext3", why, "use one of them; or shutdown, or read-only")
        return super().availability(target)

    def act(self, target: Target) -> None:
        """See SingleFault."""
        _remount(target, 0, "abort")


class Full(SingleFault, frozen=True, tag="full"):
    """The volume has no block left: a file takes them all (fallocate). The heal unlinks it."""

    needs_mount = True
    gives_back = Back.VOLUME

    def act(self, target: Target) -> None:
        """See SingleFault."""
        fd = os.open(os.path.join(target.mount, FILLER), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _fill(fd)
        finally:
            os.close(fd)

    def undo(self, target: Target) -> None:
        """See SingleFault."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(target.mount, FILLER))


def _fill(fd: int) -> None:
    """Take ever smaller pieces until the last block is gone."""
    size, step = 0, _FILL_STEP
    smallest = os.fstatvfs(fd).f_frsize
    while step >= smallest:
        try:
            fileops.fallocate(fd, 0, size, step)
            size += step
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            step //= 2


def _remount(target: Target, flag: int, option: str = "") -> None:
    flags, _ = mounts.split_options(target.spec.mount_options)
    syscalls.mount("none", target.mount, None, syscalls.MS_REMOUNT | flags | flag, option)

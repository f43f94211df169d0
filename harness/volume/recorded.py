"""A volume's life while it is being recorded: made, mounted, taken away again in order.

``base`` (a file system in memory) -> engine (serves and logs it) -> loop device with direct I/O -> mount. Whatever ends
the harness, nothing of that stays: the loop device clears itself, the mounts are private, the engine dies with us.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from harness.blocklog import BlockLog
from harness.blocklog.format import BEGIN, END
from harness.engine import Engine, start_engine
from harness.errors import EngineLost, HarnessError, InternalError, WorkloadFailed
from harness.machine import loop, mounts, syscalls
from harness.machine.filesystems import mount_error
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.machine.syncing import sync_file_system
from harness.volume.spec import LYING, LYING_FLUSH, VolumeSpec

_RELEASE_SECONDS = 10.0


@contextlib.contextmanager
def mounted_plain(image: Image, spec: VolumeSpec) -> Iterator[str]:
    """`image` mounted, unrecorded, where the volume belongs; durable in the image afterwards.

    Raises Misuse for mount options that the kernel refuses, WorkloadFailed when files on it are still open at the end.
    """
    target = mounts.enter_private_mounts().volume
    with loop.attach(image.fd, sector_size=spec.sector_size) as device:
        mount_device(device, target, spec)
    try:
        yield target
    except BaseException:
        take_away(target)
        raise
    if not take_away(target):
        raise WorkloadFailed("files on the volume were still open after the setup", "close them before it ends")


class RecordedVolume:
    """A volume on which everything that its device is asked to do is logged. A context manager.

    Inside: mounted at `path`; promises go to `promise_path`, or through `mark`. After finish(): `log` (readable when
    the engine is gone), `error` (EngineLost or BoundExceeded: nothing may be concluded from this log), `stragglers`
    (files were still open: synced, not unmounted in order) and `free_bytes_at_end`.
    """

    def __init__(self, spec: VolumeSpec, base: Image, *, log_max: int) -> None:
        """`base` stays as it is; `log_max` bounds the log, in bytes of memory."""
        self.spec = spec
        self.base = base
        self.error: HarnessError | None = None
        self.stragglers = False
        self.free_bytes_at_end = 0
        self.device_name = ""
        self._log_max = log_max
        self._log: BlockLog | None = None
        self._engine: Engine | None = None
        self._mounted = False
        self._workspace = mounts.enter_private_mounts()

    def __enter__(self) -> Self:
        self._engine = start_engine(
            self.base,
            log_max=self._log_max,
            sector_size=self.spec.sector_size,
            mount_dir=self._workspace.engine,
            rules=(LYING,) if self.spec.fault == LYING_FLUSH else (),
        )
        try:
            self._attach()
            self._engine.mark(BEGIN)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def path(self) -> str:
        """Where the volume is mounted: the same for recording and judging."""
        return self._workspace.volume

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise InternalError("the volume was used outside its context")
        return self._engine

    @property
    def promise_path(self) -> str:
        return self.engine.promise_path

    @property
    def log(self) -> BlockLog:
        """The finished recording."""
        if self._log is None:
            raise InternalError("the log was asked for before the recording was finished")
        return self._log

    def mark(self, text: bytes) -> None:
        """A mark behind all that has completed (`json:…`, `promise:…`). Raises BoundExceeded, EngineLost."""
        self.engine.mark(text)

    def linger(self, seconds: float) -> None:
        """Go on recording for so long (writeback, journal commits); less when the engine dies."""
        if seconds > 0:
            self.engine.wait(seconds)

    def finish(self) -> BlockLog:
        """Sync, unmount (recorded), mark the end, let the device go, stop the engine. Never raises for a lost engine.

        Where files are still open the mount is only taken out of sight, and the engine serves them until close().
        """
        with contextlib.suppress(OSError):  # of a lost engine: `error` tells
            found = os.statvfs(self.path)
            self.free_bytes_at_end = found.f_bavail * found.f_frsize
        orderly = self._unmount() and self.engine.await_release(_RELEASE_SECONDS)
        self.error = self.engine.trouble()
        self.stragglers = not orderly and self.error is None
        if self.error is None:
            try:
                self.engine.mark(END)
            except HarnessError as error:
                self.error = error
        if not self.stragglers:
            self._stop()
        self._log = self.engine.parsed()
        return self._log

    def close(self) -> None:
        """Take away what is left: the mount, the device, the engine. I/O of stragglers fails from here on."""
        if self._engine is None:
            return
        if self._unmount():
            self._engine.await_release(_RELEASE_SECONDS)
        self._engine.close()

    def _attach(self) -> None:
        fd = os.open(self.engine.disk_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            device = loop.attach(fd, sector_size=self.spec.sector_size, direct_io=True)
        finally:
            os.close(fd)
        # The mount holds the device from here on; it clears itself when that goes.
        with device:
            self.device_name = device.name
            mount_device(device, self.path, self.spec)
            self._mounted = True

    def _unmount(self) -> bool:
        """False when someone still holds the volume, now or at an earlier call."""
        if self._mounted:
            self._mounted = False
            self.stragglers = not take_away(self.path)
        return not self.stragglers

    def _stop(self) -> None:
        self.engine.stop()
        if self.error is None and self.engine.exit_status != 0:
            self.error = self.engine.trouble() or EngineLost("the engine did not end in order", "run it again")


def mount_device(device: loop.LoopDevice, target: str, spec: VolumeSpec) -> None:
    """Mount it as the spec says. Raises Misuse for options that the kernel refuses, with the kernel's own words."""
    fs = spec.file_system
    options = fs.all_mount_options(spec.mount_options)
    with KernelLog() as log:
        try:
            mounts.mount_volume(device.path, target, fs.fs_type, options)
        except OSError as error:
            raise mount_error(fs, options, error, log.lines()) from error


def take_away(target: str) -> bool:
    """Sync and unmount. Where it is busy, take it out of sight and return False: it lives as long as its users."""
    with contextlib.suppress(OSError):  # EIO of a lost engine: known to whoever asks the engine
        sync_file_system(target)
    try:
        syscalls.umount(target)
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        syscalls.umount(target, syscalls.MNT_DETACH)
        return False

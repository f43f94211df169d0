"""A disk whose blocks a process behind a door keeps: an engine made elsewhere, or one that is itself under test."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Sequence

import psutil

from harness.engine import Engine, start_engine
from harness.engine.backends import Service
from harness.engine.rules import Rule
from harness.errors import InternalError
from harness.machine.image import Image
from harness.machine.process import wait_readable
from harness.volume.disks import LOG_MAX, ServedDisk
from harness.volume.doors import Door
from harness.volume.spec import VolumeSpec

_CHUNK = 1 << 20
_DEATH_SECONDS = 10.0
_LOOK_SECONDS = 0.0005


class ForeignDisk(ServedDisk):
    """A ServedDisk whose engine, the *front*, passes requests on through `door`. Its size is what stands behind it.

    `spec` says which file system, mount options and sector size; its size is not asked for. `process`: the pid of the
    engine behind the door, which `kill_engine`, `halt` and the faults engine-kill and engine-stop are for; 0: it has
    none of its own, they are for the front. The content outlives an attachment as far as that engine keeps it; `base`
    is what it holds when that is first asked for.
    """

    def __init__(
        self, spec: VolumeSpec, door: Door, *, process: int = 0, log_max: int = LOG_MAX, label: str = ""
    ) -> None:
        """`log_max` bounds the log of each attachment, in bytes of memory: that holds what was written."""
        super().__init__(spec, None, log_max=log_max, label=label)
        self.process = process
        self._door = door
        self._moves = -1

    def switch(self, path: str, process: int = 0) -> None:
        """A live upgrade: requests from here on go to whoever serves at `path`, by the same kind of door.

        One that is under way is finished before, or, where the old engine does not answer, sent again to the new one.
        Raises EngineLost where nobody serves there, with the front as it was.
        """
        if self._moves >= 0:
            os.write(self._moves, f"{path}\n".encode())
        self.engine.switch(path)
        self.process = process

    def kill_engine(self) -> None:
        """SIGKILL to the engine behind the door; to the front where it has no process of its own.

        What is left is what that engine had made of its requests. Whoever started it reaps it.
        """
        if not self.process:
            super().kill_engine()
        elif not self.slay_engine(_DEATH_SECONDS):
            raise InternalError(f"process {self.process} survives SIGKILL", "see `ps -eo pid,stat,wchan,cmd`")

    def slay_engine(self, seconds: float) -> bool:
        """See ServedDisk."""
        if not self.process:
            return super().slay_engine(seconds)
        try:
            pidfd = os.pidfd_open(self.process)
        except ProcessLookupError:
            return True
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return wait_readable(pidfd, seconds)
        finally:
            os.close(pidfd)

    def halt_engine(self) -> None:
        """See ServedDisk. Raises ProcessLookupError where it has ended, InternalError if it cannot be stopped."""
        if not self.process:
            super().halt_engine()
            return
        os.kill(self.process, signal.SIGSTOP)
        deadline = time.monotonic() + _DEATH_SECONDS
        while not _is_stopped(self.process):
            if time.monotonic() > deadline:
                raise InternalError(f"process {self.process} goes on after SIGSTOP", "it hangs inside the kernel")
            time.sleep(_LOOK_SECONDS)

    def wake_engine(self) -> None:
        """See ServedDisk."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGCONT)
        super().wake_engine()

    def medium(self) -> Image:
        """See Disk. Read through the front: only while it is attached, and its engine answers."""
        fd = os.open(self.engine.disk_path, os.O_RDONLY | os.O_CLOEXEC)
        image = Image.create(self.engine.status.size, "medium")
        try:
            for at in range(0, image.size, _CHUNK):
                data = os.pread(fd, min(_CHUNK, image.size - at), at)
                if not data:
                    raise OSError(errno.EIO, f"no answer for byte {at}", self.engine.disk_path)
                if data.count(0) < len(data):  # a hole stays one
                    os.pwrite(image.fd, data, at)
        except BaseException:
            image.close()
            raise
        finally:
            os.close(fd)
        return image

    def close(self) -> None:
        super().close()
        self._close_moves()

    def _started(self, rules: Sequence[Rule]) -> Engine:
        told, self._moves = os.pipe2(os.O_CLOEXEC)
        door = self._door
        try:
            return start_engine(
                Service(lambda: door.open(told), door.keep | {told}),
                log_max=self._log_max,
                sector_size=self.spec.sector_size,
                mount_dir=self._folder,
                rules=rules,
            )
        except BaseException:
            self._close_moves()
            raise
        finally:
            os.close(told)

    def _renew(self) -> None:
        """The engine behind the door has the content. The log of the last attachment is kept."""
        if self._engine:
            self.logs.append(self._engine.parsed())
            self._engine.close()
            self._engine = None
            self._close_moves()
        if self._base:
            self._base.close()
            self._base, self._owns_base = None, False

    def _close_moves(self) -> None:
        if self._moves >= 0:
            os.close(self._moves)
            self._moves = -1


def _is_stopped(pid: int) -> bool:
    """Every thread of it, as /proc tells: state T (proc_pid_stat(5))."""
    process = psutil.Process(pid)
    return all(psutil.Process(thread.id).status() == psutil.STATUS_STOPPED for thread in process.threads())

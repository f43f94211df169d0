"""The engine as its parent sees it: a process to start, to talk to, to stop, or to kill."""

import contextlib
import gc
import mmap
import os
import secrets
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from harness.blocklog import BlockLog
from harness.engine.backends import Backend, Service
from harness.engine.messages import Frames
from harness.engine.orders import Commanded
from harness.engine.rules import Rule
from harness.engine.server import LOG_SLACK, Server
from harness.engine.status import SERVING, SIZE, Status
from harness.engine.tree import DISK
from harness.errors import BoundExceeded, EngineLost, HarnessError, InternalError
from harness.machine import fuse, latency, mounts, syscalls
from harness.machine.image import Image
from harness.machine.process import wait_readable
from harness.settings import show_size

NAME = "harness-engine"
"""What ps calls the process."""

_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.0005
_NICER = -15  # a disk does not wait for a processor behind those who wait for the disk
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Engine(Commanded):
    """A running engine. `disk_path` is the file for a loop device, `promise_path` the one that workloads write to.

    The log lives in memory that both processes share: it stays readable when the engine is gone, however it ended.
    """

    def __init__(
        self, pid: int, mount_dir: str, log: Image, log_max: int, status: Status, news: int, sector: int
    ) -> None:
        super().__init__(mount_dir, status, os.pidfd_open(pid), news, sector)
        self.pid = pid
        self.disk_path = f"{mount_dir}/{DISK}{secrets.token_hex(4)}"
        self.promise_path = f"{mount_dir}/promise"
        self.exit_status: int | None = None
        self._log = log
        self._log_max = log_max
        self._mark_fd = -1
        self._mounted = True
        self._mark_lock = threading.Lock()

    @property
    def log(self) -> mmap.mmap:
        """The whole memory of the log; BlockLog.parse reads as much of it as holds entries."""
        return self._log.map

    def parsed(self) -> BlockLog:
        """The log as it stands now."""
        return BlockLog.parse(self._log.map)

    @property
    def alive(self) -> bool:
        """The process runs; false from the instant of its death, reaped or not."""
        return self._pidfd >= 0 and not wait_readable(self._pidfd, 0)

    def trouble(self) -> HarnessError | None:
        """Why this recording cannot be trusted: the log reached its bound, or the engine died. None: all is well."""
        if self.status.full:
            cause = f"the block log reached its bound of {show_size(self._log_max)}"
            return BoundExceeded(cause, "allow more with --log-max, or record a shorter workload")
        if self.status.error:
            return EngineLost(f"the engine failed: {self.status.error}", "this is a defect of the harness: report it")
        if self.exit_status != 0 and not (self.alive and self._answers()):
            return EngineLost(f"the engine (process {self.pid}) died{self._how()}", "look for the killer: dmesg, OOM")
        return None

    def wait(self, seconds: float) -> bool:
        """Wait for the engine to end, at most so long. True: it has."""
        return self._pidfd < 0 or wait_readable(self._pidfd, seconds)

    def await_release(self, seconds: float) -> bool:
        """Wait until nothing has `disk` open any more (the loop device let go of it). False: it still does."""
        give_up_at = time.monotonic() + seconds
        while self.status.disk_handles and time.monotonic() < give_up_at:
            if self.wait(_POLL_SECONDS):
                return False
        return self.status.disk_handles == 0

    def mark(self, text: bytes) -> None:
        """Append a mark behind everything that has completed so far. Returns when it is in the log.

        Raises BoundExceeded when the log is full, EngineLost when nobody answers.
        """
        message = Frames.pack(text)
        try:
            with self._mark_lock:
                if self._mark_fd < 0:
                    self._mark_fd = os.open(f"{self.mount_dir}/mark", os.O_WRONLY | os.O_CLOEXEC)
                sent = os.pwrite(self._mark_fd, message, 0)
        except OSError as error:
            raise self.trouble() or EngineLost(f"the engine refused a mark: {error}", "run it again") from error
        if sent != len(message):
            raise self.trouble() or EngineLost("the engine took half a mark", "run it again")

    def stop(self) -> None:
        """Unmount and let it end; what does not end in time is killed. The log stays. Idempotent.

        Call it when the loop device has let go of `disk` (status.disk_handles is 0): a device that has not gets EIO.
        """
        if self._pidfd < 0:
            return
        self.go_on()  # halted, it would never see the end of its mount
        self._close_mark()
        if self._unmount() and wait_readable(self._pidfd, _STOP_SECONDS):
            self._reap()
        else:  # someone else holds the mount (a fork that shares our marks, a lost process): only death ends it
            self.kill()

    def kill(self) -> None:
        """SIGKILL and reap, whatever it is doing; I/O in flight gets an error. Then take the dead mount away."""
        if self._pidfd < 0:
            return
        if not self.slay(_STOP_SECONDS):
            raise InternalError(f"the engine (process {self.pid}) survives SIGKILL", "see `ps -eo pid,stat,wchan,cmd`")
        self._close_mark()
        self._unmount()
        self._reap()

    def close(self) -> None:
        """Stop it. The log's memory goes when the last BlockLog that reads it does."""
        self.stop()
        if self._log.fd >= 0:
            os.close(self._log.fd)
            self._log.fd = -1

    def _answers(self) -> bool:
        """A round trip: a dying process has lost its connection a while before its pidfd tells of its end."""
        try:
            os.statvfs(self.mount_dir)
            return True
        except OSError:  # ENOTCONN, ECONNABORTED
            return False

    def _how(self) -> str:
        if self.exit_status is None:
            return ""
        if self.exit_status >= 0:
            return f" with exit status {self.exit_status}"
        return f" of {signal.Signals(-self.exit_status).name}"

    def _close_mark(self) -> None:
        if self._mark_fd >= 0:
            with contextlib.suppress(OSError):  # the engine may be gone
                os.close(self._mark_fd)
            self._mark_fd = -1

    def _unmount(self) -> bool:
        """True when nobody holds the mount, so that the engine will see its end."""
        if not self._mounted:
            return True
        self._mounted = False
        try:
            syscalls.umount(self.mount_dir)
            return True
        except OSError:
            with contextlib.suppress(OSError):  # never mounted: the engine failed before that
                syscalls.umount(self.mount_dir, syscalls.MNT_DETACH)
            return False

    def _reap(self) -> None:
        self.exit_status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._pidfd)
        os.close(self._news)
        self._pidfd = self._news = -1


def start_engine(
    served: Image | Service, *, log_max: int, sector_size: int, mount_dir: str, rules: Sequence[Rule] = ()
) -> Engine:
    """Fork an engine that serves a disk with blocks of `sector_size` bytes on `mount_dir`.

    What it serves is an image, which is never written; or what a backend keeps, to which all requests are passed on.
    `rules`: what is wrong with the disk from the start.

    `mount_dir` must lie in this process's private mount namespace. The log takes at most `log_max` bytes of memory,
    as far as it is filled. The engine lives no longer than the calling *thread*. Threads may run meanwhile.
    Raises RequirementMissing without /dev/fuse, EngineLost when the engine does not come up in time.
    """
    os.close(fuse.open_connection())
    log = Image.create(log_max + LOG_SLACK, "log")
    try:
        return _start(served, log, log_max, sector_size, mount_dir, rules)
    except BaseException:
        log.close()
        raise


def _start(
    served: Image | Service, log: Image, log_max: int, sector_size: int, mount_dir: str, rules: Sequence[Rule]
) -> Engine:
    status = Status(log.map)
    parent = os.pidfd_open(os.getpid())
    up, announce = os.pipe()
    # No signal may strike between fork and the child's own set-up.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = _fork()
        if pid == 0:
            _be_engine(served, log, log_max, sector_size, mount_dir, rules, status, parent, announce)
        os.close(announce)
        engine = Engine(pid, mount_dir, log, log_max, status, up, sector_size)
        engine._rules = len(rules)
    finally:
        os.close(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        _await_start(engine, up)
    except BaseException:
        engine.kill()
        raise
    return engine


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of fork beside threads. The child takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _await_start(engine: Engine, up: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    started = False
    while not started:
        if not wait_readable(up, max(0.0, deadline - time.monotonic())):
            raise EngineLost(f"the engine did not answer within {_START_SECONDS:g} s", "is the machine overloaded?")
        started = bool(os.read(up, 1))
        if not started:
            wait_readable(engine._pidfd, _START_SECONDS)
            cause = f"the engine did not start: {engine.status.error or 'it was killed'}"
            raise EngineLost(cause, "run `harness doctor` to see what this machine lacks")


def _be_engine(
    served: Image | Service,
    log: Image,
    log_max: int,
    sector: int,
    mount_dir: str,
    rules: Sequence[Rule],
    status: Status,
    parent: int,
    announce: int,
) -> NoReturn:
    """The child. Its /dev/fuse is opened here, not inherited: no other child of the parent can hold it open."""
    code = 1
    try:
        backend = None
        if isinstance(served, Image):
            base_fd, size = served.fd, served.size
            _settle(parent, {announce, base_fd})
        else:
            _settle(parent, {announce, *served.keep})
            backend = _opened(served)
            base_fd, size = -1, backend.size
        status.words[SIZE] = size
        connection = fuse.open_connection()
        fuse.mount(connection, mount_dir)
        _leave_mounts()
        server = Server(
            connection,
            base_fd=base_fd,
            size=size,
            sector=sector,
            memory=log.map,
            log_max=log_max,
            words=status.words,
            rules=rules,
            news=announce,
            backend=backend,
        )
        server.serve(lambda: _tell(status, announce))
        code = 0
    except EngineLost as error:
        status.fail(error.cause)
    except BaseException as error:
        status.fail("".join(traceback.format_exception(error)))
    finally:
        os._exit(code)


def _opened(service: Service) -> Backend:
    try:
        return service.open()
    except OSError as error:
        raise EngineLost(f"what it is to pass requests on to cannot be reached: {error}") from error


def _tell(status: Status, announce: int) -> None:
    status.words[SERVING] = 1
    os.write(announce, b"1")
    os.set_blocking(announce, False)


def _leave_mounts() -> None:
    """Go where the volume will never be mounted.

    Whoever ends last in a mount namespace unmounts what is in it. Were that the engine, after SIGKILL of the harness,
    its exit would wait for an answer from itself: the volume's last flush, before /dev/fuse is closed. For ever.
    """
    root = mounts.enter_private_mounts().root
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.umount(root, syscalls.MNT_DETACH)


def _settle(parent: int, keep: set[int]) -> None:
    """Become independent of everything that the parent had open, and die when it does."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    syscalls.die_with_parent()
    if wait_readable(parent, 0):
        os._exit(1)
    os.setsid()
    with contextlib.suppress(OSError):  # without CAP_SYS_NICE it is served a little later
        os.nice(_NICER)
    os.chdir("/")  # or our working directory could hold the volume
    syscalls.close_all_except(keep)
    for _ in range(3):  # the lowest free ones: 0, 1, 2. What libc may print must not land in a file of ours.
        os.open(os.devnull, os.O_RDWR)
    syscalls.set_process_name(NAME)
    fuse.become_io_flusher()
    latency.stay_awake()
    sys.settrace(None)
    sys.setprofile(None)
    gc.disable()
    gc.freeze()

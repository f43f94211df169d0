"""A process namespace for whatever users give us to run: nothing that they start can outlive it.

`spawn_init` forks a child that is pid 1 of a new PID namespace. When pid 1 ends, however it ends, the kernel kills
every process of the namespace, and pid 1 is not reaped before they are gone: a reaped Init means an empty namespace
(pid_namespaces(7)). A daemon that double-forks into its own session is caught with all the rest. The child itself
gets SIGKILL when the thread that forked it ends (PR_SET_PDEATHSIG, prctl(2)).
"""

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from harness.closing import Closing
from harness.errors import InternalError, Missing, RequirementMissing
from harness.machine import mounts, syscalls
from harness.machine.process import wait_readable
from harness.machine.shell import OUTPUT_MAX, ShellResult, run_shell

__all__ = [
    "CRASHED",
    "OUTPUT_MAX",
    "Init",
    "ShellResult",
    "answer_of",
    "interrupts_held",
    "run_shell",
    "spawn_init",
]

CRASHED = 70
"""Exit status of an init whose main raised: EX_SOFTWARE of sysexits.h."""

_REAP_SECONDS = 10.0


class Init(Closing):
    """Handle on a pid 1, held by the process that forked it. Readable for select and poll once it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def fileno(self) -> int:
        """The pidfd, for selectors. Valid until close()."""
        return self._pidfd

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit status, or minus the signal's number; None when it still runs after `timeout` seconds."""
        if self.returncode is None and wait_readable(self._pidfd, timeout):
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def poll(self) -> int | None:
        return self.wait(0)

    def kill(self) -> int:
        """SIGKILL it and all of its namespace, and reap it. Raises InternalError when the kernel cannot end it."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        status = self.wait(_REAP_SECONDS)
        if status is None:
            cause = f"process {self.pid} and its namespace survive SIGKILL for {_REAP_SECONDS:g} s"
            raise InternalError(cause, "something in it hangs inside the kernel: see `ps -eo pid,stat,wchan,cmd`")
        return status

    def close(self) -> None:
        """Kill it unless it has ended, and give up the descriptor."""
        if self._pidfd < 0:
            return
        try:
            self.kill()
        finally:
            os.close(self._pidfd)
            self._pidfd = -1


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end of the block: by then whoever is to close what was begun in it holds it.

    An exception keeps the frames alive that it passed through, and what they had just made: processes whose end others
    wait for while the exception is on its way.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def spawn_init(main: Callable[[], int], *, name: str = "harness-init", mounts: bool = True) -> Init:
    """Run `main` in a forked child that is pid 1 of a new PID namespace; its return value is the exit status.

    With `mounts` the child also gets a mount namespace of its own, with a /proc that shows its own processes. It
    leads a session of its own and ignores SIGINT, so Ctrl-C reaches the harness alone. An exception in `main` prints
    its traceback and gives status 70; no frame of the caller and no atexit handler ever runs in the child.

    The child lives no longer than the calling *thread*. Other threads may run, but not fork, at the same time.
    Raises RequirementMissing without CAP_SYS_ADMIN.
    """
    own = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    parent = os.pidfd_open(os.getpid())
    # No signal may strike between fork and the child's own set-up, nor leave us with the namespace half changed.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    init: Init | None = None
    try:
        pid = _fork_into_namespace(own)
        if pid == 0:
            _be_init(main, name, mounts, own, parent)
        init = Init(pid)
    finally:
        os.close(parent)
        os.close(own)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:  # a Ctrl-C that waited: nobody would ever end the child
            if init:
                init.close()
            raise
    return init


def answer_of(work: Callable[[], bytes], seconds: float, *, name: str = "harness-init") -> tuple[bytes, int | None]:
    """Run `work` as spawn_init runs a main, at most so long: what it answered, and the exit status (None: killed).

    No answer (b"") where it died before it had one. Raises as spawn_init does.
    """
    answer = os.memfd_create("crash-harness:answer")

    def main() -> int:
        with open(answer, "wb", closefd=False) as file:
            file.write(work())
        return 0

    try:
        with spawn_init(main, name=name) as init:
            status = init.wait(seconds)
        return os.pread(answer, os.fstat(answer).st_size, 0), status
    finally:
        os.close(answer)


def _fork_into_namespace(own: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # or the child would print our buffered text a second time
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
    except PermissionError as error:
        why = "what is judged runs in a process namespace of its own (CAP_SYS_ADMIN)"
        raise RequirementMissing([Missing("root", why, "run it as root: sudo harness …")]) from error
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of fork beside threads. The child takes no lock of theirs: it runs `main` only.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except BaseException:
        syscalls.setns(own, syscalls.CLONE_NEWPID)
        raise
    if pid:
        syscalls.setns(own, syscalls.CLONE_NEWPID)
    return pid


def _be_init(main: Callable[[], int], name: str, own_mounts: bool, own: int, parent: int) -> NoReturn:
    status = CRASHED
    try:
        os.close(own)
        _settle(name, own_mounts, parent)
        status = main()
    except SystemExit as request:
        status = request.code if isinstance(request.code, int) else CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status & 0xFF if isinstance(status, int) else CRASHED)


def _settle(name: str, own_mounts: bool, parent: int) -> None:
    syscalls.die_with_parent()
    # getppid() is 0 for pid 1 whether its parent lives or not; the parent's pidfd tells.
    if wait_readable(parent, 0):
        os._exit(CRASHED)
    os.close(parent)
    os.setsid()
    syscalls.set_process_name(name)
    _reset_signals()
    if own_mounts:
        mounts.unshare_again()
        mounts.mount_volume("proc", "/proc", "proc", "nosuid,nodev,noexec")


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGPIPE}:
        with contextlib.suppress(OSError, ValueError):  # those that libc keeps to itself
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

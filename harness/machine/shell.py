"""Shell commands of the user (a workload, a check), run by pid 1 of a namespace so that nothing remains of them."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from harness.errors import InternalError
from harness.machine.process import RESTORED_SIGNALS

OUTPUT_MAX = 64 * 1024

_SHELL = "/bin/sh"
_CHUNK = 64 * 1024
# How long an orphan may stay a zombie while the command runs: one that waits for its daemon to be gone must see it go.
_REAP_EVERY = 0.05
_KILL_SECONDS = 10.0

Spawn = Callable[..., int]
"""os.posix_spawn, or what starts a program as it does."""


class ShellResult(NamedTuple):
    """How a command ended. `status` is the shell's exit status, or minus the signal that killed it.

    `output` is the end of what it printed; where more than the limit came, its first line says how many bytes were
    dropped. `stragglers` counts the processes besides the shell that were still alive when it ended, or timed out.
    """

    status: int
    output: bytes
    timed_out: bool
    stragglers: int


def run_shell(
    command: str,
    *,
    cwd: str,
    env: Mapping[str, str],
    timeout: float,
    output_max: int = OUTPUT_MAX,
    stdout: int | None = None,
    spawn: Spawn = os.posix_spawn,
) -> ShellResult:
    """Run `/bin/sh -c command` in a session of its own, stdin empty, for at most `timeout` seconds; only as pid 1.

    Standard output and error are captured together, or go to the descriptor `stdout` (then `output` is empty). When
    the shell has ended, whatever it left running is counted and killed: on return this namespace holds pid 1 alone.
    Nobody may run two at a time. `spawn` starts the shell. Raises OSError when `cwd` cannot be entered, InternalError
    outside an init or when a process survives SIGKILL.
    """
    if os.getpid() != 1:
        raise InternalError("run_shell kills every process that it can see, so it works as pid 1 only")
    tail = _Tail(output_max)
    reader, writer = (-1, stdout) if stdout is not None else _open_pipe()
    try:
        try:
            shell = _spawn(command, cwd, env, writer, spawn)
        finally:
            if stdout is None:
                os.close(writer)
        status = _attend(shell, reader, tail, time.monotonic() + timeout)
        stragglers = _clear_namespace(shell)
        # Only now: while a straggler could write, "what is there" might have no end.
        while reader >= 0 and _take(reader, tail):
            pass
    finally:
        if reader >= 0:
            os.close(reader)
    if status is None:
        return ShellResult(-signal.SIGKILL, tail.text(), True, stragglers)
    return ShellResult(status, tail.text(), False, stragglers)


class _Tail:
    """The last `limit` bytes of a stream, and how many came before them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._dropped = 0

    def add(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > 2 * self._limit + _CHUNK:
            self._trim()

    def _trim(self) -> None:
        excess = len(self._kept) - self._limit
        if excess > 0:
            del self._kept[:excess]
            self._dropped += excess

    def text(self) -> bytes:
        self._trim()
        note = b"[%d bytes dropped]\n" % self._dropped if self._dropped else b""
        return note + bytes(self._kept)


def _open_pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)  # ours alone: the command's end stays blocking
    return reader, writer


def _spawn(command: str, cwd: str, env: Mapping[str, str], output: int, spawn: Spawn) -> int:
    """posix_spawn knows no working directory: pid 1 goes there itself, and comes back so as not to pin the volume."""
    home = os.open(".", os.O_PATH | os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    try:
        os.chdir(cwd)
        return spawn(
            _SHELL,
            (_SHELL, "-c", command),
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=RESTORED_SIGNALS,
        )
    finally:
        os.fchdir(home)
        os.close(home)
        os.close(null)


def _attend(shell: int, reader: int, tail: _Tail, deadline: float) -> int | None:
    """Collect output and reap orphans until the shell has ended, and return its status; None when it is too late."""
    poller = select.poll()
    pidfd = os.pidfd_open(shell)
    poller.register(pidfd, select.POLLIN)
    if reader >= 0:
        poller.register(reader, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = [fd for fd, _ in poller.poll(min(left, _REAP_EVERY) * 1000)]
            if pidfd in ready:
                return os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1])
            if reader in ready and not _take(reader, tail):
                poller.unregister(reader)
            _reap_orphans(shell)
        return None
    finally:
        os.close(pidfd)


def _take(reader: int, tail: _Tail) -> bool:
    """Move one piece of output into the tail. False when there is none, now (drained) or for ever (end of file)."""
    try:
        chunk = os.read(reader, _CHUNK)
    except BlockingIOError:
        return False
    tail.add(chunk)
    return bool(chunk)


def _reap_orphans(shell: int) -> None:
    """Reap the dead children but the shell, whose status its own wait must find."""
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None or found.si_pid == shell:
            return
        os.waitpid(found.si_pid, 0)


def _clear_namespace(shell: int) -> int:
    """Kill and reap everything but ourselves; how many, besides the shell, were alive.

    Needs no look at /proc. Every process of the namespace is our descendant, and becomes our child when its parent
    dies: no child left means nothing left, and one that was alive is one that died of our signal (waitpid(2)).
    """
    alive = 0
    pause = 0.0001
    deadline = time.monotonic() + _KILL_SECONDS
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return alive
        if pid:
            alive += pid != shell and os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            continue
        if time.monotonic() > deadline:
            raise InternalError(
                f"a process that the command started survives SIGKILL for {_KILL_SECONDS:g} s",
                "it hangs inside the kernel: see `ps -eo pid,stat,wchan,cmd`",
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.01)

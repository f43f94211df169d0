"""The one funnel for external programs: mkfs, fsck, and whatever else the harness runs for itself.

A program gets LC_ALL=C and PATH, and nothing else of our environment; stdin is empty or the given bytes. Standard
output and error go, merged, into a memfd: nothing to drain while it runs, so no deadlock, and a descendant that keeps
them open holds up nobody. It is started by posix_spawn(3), which neither copies our page tables nor runs Python in the
child.

**It dies with us.** Where this process is pid 1 of its namespace (a judge worker, a workload's init) the kernel kills
everything in it when we end (pid_namespaces(7)), so nothing needs to be done. Elsewhere setpriv(1) of util-linux sets
PR_SET_PDEATHSIG between spawn and exec: about 1 ms more, for the few programs that the main process runs. A
`preexec_fn` would set it too, but forces fork(2), whose cost grows with our memory, and runs Python between fork and
exec, which is unsafe beside threads. The signal is bound to the *thread* that called (prctl(2)).
"""

import os
import select
import shlex
import shutil
import signal
import time
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from harness.errors import Missing, ProgramFailed, RequirementMissing

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PACKAGES: Mapping[str, str] = {
    "mkfs.ext4": "e2fsprogs",
    "mkfs.ext3": "e2fsprogs",
    "mkfs.ext2": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "e2fsck.static": "e2fsck-static",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "tune2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "xfs_repair": "xfsprogs",
    "xfs_db": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "btrfs": "btrfs-progs",
    "setpriv": "util-linux",
    "losetup": "util-linux",
    "mount": "mount",
    "umount": "mount",
    "apt-get": "apt",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-img": "qemu-utils",
}
"""The Debian package that brings a program."""

# Python ignores these, and an ignored signal stays ignored across exec (signal(7)): give programs the default back.
RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_TAIL_BYTES = 4096

_found: dict[str, str] = {}


class Completed(NamedTuple):
    """A program that has ended. `status` is its exit status, or minus the number of the signal that killed it."""

    argv: tuple[str, ...]
    status: int
    output: bytes


def find(program: str) -> str | None:
    """Path of a program on PATH or in the system's own directories (sbin too), or None. A hit is remembered."""
    if program not in _found:
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
        if path is None:
            return None
        _found[program] = os.path.abspath(path)
    return _found[program]


def missing_program(program: str, why: str) -> Missing:
    """What to tell the user about a program that is not there: the Debian package where we know it."""
    package = PACKAGES.get(program)
    remedy = f"apt-get install {package}" if package else f"install {program}, or put it on PATH"
    return Missing(program, why, remedy)


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    ok: Container[int] = (0,),
    input: bytes | None = None,  # noqa: A002  (the name that subprocess gave it)
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end, for at most `timeout` seconds. `env` adds to the fixed environment.

    Raises RequirementMissing where there is no such program; ProgramFailed for a status outside `ok`, for one that
    could not be started, and for one that did not end in time (it is killed with its process group).
    """
    words = tuple(argv)
    output = os.memfd_create("crash-harness:output")
    try:
        pid = _spawn(words, output, input, env or {})
        status = _await(pid, words, timeout, output)
        text = _contents(output)
    finally:
        os.close(output)
    if status not in ok:
        raise _failed(words, describe_status(status), text)
    return Completed(words, status, text)


def describe_status(status: int) -> str:
    """`exited with status 2`, `killed by SIGSEGV`."""
    return f"exited with status {status}" if status >= 0 else f"killed by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """SIGSEGV for 11; `signal 40` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _spawn(argv: tuple[str, ...], output: int, data: bytes | None, extra: Mapping[str, str]) -> int:
    path = find(argv[0])
    if path is None:
        raise RequirementMissing([missing_program(argv[0], f"needed to run: {shlex.join(argv)}")])
    words = (path, *argv[1:]) if _dies_with_us() else (*_leash(), path, *argv[1:])
    env = {"PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}".lstrip(":"), "LC_ALL": "C", **extra}
    source = _stdin(data)
    actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    try:
        return os.posix_spawn(
            words[0], words, env, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=RESTORED_SIGNALS
        )
    except OSError as error:
        raise _failed(argv, f"could not be started: {error.strerror}", b"") from error
    finally:
        os.close(source)


def _dies_with_us() -> bool:
    return os.getpid() == 1


def leash() -> tuple[str, ...]:
    """Words to put before a program, so that it dies with the thread that starts it; none where setpriv(1) is not."""
    setpriv = find("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()


def _leash() -> tuple[str, ...]:
    words = leash()
    if not words:
        raise RequirementMissing([missing_program("setpriv", "a program that the harness runs must die with it")])
    return words


def _stdin(data: bytes | None) -> int:
    if data is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.memfd_create("crash-harness:input")
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _await(pid: int, argv: tuple[str, ...], timeout: float, output: int) -> int:
    """Reap `pid` and return its status. Whatever ends the wait early kills its process group first."""
    pidfd = os.pidfd_open(pid)
    try:
        if not wait_readable(pidfd, timeout):
            _kill_group(pid)
            os.waitpid(pid, 0)
            raise _failed(argv, f"did not end within {timeout:g} s and was killed", _contents(output))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except (KeyboardInterrupt, SystemExit):
        _kill_group(pid)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(pidfd)


def wait_readable(fd: int, timeout: float | None) -> bool:
    """Wait until `fd` can be read (a pidfd: until the process has ended); False after `timeout` seconds."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if timeout is None:
        return bool(poller.poll())
    deadline = time.monotonic() + timeout
    while True:
        # poll(2) takes an int of milliseconds: longer waits are cut into pieces.
        left = max(0.0, deadline - time.monotonic())
        if poller.poll(min(left, 3600.0) * 1000):
            return True
        if time.monotonic() >= deadline:
            return False


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it left the group of its own


def _contents(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0) if size else b""


def _failed(argv: tuple[str, ...], what: str, output: bytes) -> ProgramFailed:
    tail = output[-_TAIL_BYTES:].decode(errors="backslashreplace").rstrip()
    left_out = "[…] " if len(output) > _TAIL_BYTES else ""
    said = f"\n  it said:\n{left_out}{tail}" if tail else "\n  it said nothing"
    return ProgramFailed(f"{argv[0]} {what}\n  command: {shlex.join(argv)}{said}", "run the command by hand")

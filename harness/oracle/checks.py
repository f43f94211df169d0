"""The user's own check of a recovered volume: a shell command, or a Python callable."""

import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from harness.blocklog import Promise
from harness.machine.mounts import Workspace, own_folder
from harness.machine.shell import run_shell
from harness.verdict import Finding, FindingKind, Verdict

# What the kernel says where the file system itself knows that its content is gone or broken.
_VOLUME_ERRORS = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOTRECOVERABLE)
_SHELL_CANNOT = (126, 127)
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


class RecoveredState(NamedTuple):
    """What a check is given: a volume that the kernel has recovered after the cut, mounted and writable."""

    path: str
    """The volume's root, the same path that it had while it was recorded."""
    made: Sequence[Promise] = ()

    @property
    def promises(self) -> list[Any]:
        """What was promised before the cut, in order: Python values from `promise()`, text from the promise file."""
        return [promise.value for promise in self.made]


class Checker(Protocol):
    """Looks at a recovered volume and says what is wrong with it. An empty list is the check's word for intact."""

    def __call__(self, state: RecoveredState) -> list[Finding]: ...


class CommandCheck:
    """`command` by /bin/sh inside the volume. Exit 0 says intact; any other exit status is a finding, its output kept.

    A check that hangs, that a signal ended, or that the shell could not start has said nothing: UNKNOWN. If the last
    line that it prints begins with a word of FindingKind (`LOST_ACKED entry 17`), that names the finding.
    """

    def __init__(self, command: str, workspace: Workspace, timeout: float) -> None:
        self._command = command
        self._timeout = timeout
        self._promises_file = f"{own_folder(workspace)}/promises"
        ours = {"HARNESS_VOLUME": workspace.volume, "HARNESS_PROMISES": self._promises_file}
        self._env = {**os.environ, **ours}
        self._written: int = -1

    def __call__(self, state: RecoveredState) -> list[Finding]:
        self._write_promises(state.made)
        result = run_shell(self._command, cwd=state.path, env=self._env, timeout=self._timeout)
        output = result.output.decode(errors="backslashreplace")
        if result.timed_out:
            return [_unknown(FindingKind.STUCK, f"the check was not done after {self._timeout:g} s", output)]
        if result.status < 0:
            name = signal.Signals(-result.status).name
            return [_unknown(FindingKind.HARNESS, f"the check was killed by {name}", output)]
        if result.status in _SHELL_CANNOT:
            return [_unknown(FindingKind.HARNESS, f"the check could not be started (exit {result.status})", output)]
        return [said_no(result.status, output)] if result.status else []

    def _write_promises(self, made: Sequence[Promise]) -> None:
        # Promises are only ever added along the log, so an equal count means an equal file.
        if len(made) != self._written:
            with open(self._promises_file, "wb") as file:
                file.writelines(promise.line + b"\n" for promise in made)
            self._written = len(made)


def said_no(status: int, output: str) -> Finding:
    """The finding of a check that exited non-zero, named by its own last line where that begins with a known kind."""
    lines = output.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    word = last.partition(" ")[0].rstrip(":")
    kind = FindingKind(word) if word in FindingKind.__members__ else FindingKind.CHECK
    return Finding(kind=kind, summary=last or f"the check exited {status} and printed nothing", output=output)


class CallableCheck:
    """A Python callable given the RecoveredState. AssertionError and a false result say no; None and true say intact.

    OSError with EIO, EUCLEAN or EBADMSG is the volume's own word that it is broken: a finding. Any other exception is a
    check that did not finish: UNKNOWN.
    """

    def __init__(self, check: Callable[[Any], object], timeout: float) -> None:
        self._check = check
        self._timeout = timeout

    def __call__(self, state: RecoveredState) -> list[Finding]:
        try:
            with _deadline(self._timeout):
                answer = self._check(state)
        except _TimeUp:
            return [_unknown(FindingKind.STUCK, f"the check was not done after {self._timeout:g} s", "")]
        except AssertionError as error:
            return [Finding(kind=FindingKind.CHECK, summary=_first_line(error), output=own_trace(error))]
        except OSError as error:
            if error.errno in _VOLUME_ERRORS:
                return [Finding(kind=FindingKind.UNAVAILABLE, summary=str(error), output=own_trace(error))]
            return [_raised(error)]
        except Exception as error:
            return [_raised(error)]
        if answer is None or answer:
            return []
        return [Finding(kind=FindingKind.CHECK, summary=f"the check returned {answer!r}")]


class _TimeUp(BaseException):
    """Not an Exception, so that a check's own `except Exception` does not swallow it."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def ring(_signal: int, _frame: object) -> None:
        raise _TimeUp

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _raised(error: Exception) -> Finding:
    summary = f"the check raised {type(error).__name__}: {_first_line(error)}"
    return _unknown(FindingKind.HARNESS, summary, own_trace(error))


def _unknown(kind: FindingKind, summary: str, output: str) -> Finding:
    return Finding(kind=kind, verdict=Verdict.UNKNOWN, summary=summary, output=output)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def own_trace(error: BaseException) -> str:
    """The traceback from the check's own first frame on: ours are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    shown = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    return "".join([*traceback.format_list(shown), *traceback.format_exception_only(error)])

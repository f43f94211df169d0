"""A test's check as the judge's workers call it: pytest's own words understood, prints kept off the terminal."""

import io
import os
import sys
from collections.abc import Callable

import msgspec
import pytest

from harness.machine.mounts import Workspace
from harness.oracle.checks import CallableCheck, Checker, RecoveredState, own_trace
from harness.settings import Settings
from harness.trial.check import command_checker
from harness.trial.judging import CheckerFactory
from harness.verdict import Finding, FindingKind, unjudged

Check = Callable[[RecoveredState], object] | str | None

_PRINTED_MAX = 16 * 1024


def checker_factory(check: Check, settings: Settings) -> CheckerFactory:
    """`check`: a callable, a shell command, or None for what mount and fsck say alone. Called in each worker."""

    def make(workspace: Workspace) -> Checker | None:
        printed = _Printed()
        if callable(check):
            return _PytestCheck(check, settings.timeout, printed)
        return command_checker(check or "", settings)(workspace)

    return make


class _Printed:
    """Standard output and error of a worker, in memory: nothing reaches pytest's capture or the terminal.

    Beyond the parent's reach on purpose: what a check prints is evidence of its own state and of no other.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("crash-harness:printed", os.MFD_CLOEXEC)
        for stream in (1, 2):
            os.dup2(self._fd, stream)
        writer = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), errors="backslashreplace", write_through=True)
        sys.stdout = sys.stderr = writer

    def take(self) -> str:
        """What was printed since the last time: the end of it."""
        size = os.fstat(self._fd).st_size
        if not size:
            return ""
        raw = os.pread(self._fd, _PRINTED_MAX, max(0, size - _PRINTED_MAX))
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        return raw.decode(errors="backslashreplace")


class _PytestCheck:
    """A CallableCheck for which pytest.fail() says no too, and whose prints go along with what it found."""

    def __init__(self, check: Callable[[RecoveredState], object], timeout: float, printed: _Printed) -> None:
        self._check = CallableCheck(check, timeout)
        self._printed = printed

    def __call__(self, state: RecoveredState) -> list[Finding]:
        findings = self._judged(state)
        said = self._printed.take()
        return [_with_printed(finding, said) for finding in findings] if said else findings

    def _judged(self, state: RecoveredState) -> list[Finding]:
        try:
            return [_in_words(finding) for finding in self._check(state)]
        except pytest.fail.Exception as error:
            text = str(error) or "pytest.fail"
            return [Finding(kind=FindingKind.CHECK, summary=_first_line(text), output=own_trace(error))]
        except (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception, SystemExit) as error:
            summary = f"the check gave up instead of answering: {type(error).__name__}: {_first_line(str(error))}"
            return [unjudged(summary, own_trace(error))]


def _with_printed(finding: Finding, said: str) -> Finding:
    return msgspec.structs.replace(finding, output=f"{finding.output.rstrip()}\nthe check printed:\n{said}".lstrip())


def _in_words(finding: Finding) -> Finding:
    """An assert outside of pytest's rewriting has no message: its own line says more than "AssertionError"."""
    if finding.summary != AssertionError.__name__:
        return finding
    lines = (line.strip() for line in reversed(finding.output.splitlines()))
    return msgspec.structs.replace(finding, summary=next(filter(_is_assert, lines), finding.summary))


def _is_assert(line: str) -> bool:
    return line.startswith("assert ")


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")

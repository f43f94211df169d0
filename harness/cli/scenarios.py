"""Running pytest for `harness run` and for the replay of a bundle that a test made."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from harness.cli.collector import RESULTS
from harness.errors import InternalError, Misuse, TrialUnknown
from harness.machine import process
from harness.reporting.scenarios import Scenario, exit_code, gather
from harness.verdict import ExitCode, Verdict, worst

_PYTEST_INTERNAL = 3
_PYTEST_USAGE = 4
_PYTEST_NOTHING = 5


class Ran(NamedTuple):
    """What pytest did: its exit status and the scenarios that it told of."""

    status: int
    scenarios: list[Scenario]
    interrupted: bool

    def exit_code(self) -> ExitCode:
        """That of the worst verdict. Raises Misuse or InternalError where pytest did not do its work."""
        if self.status == _PYTEST_USAGE:
            raise Misuse("pytest did not accept its arguments", "what is wrong stands above")
        if self.status == _PYTEST_NOTHING and not self.scenarios:
            raise Misuse("no scenario was found", "name a file or folder with test_*.py files, and check -k or -m")
        if self.status == _PYTEST_INTERNAL or self.status < 0:
            how = process.describe_status(self.status)
            raise InternalError(f"pytest {how}", "what it printed stands above")
        code = exit_code(self.scenarios)
        # An error outside of any test, such as a module that cannot be imported.
        if code is ExitCode.INTACT and self.status != 0:
            return ExitCode.UNKNOWN
        return code


def run_pytest(arguments: Sequence[str], *, cwd: str, to_stderr: bool = False) -> Ran:
    """Run pytest in a process of its own that dies with us; nothing may be skipped."""
    results = os.memfd_create("crash-harness:results")
    try:
        path = f"/proc/{os.getpid()}/fd/{results}"
        env = {**os.environ, RESULTS: path, "HARNESS_NO_SKIP": "1"}
        argv = [*process.leash(), sys.executable, "-m", "pytest", "-p", "harness.cli.collector", *arguments]
        sys.stdout.flush()
        child = subprocess.Popen(argv, cwd=cwd, env=env, stdout=sys.stderr.fileno() if to_stderr else None)
        status, interrupted = _wait(child)
        lines = os.pread(results, os.fstat(results).st_size, 0).decode().splitlines()
    finally:
        os.close(results)
    return Ran(status, gather(lines, root_of(arguments, cwd)), interrupted)


def _wait(child: "subprocess.Popen[bytes]") -> tuple[int, bool]:
    """Ctrl-C reaches pytest as well as us: it ends in order, and tells what it had done."""
    interrupted = False

    def note(_number: int, _frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            child.kill()
        interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        status = child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status, interrupted


def root_of(arguments: Sequence[str], cwd: str) -> str:
    """Where test ids count from: pytest's rootdir, the next folder up with a configuration of pytest."""
    paths = [argument for argument in arguments if not argument.startswith("-")]
    folder = os.path.abspath(os.path.join(cwd, paths[-1].partition("::")[0])) if paths else cwd
    while folder != "/":
        if any(os.path.exists(os.path.join(folder, name)) for name in ("pytest.ini", "pyproject.toml", "tox.ini")):
            return folder
        folder = os.path.dirname(folder)
    return cwd


def replay_test(test: str, bundle: str, *, to_stderr: bool = False) -> tuple[Verdict, ExitCode]:
    """Run the test that made the bundle, on the bundle's disk. Raises Misuse if the test is not here."""
    cwd = _home_of(test, bundle)
    ran = run_pytest([f"--harness-replay={os.path.abspath(bundle)}", "-q", test], cwd=cwd, to_stderr=to_stderr)
    verdicts = [Verdict(v.verdict) for s in ran.scenarios for v in s.volumes if v.verdict in set(Verdict)]
    if ran.interrupted:
        raise KeyboardInterrupt
    if not verdicts:
        ran.exit_code()
        raise TrialUnknown(f"the test {test} ended without a verdict", "what pytest printed stands above")
    verdict = worst(verdicts)
    return verdict, verdict.exit_code


def _home_of(test: str, bundle: str) -> str:
    """The folder from which the test's id leads to its file: here, or above here, or above the bundle."""
    path = test.partition("::")[0]
    for start in (os.getcwd(), os.path.dirname(os.path.abspath(bundle))):
        folder = start
        while True:
            if os.path.isfile(os.path.join(folder, path)):
                return folder
            if folder == os.path.dirname(folder):
                break
            folder = os.path.dirname(folder)
    raise Misuse(
        f"the bundle was made by the test {test}, and {path} is not here",
        "run the command in a checkout of the project that the test belongs to; harness show and --shell work anywhere",
    )

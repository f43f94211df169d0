"""What each test of this suite may rely on. Nothing passes by a skip: with HARNESS_NO_SKIP=1 it is a failure."""

import os
import signal

import pytest

# Started in the background (nohup, `&` in a script), SIGINT is ignored, and so it would be in every harness that a test
# interrupts: an ignored signal stays ignored across exec (signal(7)).
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_skipped: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root, loop devices and /dev/fuse: run it with sudo"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped or hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _must_not_skip(session) and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("HARNESS_NO_SKIP") == "1":
        terminalreporter.section("skipped or expected to fail, which HARNESS_NO_SKIP=1 forbids", red=True)
        for nodeid in _skipped:
            terminalreporter.line(nodeid)


def _must_not_skip(session: pytest.Session) -> bool:
    # Under xdist each worker reports to the controller, and only the controller's exit status counts.
    return bool(_skipped) and os.environ.get("HARNESS_NO_SKIP") == "1" and not hasattr(session.config, "workerinput")

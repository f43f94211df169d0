"""A pytest plugin (`-p harness.cli.collector`) that tells `harness run` what became of each test, line by line of JSON.

It writes to the descriptor's path in HARNESS_RUN_RESULTS. Under pytest-xdist only the controller reports.
"""

import json
import os

import pytest

RESULTS = "HARNESS_RUN_RESULTS"

_told: set[str] = set()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for the call, and one more for a setup or teardown that did not pass."""
    path = os.environ.get(RESULTS)
    if not path or os.environ.get("PYTEST_XDIST_WORKER"):
        return
    if report.when == "call" or not report.passed:
        _tell(path, report)


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that cannot be imported or is skipped whole is a scenario that was not judged."""
    path = os.environ.get(RESULTS)
    if path and not report.passed and not os.environ.get("PYTEST_XDIST_WORKER"):
        _write(path, report, "collection", 0.0, [])


def _tell(path: str, report: pytest.TestReport) -> None:
    # The same properties come with each phase: count a test's volumes once.
    properties: list[list[object]] = (
        [] if report.nodeid in _told else [[name, value] for name, value in report.user_properties]
    )
    _told.add(report.nodeid)
    _write(path, report, report.when, report.duration, properties)


def _write(
    path: str,
    report: pytest.TestReport | pytest.CollectReport,
    phase: str,
    seconds: float,
    properties: list[list[object]],
) -> None:
    told = {"test": report.nodeid, "outcome": report.outcome, "phase": phase, "seconds": seconds}
    line = json.dumps(told | {"properties": properties, "message": _message(report)}, default=str)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The line of a failure that says most."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # a skip: path, line, reason
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash:
        return (str(crash.message).strip().splitlines() or [""])[0]
    # A collection error is text alone, its exception on the last line that begins with E.
    lines = report.longreprtext.strip().splitlines() or [""]
    return next((line[1:].strip() for line in reversed(lines) if line.startswith("E ")), lines[0])

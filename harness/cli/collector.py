"""A pytest plugin (`-p harness.cli.collector`) that tells `harness run` what became of each test, line by line of JSON.

It writes to the descriptor's path in HARNESS_RUN_RESULTS. Under pytest-xdist only the controller reports.
"""

import json
import os

import pytest

from harness.reporting.pytest_lines import Lines, message

RESULTS = "HARNESS_RUN_RESULTS"

_lines = Lines()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for the call, and one more for a setup or teardown that did not pass."""
    path = os.environ.get(RESULTS)
    if not path or os.environ.get("PYTEST_XDIST_WORKER"):
        return
    _lines.take(report)
    _write(path, _lines.lines)
    _lines.lines.clear()


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that cannot be imported or is skipped whole is a scenario that was not judged."""
    path = os.environ.get(RESULTS)
    if path and not report.passed and not os.environ.get("PYTEST_XDIST_WORKER"):
        told = {"test": report.nodeid, "outcome": report.outcome, "phase": "collection", "seconds": 0.0}
        _write(path, [json.dumps(told | {"properties": [], "message": _failure(report)})])


def _write(path: str, lines: list[str]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def _failure(report: pytest.CollectReport) -> str:
    """A collection error is text alone, its exception on the last line that begins with E."""
    if isinstance(report.longrepr, tuple):
        return message(report)
    lines = report.longreprtext.strip().splitlines()
    return next((line[1:].strip() for line in reversed(lines) if line.startswith("E ")), message(report))

"""Crash tests that were skipped: told with every reason and remedy, or failed where skipping is forbidden."""

from collections import Counter

import pytest

from harness.plugin import options

MISSING = "crash_volume cannot work on this machine:"
"""How the reason of such a skip begins."""


def placed(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give a skip of ours the test's own place instead of the line of our code that raised it."""
    if report.skipped and isinstance(report.longrepr, tuple) and options.uses_crash_volume(item):
        reason = report.longrepr[2]
        if reason.removeprefix("Skipped: ").startswith(MISSING):
            path, number, _ = item.location
            report.longrepr = (path, (number or 0) + 1, reason)


def forbidden(item: pytest.Item, report: pytest.TestReport) -> None:
    """Where nothing may pass by skipping, a crash test that skips has failed. An expected failure is left alone."""
    if not report.skipped or hasattr(report, "wasxfail") or not options.uses_crash_volume(item):
        return
    if options.must_not_skip(item.config):
        reason = reason_of(report)
        report.outcome = "failed"
        report.longrepr = f"{reason}\nskipping is forbidden here: {options.NO_SKIP_ENV}, --harness-no-skip or ini"


def reason_of(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ")


def summarize(reporter: pytest.TerminalReporter) -> None:
    """Once for each reason, whatever -r says: a crash test that silently never ran is worse than one that fails."""
    reasons = Counter(reason_of(report) for report in reporter.getreports("skipped"))
    missing = {reason: count for reason, count in reasons.items() if reason.startswith(MISSING)}
    for reason, count in missing.items():
        reporter.section(f"{count} crash test{'s' * (count != 1)} skipped", yellow=True)
        reporter.line(reason)

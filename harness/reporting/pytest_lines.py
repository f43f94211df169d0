"""What a pytest report says of a scenario, as the lines of JSON that harness.reporting.scenarios.gather reads."""

import json
from typing import Any


class Lines:
    """The lines of a session. A test's properties come with each of its phases, and count once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._told: set[str] = set()

    def take(self, report: Any) -> None:
        """A report of one phase of a test: the call counts, and every phase that did not pass."""
        if report.when != "call" and report.passed:
            return
        properties: list[list[object]] = []
        if report.nodeid not in self._told:
            properties = [[name, value] for name, value in report.user_properties]
        self._told.add(report.nodeid)
        told = {"test": report.nodeid, "outcome": report.outcome, "phase": report.when, "seconds": report.duration}
        self.lines.append(json.dumps(told | {"properties": properties, "message": message(report)}, default=str))


def message(report: Any) -> str:
    """The line of a failure that says most."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # a skip: path, line, reason
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash:
        return (str(crash.message).strip().splitlines() or [""])[0]
    return (str(report.longreprtext).strip().splitlines() or [""])[0]

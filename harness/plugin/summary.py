"""What a pytest session leaves for people who were not there: a summary in Markdown, annotations on GitHub.

Switched on by --harness-summary or its ini key, and by GITHUB_ACTIONS=true. Only the controller of pytest-xdist writes.
"""

import os
import time
from typing import Any

import pytest

from harness.plugin import options
from harness.reporting import github, markdown
from harness.reporting.pytest_lines import Lines
from harness.reporting.scenarios import Scenario, gather

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


class Summary:
    """A plugin that gathers the reports of crash tests, and writes at the end of the session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lines = Lines()
        self._started = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tests that have nothing to do with this plugin are none of its business."""
        if options.SCENARIO in report.keywords:
            self._lines.take(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write. That it cannot is told, and changes nothing about the session."""
        scenarios = gather(self._lines.lines, str(self._config.rootpath))
        if not scenarios:
            return
        told = []
        on_github = github.on_github(os.environ)
        if on_github:
            workspace = os.environ.get("GITHUB_WORKSPACE") or str(self._config.rootpath)
            told = github.annotations(scenarios, str(self._config.rootpath), workspace)
        wanted = options.summary_path(self._config)
        step = os.environ.get(_STEP_SUMMARY, "") if on_github else ""
        for path, mode in ((wanted, "w"), (step, "a")):
            if path:
                told += self._write(path, mode, scenarios)
        self._say(told)

    def _write(self, path: str, mode: str, scenarios: list[Scenario]) -> list[str]:
        elapsed = time.monotonic() - self._started
        folder = os.path.relpath(options.reports_folder(self._config))
        try:
            # Steps share nothing, but several sessions of one step share its 1 MiB.
            used = os.path.getsize(path) if mode == "a" and os.path.exists(path) else 0
            text = markdown.summary(
                scenarios, elapsed=elapsed, artifacts=folder, size_max=max(0, markdown.SIZE_MAX - used)
            )
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            return [f"crash-harness: the summary could not be written to {path}: {error.strerror}"]
        return []

    def _say(self, lines: list[str]) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not lines:
            return
        reporter.ensure_newline()
        for line in lines:
            reporter.write_line(line)

"""The pytest plugin: the fixture `crash_volume`, its marker, its options, and failures that read as findings.

::

    def test_ledger_keeps_what_it_acknowledged(crash_volume):
        with crash_volume.record() as volume:
            ledger = Ledger(volume.path)
            for n in range(20):
                ledger.append(n)
                volume.promise(n)  # from here on, n must survive
        crash_volume.verify(lambda state: Ledger(state.path).entries()[: len(state.promises)] == state.promises)

pytest loads this module in every session of every project in the same environment: whatever takes time to import, or
needs root, waits in harness.plugin.volume until a test asks for the fixture.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, Misuse
from harness.plugin import options, skips
from harness.plugin.failure import CrashFailure
from harness.plugin.options import select_system

if TYPE_CHECKING:
    from harness.plugin.plans import PlanJudge
    from harness.plugin.systems import LiveTrials
    from harness.plugin.volume import CrashVolume

__all__ = ["CrashFailure", "crash_volume", "live_trials", "plan_judge"]


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    options.register_marker(config)
    if options.replay_path(config):
        config.pluginmanager.register(_ReplayStatus(), "crash-harness-replay")
    if options.wants_summary(config) and not hasattr(config, "workerinput"):
        from harness.plugin.summary import Summary

        config.pluginmanager.register(Summary(config), "crash-harness-summary")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A wrong marker or ini key is a usage error, told before the first test runs."""
    select_system(config, items)
    for item in items:
        options.mark_scenario(item)
    if hasattr(config, "workerinput"):
        return  # of xdist: a usage error there would look like a crash of the worker; the fixture tells it
    try:
        for item in items:
            if options.uses_crash_volume(item) or item.get_closest_marker(options.MARKER):
                options.item_settings(item)
    except Misuse as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None


@pytest.fixture
def crash_volume(request: pytest.FixtureRequest) -> Generator["CrashVolume", None, None]:
    """Record on a real volume, then judge every disk that a power cut may leave: record(), verify(), convict()."""
    from harness.plugin import volume

    try:
        case, opened = volume.open_crash_volume(request.node)
    except HarnessError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield opened
    finally:
        case.close()


@pytest.fixture(scope="session")
def plan_judge(request: pytest.FixtureRequest) -> Generator["PlanJudge", None, None]:
    """Judge plans that Hypothesis draws: plan_judge.verify(plan, fs="xfs"). Of the session, so @given may use it."""
    from harness.plugin import plans

    judge = plans.PlanJudge(request.config)
    try:
        yield judge
    finally:
        judge.close()


@pytest.fixture
def live_trials(request: pytest.FixtureRequest) -> "LiveTrials":
    """Try a system under test on drawn plans: live_trials.acquit(SYSTEM, "fixed"), .convict(SYSTEM, "no-unmount")."""
    from harness.plugin import systems, volume

    volume.require("ext4")
    return systems.LiveTrials(request.node)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    judge: PlanJudge | None = getattr(item, "funcargs", {}).get("plan_judge")
    if judge and call.when == "call":
        item.user_properties.extend(judge.take_properties())
    report = yield
    skips.placed(item, report)
    skips.forbidden(item, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skips.summarize(terminalreporter)


class _ReplayStatus:
    """With --harness-replay: tells the verdict once more, and fails a session in which no test replayed the bundle."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":  # the last report of a test has all of its properties
            return
        found: list[tuple[str, Any]] = report.user_properties
        self._told += [f"{report.nodeid}: {text}" for name, text in found if name == "crash_replayed"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and not self._told and not hasattr(session.config, "workerinput"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("crash replay")
        for line in self._told or ["no test replayed the bundle: give the node id of the test that made it"]:
            terminalreporter.line(line)

"""How a test run sets the harness: ini keys, command-line options, the marker. The names are those of DECLARED."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from harness.errors import Misuse
from harness.settings import DECLARED, Settings, from_text

MARKER = "crash_volume"
FIXTURE = "crash_volume"
SYSTEM_MARKER = "system"
SCENARIO = "crash_scenario"
"""Among the keywords of a test that uses one of our fixtures."""
NO_SKIP_ENV = "HARNESS_NO_SKIP"

_INI = "harness_"
_FIXTURES = frozenset({FIXTURE, "plan_judge", "live_trials"})
_MARKER_HELP = (
    f"{MARKER}(fs='ext4', size='64M', model='subset', …): settings of the volume that the fixture of this name makes; "
    f"known: {', '.join(DECLARED)}"
)
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--harness-reports", {"metavar": "DIR", "help": "Where bundles of findings go (ini: harness_reports)."}),
    ("--harness-seed", {"metavar": "N", "help": "Seed of sampled crash states, over marker and ini."}),
    (
        "--harness-replay",
        {"metavar": "FILE", "help": "Judge only the crash state in this bundle, with the test's check."},
    ),
    (
        "--harness-summary",
        {"metavar": "FILE", "help": "Write a summary of the crash tests in Markdown (ini: harness_summary)."},
    ),
    ("--harness-system", {"metavar": "NAME", "help": "Only the scenarios that are marked system(NAME)."}),
    (
        "--harness-plans",
        {
            "metavar": "N",
            "type": int,
            "help": "Plans that live_trials draws for a variant; at kill points, fewer each (ini: harness_plans).",
        },
    ),
    (
        "--harness-no-skip",
        {
            "action": "store_true",
            "help": f"A {FIXTURE} test that skips fails (also {NO_SKIP_ENV}=1, ini harness_no_skip).",
        },
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """The command-line options, and an ini key for each declared setting."""
    group = parser.getgroup("crash-harness", "crash-harness: cut the power, judge what is left")
    for flag, words in _OPTIONS:
        group.addoption(flag, **words)
    for setting in DECLARED.values():
        parser.addini(_INI + setting.name, f"{setting.help} (crash_volume)", default=None)
    parser.addini("harness_plans", "Plans that live_trials draws for each variant.", default="20")
    parser.addini("harness_reports", "Where bundles of findings go, from the root directory.", default="reports")
    parser.addini("harness_summary", "Where a summary in Markdown goes, from the root directory.", default="")
    parser.addini(
        "harness_no_skip", f"A test that uses {FIXTURE} fails where it would skip.", type="bool", default=False
    )


def register_marker(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER_HELP)
    config.addinivalue_line("markers", "system(NAME): a scenario of this system under test, for `harness run NAME`")


def item_settings(item: pytest.Item) -> Settings:
    """The settings of one test: option over marker over ini over default. Raises Misuse, naming what is known."""
    given = ini_values(item.config)
    for mark in reversed(list(item.iter_markers(MARKER))):  # the closest one comes last and wins
        if mark.args:
            raise Misuse(f"@pytest.mark.{MARKER} takes names only: {mark.args[0]!r} has none", "write fs='ext4'")
        given |= mark.kwargs
    seed = item.config.getoption("--harness-seed")
    if seed is not None:
        given["seed"] = seed
    return from_text(given)


def ini_values(config: pytest.Config) -> dict[str, Any]:
    found = {name: config.getini(_INI + name) for name in DECLARED}
    return {name: value for name, value in found.items() if value is not None}


def changed(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Some settings replaced by values as a marker takes them. Raises Misuse for an unknown name or a bad value."""
    new = from_text(changes)
    return msgspec.structs.replace(settings, **{name: getattr(new, name) for name in changes})


def reports_folder(config: pytest.Config) -> str:
    """Absolute: the option as the user's shell would read it, the ini key from the root directory."""
    option = config.getoption("--harness-reports")
    if option:
        return os.path.join(config.invocation_params.dir, option)
    return os.path.join(config.rootpath, config.getini("harness_reports"))


def replay_path(config: pytest.Config) -> str:
    """Absolute path of the bundle to replay, or nothing."""
    option = config.getoption("--harness-replay")
    return os.path.join(config.invocation_params.dir, option) if option else ""


def summary_path(config: pytest.Config) -> str:
    """Absolute path of the summary that is wanted, or nothing. As for reports_folder."""
    option = config.getoption("--harness-summary")
    if option:
        return os.path.join(config.invocation_params.dir, option)
    ini = config.getini("harness_summary")
    return os.path.join(config.rootpath, ini) if ini else ""


def wants_summary(config: pytest.Config) -> bool:
    """On GitHub Actions there always is one."""
    return bool(summary_path(config)) or os.environ.get("GITHUB_ACTIONS") == "true"


def mark_scenario(item: pytest.Item) -> None:
    """Let the reports of a test that uses a fixture of ours say so, also those that come from another process."""
    if not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        item.keywords[SCENARIO] = True


def must_not_skip(config: pytest.Config) -> bool:
    wanted = config.getoption("--harness-no-skip") or config.getini("harness_no_skip")
    return bool(wanted) or os.environ.get(NO_SKIP_ENV) == "1"


def uses_crash_volume(item: pytest.Item) -> bool:
    return FIXTURE in getattr(item, "fixturenames", ())


def select_system(config: pytest.Config, items: list[pytest.Item]) -> None:
    """--harness-system: leave the tests with that mark alone. Raises UsageError that names the known ones."""
    wanted = config.getoption("--harness-system")
    if not wanted:
        return
    names = {item.nodeid: {name for mark in item.iter_markers(SYSTEM_MARKER) for name in mark.args} for item in items}
    chosen = [item for item in items if wanted in names[item.nodeid]]
    if not chosen and not hasattr(config, "workerinput"):
        known = ", ".join(sorted(set().union(*names.values()))) or "none here"
        raise pytest.UsageError(f"no scenario of system {wanted!r}; known: {known}")
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen

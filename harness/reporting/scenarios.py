"""The table of `harness run`: each guarantee, its verdict, how many states were judged for it."""

import ast
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.reporting.systems import TRIALS, Row, show_rows
from harness.reporting.text import count, printable, seconds, shortened
from harness.verdict import ExitCode, Verdict, worst


class Volume(msgspec.Struct):
    """One judgement that a test asked for: what it expected and what came of it."""

    verdict: str = ""
    expected: str = ""
    states: int = 0
    fs: str = ""
    scope: str = ""
    bundles: list[str] = msgspec.field(default_factory=list)

    @property
    def violated(self) -> bool:
        return self.verdict == Verdict.CORRUPTED and self.expected not in (Verdict.CORRUPTED, "ANY")


class Scenario(msgspec.Struct):
    """One test, as it was run."""

    test: str
    guarantee: str
    outcome: str = "passed"
    seconds: float = 0.0
    message: str = ""
    volumes: list[Volume] = msgspec.field(default_factory=list)
    trials: list[Row] = msgspec.field(default_factory=list)
    bundles: list[str] = msgspec.field(default_factory=list)
    replays: list[str] = msgspec.field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """INTACT: it passed, so each volume's verdict is the expected one. A failure without a violation is UNKNOWN."""
        if self.outcome == "passed":
            return Verdict.INTACT
        violated = any(volume.violated for volume in self.volumes)
        violated |= any(row.verdict == Verdict.CORRUPTED and not row.as_wanted for row in self.trials)
        return Verdict.CORRUPTED if violated else Verdict.UNKNOWN

    @property
    def shown(self) -> str:
        """The verdict as the table has it: a planted bug that was found has the verdict that it should have."""
        if self.outcome != "passed":
            return self.verdict.value
        planted = {row.variant for row in self.trials if row.planted}
        telling = [row for row in self.trials if row.planted or row.variant not in planted]
        words = {volume.verdict for volume in self.volumes if volume.verdict} | {row.verdict for row in telling}
        return "/".join(sorted(words)) + (" as planted" if Verdict.CORRUPTED in words else "") or "passed"

    @property
    def states(self) -> int:
        return sum(volume.states for volume in self.volumes)


def gather(lines: Iterable[str], root: str) -> list[Scenario]:
    """Scenarios from the lines of harness.cli.collector; `root`: what test ids are relative to."""
    found: dict[str, Scenario] = {}
    for line in lines:
        told = msgspec.json.decode(line)
        test = told["test"]
        scenario = found.setdefault(test, Scenario(test=test, guarantee=guarantee(test, root)))
        scenario.seconds += told["seconds"]
        if told["outcome"] != "passed":
            scenario.outcome = told["outcome"] if told["phase"] == "call" else f"{told['outcome']} in {told['phase']}"
            scenario.message = told["message"]
        _add_properties(scenario, told["properties"])
    return list(found.values())


_FIELDS = {"crash_expected": "expected", "crash_fs": "fs", "crash_scope": "scope"}


def _add_properties(scenario: Scenario, properties: Sequence[tuple[str, Any]]) -> None:
    """Properties of several volumes stand in order; each volume's begin with its verdict."""
    for name, value in properties:
        if name == "crash_verdict":
            scenario.volumes.append(Volume(verdict=str(value)))
        elif name == "crash_bundle":
            scenario.bundles.append(str(value))
            if scenario.volumes:
                scenario.volumes[-1].bundles.append(str(value))
        elif name == TRIALS:
            scenario.trials.append(msgspec.json.decode(value, type=Row))
        elif name == "crash_replay":
            scenario.replays.append(str(value))
        elif scenario.volumes and name == "crash_states":
            scenario.volumes[-1].states = int(value)
        elif scenario.volumes and name in _FIELDS:
            setattr(scenario.volumes[-1], _FIELDS[name], str(value))


def guarantee(test: str, root: str) -> str:
    """The first line of the test file's docstring; without one, the file's name."""
    path = test.partition("::")[0]
    try:
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = ast.get_docstring(ast.parse(file.read())) or ""
    except (OSError, SyntaxError, ValueError):
        text = ""
    return text.strip().partition("\n")[0].rstrip(".") or path


def case(test: str) -> str:
    """What tells one test of a file from the others: its name and parameters, as words."""
    name, _, parameters = test.partition("::")[2].partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    return f"{words} [{parameters}" if parameters else words or test


def exit_code(scenarios: Sequence[Scenario]) -> ExitCode:
    """That of the worst verdict."""
    return worst(scenario.verdict for scenario in scenarios).exit_code


def show(out: Console, scenarios: Sequence[Scenario], elapsed: float) -> None:
    """The table, the totals, and each failure with its replay command."""
    verdict = worst(scenario.verdict for scenario in scenarios)
    passed = sum(1 for scenario in scenarios if scenario.outcome == "passed")
    out.print()
    style = {Verdict.INTACT: "bold green", Verdict.CORRUPTED: "bold red", Verdict.UNKNOWN: "bold yellow"}
    headline = f"{passed:,} of {count(len(scenarios), 'scenario')} as they should be, in {seconds(elapsed)}"
    out.print(Text.assemble((f" {verdict} ", style[verdict] + " reverse"), "  ", headline))
    out.print()
    rows = [row for scenario in scenarios for row in scenario.trials]
    if not all(scenario.trials for scenario in scenarios):
        out.print(_table(scenarios))
        out.print()
    if rows:
        show_rows(out, rows)
        out.print()
    out.print(totals(scenarios))
    for scenario in scenarios:
        if scenario.outcome != "passed":
            _show_failure(out, scenario)


def _table(scenarios: Sequence[Scenario]) -> Table:
    """A guarantee, and below it the tests that hold it to account."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("guarantee", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("states", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    above = ""
    for scenario in scenarios:
        if scenario.guarantee != above:
            above = scenario.guarantee
            table.add_row(Text(printable(above), style="bold"))
        style = "" if scenario.outcome == "passed" else "bold red"
        states = _judged(scenario)
        name = Text("  " + printable(case(scenario.test)))
        table.add_row(name, Text(scenario.shown, style=style), states, seconds(scenario.seconds))
    return table


def _judged(scenario: Scenario) -> str:
    if scenario.trials:
        return count(sum(row.plans for row in scenario.trials), "plan")
    return f"{scenario.states:,}" if scenario.volumes else "-"


def by_file_system(scenarios: Sequence[Scenario]) -> dict[str, int]:
    """States judged, by file system and options."""
    counts: Counter[str] = Counter()
    for scenario in scenarios:
        for volume in scenario.volumes:
            counts[volume.fs or "unknown file system"] += volume.states
    return dict(counts)


def totals(scenarios: Sequence[Scenario]) -> str:
    """What was judged, in one line: crash states by file system, plans of systems under test."""
    by_fs = by_file_system(scenarios)
    parts = ", ".join(f"{fs} {states:,}" for fs, states in sorted(by_fs.items()))
    plans = sum(row.plans for scenario in scenarios for row in scenario.trials)
    states = f"{count(sum(by_fs.values()), 'state')} judged" + (f" ({parts})" if parts else "")
    live = f"{count(plans, 'plan')} of systems under test tried"
    return ", ".join([states] * bool(by_fs or not plans) + [live] * bool(plans))


def _show_failure(out: Console, scenario: Scenario) -> None:
    out.print()
    out.print(Text(f"{scenario.outcome}: {scenario.test}", style="bold red"))
    if scenario.message:
        out.print(Text(f"  {printable(shortened(scenario.message, 300))}"))
    for replay in scenario.replays:
        out.print(Text(f"  replay  {replay}", style="bold"))


def as_json(scenarios: Sequence[Scenario], code: ExitCode, elapsed: float, version: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": 1,
        "kind": "crash-harness run",
        "harness": version,
        "verdict": worst(scenario.verdict for scenario in scenarios).value,
        "exit_code": int(code),
        "seconds": round(elapsed, 3),
        "states": sum(scenario.states for scenario in scenarios),
        "states_by_file_system": by_file_system(scenarios),
        "scenarios": [{"verdict": scenario.verdict.value} | msgspec.to_builtins(scenario) for scenario in scenarios],
    }

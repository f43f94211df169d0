"""Annotations for GitHub Actions: the findings beside the lines of the tests that made them.

GitHub shows ten errors and ten warnings of a step. Source: its documentation, "Workflow commands for GitHub Actions".
"""

import ast
import os
from collections.abc import Mapping, Sequence

from harness.reporting.scenarios import Scenario, case
from harness.reporting.text import count, printable, shortened
from harness.verdict import Verdict

SHOWN_MAX = 10
"""Of a kind, in one step."""

_MESSAGE_MAX = 1000
_TITLE_MAX = 120


def on_github(environ: Mapping[str, str]) -> bool:
    """Whether this process runs in a workflow."""
    return environ.get("GITHUB_ACTIONS") == "true"


def annotations(scenarios: Sequence[Scenario], root: str, workspace: str) -> list[str]:
    """A workflow command for each scenario that failed: `::error` for a violation, `::warning` for UNKNOWN.

    `root`: what test ids are relative to; `workspace`: the checkout, from which GitHub counts the names of files. Of
    more than GitHub shows, the last one says how many there are.
    """
    commands = []
    for verdict, kind in ((Verdict.CORRUPTED, "error"), (Verdict.UNKNOWN, "warning")):
        its = [each for each in scenarios if each.outcome != "passed" and each.verdict is verdict]
        shown = its if len(its) <= SHOWN_MAX else its[: SHOWN_MAX - 1]
        commands += [_annotation(kind, scenario, root, workspace) for scenario in shown]
        if len(its) > len(shown):
            more = f"{count(len(its) - len(shown), 'more scenario')}: the summary of this job has them all"
            commands.append(command(kind, more, title=str(verdict)))
    return commands


def command(kind: str, message: str, **properties: str | int) -> str:
    """`::kind name=value,…::message`, escaped as the runner's toolkit does it; empty properties are left out."""
    given = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value != "")
    return f"::{kind}{' ' + given if given else ''}::{_data(message)}"


def _annotation(kind: str, scenario: Scenario, root: str, workspace: str) -> str:
    path, _, _ = scenario.test.partition("::")
    file = os.path.join(root, path)
    title = shortened(printable(f"{scenario.verdict}: {scenario.guarantee}"), _TITLE_MAX)
    lines = [case(scenario.test), scenario.message or scenario.outcome, *scenario.replays]
    message = "\n".join(shortened(printable(line), _MESSAGE_MAX) for line in lines)
    return command(kind, message, file=os.path.relpath(file, workspace), line=line_of(file, scenario.test), title=title)


def line_of(file: str, test: str) -> int:
    """The line at which the test's function is defined; 1 where it is not found (it may be made at run time)."""
    name = test.rpartition("::")[2].partition("[")[0]
    try:
        with open(file, encoding="utf-8") as opened:
            tree = ast.parse(opened.read())
    except (OSError, SyntaxError, ValueError):
        return 1
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((node.lineno for node in functions if node.name == name), 1)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

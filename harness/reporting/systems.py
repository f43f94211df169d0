"""Live trials for people: one trial whole, and the table of a system's variants."""

import shlex
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from harness.reporting.evidence import troubles
from harness.reporting.text import printable
from harness.trial.live import System, Trial
from harness.verdict import FindingKind, Verdict

_STYLES = {Verdict.INTACT: "bold green", Verdict.CORRUPTED: "bold red", Verdict.UNKNOWN: "bold yellow"}
_KERNEL_MAX = 12

TRIALS = "live_trial"
"""The property of a test that carries a Row, as JSON."""

_LABEL = 10


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a system, and what came of its plans. `plans` counts those tried; `as_wanted`: as it should be."""

    system: str
    variant: str
    verdict: str
    finding: str = ""
    plans: int = 0
    as_wanted: bool = True
    summary: str = ""
    plan: str = ""
    replay: str = ""
    again: str = ""


def replay_command(system: System[Any], variant: str, plan: str) -> str:
    """What shows the same trial again, from the folder that the system's module is found in."""
    return f"harness trial {system.home} {variant} --plan {shlex.quote(plan)}"


def trial_lines(system: System[Any], variant: str, plan: str, trial: Trial, *, verbose: bool = False) -> list[str]:
    """One trial as plain lines: findings, story, facts, the kernel's words, the command that replays it.

    `verbose`: every line of the kernel, as it came.
    """
    lines = []
    for finding in trial.findings:
        lines.append(f"{finding.kind}  {printable(finding.summary)}")
        lines += [f"  {printable(line)}" for line in finding.output.splitlines()]
    fields = [("story", trial.story), ("facts", [f"{name}: {value}" for name, value in trial.facts.items()])]
    fields += [("kernel", trial.kernel if verbose else troubles(trial.kernel, _KERNEL_MAX)), ("plan", [plan])]
    fields.append(("replay", [replay_command(system, variant, plan)]))
    for label, its in fields:
        lines += [f"  {label if n == 0 else '':<{_LABEL}} {printable(line)}" for n, line in enumerate(its)]
    return lines


def show_trial(
    out: Console, system: System[Any], variant: str, plan: str, trial: Trial, *, verbose: bool = False
) -> None:
    """The verdict and all that is known of one trial."""
    title = f"{system.name}, {variant}: " + (", ".join(sorted(trial.kinds)) or "every promise was kept")
    out.print(Text.assemble((f" {trial.verdict} ", _STYLES[trial.verdict] + " reverse"), "  ", title))
    for line in trial_lines(system, variant, plan, trial, verbose=verbose):
        out.print(Text(line))


def show_rows(out: Console, rows: Sequence[Row]) -> None:
    """Variant, verdict, finding, plans tried; below each row its plan and the command that replays it, to be copied."""
    width = max(len(f"{row.system} {row.variant}") for row in rows)
    kinds = max(len(kind) for kind in FindingKind)
    out.print(Text(f"{'variant':<{width}}  {'verdict':<20}  {'finding':<{kinds}}  plans", style="bold"))
    for row in rows:
        verdict = row.verdict + (" as planted" if row.verdict == Verdict.CORRUPTED and row.as_wanted else "")
        name = f"{row.system} {row.variant}"
        style = "" if row.as_wanted else "bold red"
        out.print(Text(f"{name:<{width}}  {verdict:<20}  {row.finding or '-':<{kinds}}  {row.plans:,}", style=style))
        for label, text in (("", row.summary), ("plan", row.plan), ("replay", row.replay)):
            if text:
                out.print(Text(f"    {label:<6}  {printable(text)}"))

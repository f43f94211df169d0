"""A plan that was struck by a fault, for people and as JSON."""

import errno
from typing import Any

import msgspec
from rich.console import Console

from harness.plan.plan import Outcome, Plan, outcomes_of
from harness.reporting.evidence import classes, troubles
from harness.reporting.json_report import of_finding
from harness.reporting.terminal import Page, replay_command
from harness.reporting.text import count
from harness.trial.kill import Struck, promised
from harness.verdict import Verdict

_KERNEL_MAX = 8
_LAST = 4


def show(out: Console, plan: Plan, struck: Struck, bundle: str, *, verbose: bool) -> None:
    """The verdict, where the fault struck, what was found, and the command that brings the disk back."""
    page = Page(out, verbose=verbose)
    page.verdict(struck.verdict, _headline(struck))
    page.line()
    page.field("fault", f"{struck.fault}, struck {count(struck.hits, 'time')}")
    page.block("note", struck.notes)
    begun = len(struck.plan.all)
    page.field("plan", f"{count(min(begun, len(plan.all)), 'operation')} of {len(plan.all)} begun, the last of them:")
    outcomes = outcomes_of(struck.recording.log)
    page.block("", [_said(outcome) for outcome in (outcomes if verbose else outcomes[-_LAST:])])
    promises = promised(struck.plan, struck.recording.log)
    page.field("promises", f"{promises:,} made, before any fsync failed" if promises else "none")
    page.block("kernel", struck.kernel if verbose else troubles(struck.kernel, _KERNEL_MAX))
    for finding in struck.findings:
        page.line()
        page.finding(finding)
        page.evidence(finding)
    if bundle:
        page.field("replay", replay_command(bundle), "bold")


def _headline(struck: Struck) -> str:
    if struck.verdict is Verdict.INTACT:
        return "what had been promised is there after the volume was taken away and attached again"
    if struck.verdict is Verdict.UNKNOWN:
        return "nothing can be said: " + struck.findings[0].summary
    return "something that was promised is not there"


def _said(outcome: Outcome) -> str:
    how = "ok" if outcome.ok else errno.errorcode.get(outcome.errno, str(outcome.errno))
    return f"{outcome.n:>3}  {outcome.op}: {how}"


def as_json(plan: Plan, struck: Struck, bundle: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": 1,
        "kind": "crash-harness strike",
        "verdict": struck.verdict.value,
        "fault": str(struck.fault),
        "hits": struck.hits,
        "notes": struck.notes,
        "plan": msgspec.to_builtins(plan),
        "outcomes": msgspec.to_builtins(outcomes_of(struck.recording.log)),
        "findings": [of_finding(finding) for finding in struck.findings],
        "kernel": list(struck.kernel),
        "kernel_classes": classes(struck.kernel),
        "bundle": bundle,
    }

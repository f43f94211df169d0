"""The bugs that a store knows, and what became of its bundles: for people and for programs."""

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from harness.campaign.rejudging import Rejudged
from harness.campaign.store import BugRow
from harness.reporting.terminal import Page, replay_command
from harness.reporting.text import count, printable, shortened
from harness.verdict import ExitCode, Finding, Verdict, worst

_STYLES = {Verdict.INTACT: "green", Verdict.CORRUPTED: "bold red", Verdict.UNKNOWN: "bold yellow"}
_CELL_MAX = 40
_HEADS = ("id", "file system", "what", "shape", "lost", "seen", "first", "last", "again")
_ID = 10


def show_bugs(out: Console, bugs: Sequence[BugRow], reports: str, *, hidden: int, verbose: bool) -> None:
    """A row for each bug, and below it the command that shows it. `hidden`: canaries that are not among them."""
    rows = [_row(bug, verbose=verbose) for bug in bugs]
    widths = [max(len(row[n]) for row in (_HEADS, *rows)) for n in range(len(_HEADS))]
    if rows:
        _print(out, _HEADS, widths, "bold")
    for bug, row in zip(bugs, rows, strict=True):
        _print(out, row, widths, _STYLES[bug.verdict])
        out.print(Text(f"{'':<{_ID}}  {printable(bug.summary)}"), soft_wrap=True)
        out.print(Text(f"{'':<{_ID}}  {_how(bug, reports)}", style="bold"), soft_wrap=True)
    if rows:
        out.print()
    out.print(_in_all(bugs, hidden))


def _print(out: Console, row: Sequence[str], widths: Sequence[int], style: str) -> None:
    cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
    out.print(Text("  ".join(cells).rstrip(), style=style), soft_wrap=True)


def _row(bug: BugRow, *, verbose: bool) -> tuple[str, ...]:
    signature = bug.signature
    cells = (
        signature.id,
        signature.file_system,
        signature.rule if bug.verdict is Verdict.CORRUPTED else f"{bug.verdict} {signature.rule}",
        signature.shape,
        signature.lost,
        f"{bug.count:,}",
        bug.first_seen[:10],
        bug.last_seen[:10],
        bug.rate or "-",
    )
    return tuple(printable(cell if verbose else shortened(cell, _CELL_MAX)) for cell in cells)


def _how(bug: BugRow, reports: str) -> str:
    if not bug.bundle:
        return "no bundle of it is kept"
    path = os.path.join(reports, bug.bundle)
    return replay_command(path) if os.path.exists(path) else f"its bundle is gone: {printable(path)}"


def _in_all(bugs: Sequence[BugRow], hidden: int) -> str:
    text = f"{count(len(bugs), 'bug')}, {count(sum(bug.count for bug in bugs), 'sighting')}" if bugs else "no findings"
    more = f"{count(hidden, 'row')} of what is seen only where it is expected (planted bugs, surprises): --all"
    return f"{text}; {more}" if hidden else text


def bugs_as_json(bugs: Sequence[BugRow], reports: str, version: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": 1,
        "kind": "crash-harness findings",
        "harness": version,
        "reports": os.path.abspath(reports),
        "bugs": [
            {"id": bug.signature.id}
            | msgspec.to_builtins(bug)
            | {"replay": replay_command(os.path.join(reports, bug.bundle)) if bug.bundle else None}
            for bug in bugs
        ],
    }


def rejudged_line(one: Rejudged) -> str:
    """`CORRUPTED  as recorded   reports/x.crash  LOST_ACKED …`."""
    then = "as recorded" if one.same else f"was {one.recorded}"
    what = one.trouble or ", ".join(map(_finding, one.findings))
    return f"{one.now:<9}  {then:<13}  {printable(one.known.path)}  {printable(shortened(what))}".rstrip()


def _finding(finding: Finding) -> str:
    return f"{finding.kind} {finding.summary.removeprefix(finding.kind).strip()}"


def show_rejudged(page: Page, found: Sequence[Rejudged], *, asked: int) -> None:
    """The worst verdict and the counts, then a line for each bundle, the changed ones first."""
    verdict = worst(one.now for one in found)
    unknown = sum(one.now is Verdict.UNKNOWN for one in found)
    changed = sum(not one.same and one.now is not Verdict.UNKNOWN for one in found)
    page.verdict(
        verdict, f"{count(len(found), 'bundle')} of {asked:,} judged again: {_changes(found, changed, unknown)}"
    )
    page.line()
    for one in sorted(found, key=lambda one: (one.same, one.known.path)):
        page.line(f"  {rejudged_line(one)}", _STYLES[one.now])


def _changes(found: Sequence[Rejudged], changed: int, unknown: int) -> str:
    same = sum(one.same for one in found)
    parts = [f"{same:,} as recorded", f"{changed:,} changed" * bool(changed), f"{unknown:,} UNKNOWN" * bool(unknown)]
    return ", ".join(filter(None, parts))


def rejudged_as_json(found: Sequence[Rejudged], code: ExitCode, version: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": 1,
        "kind": "crash-harness rejudge",
        "harness": version,
        "verdict": worst(one.now for one in found).value,
        "exit_code": int(code),
        "bundles": [
            {
                "bundle": one.known.path,
                "recorded": one.recorded.value,
                "now": one.now.value,
                "same": one.same,
                "signature": one.known.signature.id if one.known.signature else None,
                "findings": [{"kind": finding.kind.value, "summary": finding.summary} for finding in one.findings],
                "trouble": one.trouble or None,
            }
            for one in found
        ],
    }

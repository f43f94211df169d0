"""Live trials for people: one trial whole with its tables, and the table of a system's variants and kill points."""

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from harness.reporting.evidence import troubles
from harness.reporting.text import printable, shortened
from harness.trial.live import System, Table, Trial
from harness.trial.search import steady
from harness.verdict import Verdict

_STYLES = {Verdict.INTACT: "bold green", Verdict.CORRUPTED: "bold red", Verdict.UNKNOWN: "bold yellow"}
_KERNEL_MAX = 12
_ROWS_MAX = 24
_CELL_MAX = 32

TRIALS = "live_trial"
"""The property of a test that carries a Row, as JSON."""

_LABEL = 10
_VERDICT = len("CORRUPTED as planted")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a system, and what came of its plans. `plans` counts those tried; `as_wanted`: as it should be.

    `point`: a kill point at which they struck; then `plans` counts runs. `plan` is the one that shows `finding`, and
    `replay` runs it again; at a kill point at which nothing was found, `replay` runs all of them again.
    """

    system: str
    variant: str
    point: str = ""
    verdict: str
    finding: str = ""
    plans: int = 0
    as_wanted: bool = True
    summary: str = ""
    plan: str = ""
    replay: str = ""
    again: str = ""

    @property
    def planted(self) -> bool:
        """The fault that was looked for was found, and found again. Elsewhere a variant may show another, or once."""
        return self.verdict == Verdict.CORRUPTED and self.as_wanted and steady(self.again)


def replay_command(system: System[Any], variant: str, plan: str) -> str:
    """What shows the same trial again, from the folder that the system's module is found in."""
    return f"harness trial {system.home} {variant} --plan {shlex.quote(plan)}"


def point_command(system: System[Any], variant: str, point: str, *, runs: int, seed: int) -> str:
    """What runs the plans of a kill point again."""
    return f"harness trial {system.home} {variant} --point {shlex.quote(point)} --repeat {runs} --seed {seed}"


def trial_lines(system: System[Any], variant: str, plan: str, trial: Trial, *, verbose: bool = False) -> list[str]:
    """One trial as plain lines: findings, tables, story, facts, the kernel's words, the command that replays it.

    `verbose`: every line of the kernel, as it came, and tables whole.
    """
    lines = []
    for finding in trial.findings:
        lines.append(f"{finding.kind}  {printable(finding.summary)}")
        lines += [f"  {printable(line)}" for line in finding.output.splitlines()]
    for table in trial.tables:
        lines += [f"  {line}" for line in table_lines(table, verbose=verbose)]
    fields = [("story", trial.story), ("facts", [f"{name}: {value}" for name, value in trial.facts.items()])]
    fields += [("kernel", trial.kernel if verbose else troubles(trial.kernel, _KERNEL_MAX)), ("plan", [plan])]
    fields.append(("replay", [replay_command(system, variant, plan)]))
    for label, its in fields:
        lines += [f"  {label if n == 0 else '':<{_LABEL}} {printable(line)}" for n, line in enumerate(its)]
    return lines


def table_lines(table: Table, *, verbose: bool = False) -> list[str]:
    """A title, and columns below it. Without `verbose` at most 24 rows, of cells with at most 32 characters."""
    shown = table.rows if verbose else table.rows[:_ROWS_MAX]
    limit = max(map(len, itertools.chain(*table.rows)), default=0) if verbose else _CELL_MAX
    body = [[shortened(printable(cell), limit) for cell in row] for row in shown]
    lines = [printable(table.title), *(f"  {line}" for line in _aligned([list(table.columns), *body]))]
    if len(shown) < len(table.rows):
        lines.append(f"  … and {len(table.rows) - len(shown):,} more rows: --verbose shows them")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()


def counted(trials: Iterable[Trial]) -> str:
    """`18 of 20 times INTACT`, or the worst first: `2 of 20 times CORRUPTED, 18 INTACT`."""
    counts = Counter(trial.verdict for trial in trials)
    first, *others = sorted(counts, key=list(Verdict).index, reverse=True)
    return ", ".join(
        [f"{counts[first]} of {counts.total()} times {first}", *(f"{counts[verdict]} {verdict}" for verdict in others)]
    )


def show_trial(
    out: Console, system: System[Any], variant: str, plan: str, trial: Trial, *, verbose: bool = False
) -> None:
    """The verdict and all that is known of one trial."""
    title = f"{system.name}, {variant}: " + (", ".join(sorted(trial.kinds)) or "every promise was kept")
    out.print(Text.assemble((f" {trial.verdict} ", _STYLES[trial.verdict] + " reverse"), "  ", title))
    for line in trial_lines(system, variant, plan, trial, verbose=verbose):
        out.print(Text(line))


def show_rows(out: Console, rows: Sequence[Row]) -> None:
    """Variant, kill point, verdict, finding, runs; below each row that has a finding, what it is and what replays it.

    The points of a variant at which nothing was found have one command together.
    """
    pointed = any(row.point for row in rows)
    head, *lines = _aligned([_head(pointed=pointed), *(_cells(row, pointed=pointed) for row in rows)])
    out.print(Text(head, style="bold"))
    told = zip(rows, lines, strict=True)
    for _, group in itertools.groupby(told, key=lambda each: (each[0].system, each[0].variant, bool(each[0].point))):
        quiet: list[Row] = []
        for row, line in group:
            out.print(Text(line, style="" if row.as_wanted else "bold red"))
            quiet += [row] * (row.point != "" and not row.plan)
            for label, text in (("", row.summary), ("plan", "" if row.point else row.plan), ("replay", row.replay)):
                if text and not (label == "replay" and row in quiet):
                    out.print(Text(f"    {label:<6}  {printable(text)}"))
        if quiet:
            out.print(Text(f"    {'replay':<6}  {_of_any(quiet)}"))


def _head(*, pointed: bool) -> list[str]:
    return ["variant", *["kill point"] * pointed, f"{'verdict':<{_VERDICT}}", "finding", "plans", "again"]


def _cells(row: Row, *, pointed: bool) -> list[str]:
    verdict = row.verdict + (" as planted" if row.planted else "")
    point = [row.point or "-"] * pointed
    return [f"{row.system} {row.variant}", *point, verdict, row.finding or "-", f"{row.plans:,}", row.again or "-"]


def _of_any(rows: Sequence[Row]) -> str:
    """The command of one of several points, with the word POINT where there are more."""
    first = rows[0]
    return (
        first.replay
        if len(rows) == 1
        else first.replay.replace(f"--point {shlex.quote(first.point)} ", "--point POINT ")
    )

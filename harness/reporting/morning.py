"""The morning report, on a terminal, as Markdown, as JSON. (As a page: harness.reporting.morning_page.)"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

import harness
from harness.campaign.morning import CONFIDENCE, Kept, Morning
from harness.campaign.store import BugRow
from harness.reporting.terminal import Page, replay_command
from harness.reporting.text import count, printable, seconds, shortened, size
from harness.verdict import Verdict

WHAT_THE_BOUND_IS = (
    "The bound says: had such a trial failed more often than that, so many without a failure would have been seen with "
    f"a chance of less than {1 - CONFIDENCE:.0%}. It speaks of plans as they are drawn here, at random from the "
    "strategies, and judged by the states that were judged. It says nothing of plans that are never drawn, of other "
    "kernels, options or hardware, and it is not the chance that a bug exists."
)

SECTIONS = (
    ("new", "never seen before"),
    ("back", "seen before, not in the last soak, now again"),
    ("still", "seen in the last soak, and now"),
    ("gone", "seen before, tried again now, not seen"),
    ("untried", "seen before, not seen now, not tried again by itself"),
)


def headline(morning: Morning) -> str:
    """One sentence behind the verdict."""
    if morning.verdict is Verdict.CORRUPTED:
        parts = [f"{len(bugs):,} {name}" for name, bugs in found_by_section(morning)[:3] if bugs]
        return f"{count(len(morning.found), 'kind')} of finding: " + ", ".join(parts)
    if morning.verdict is Verdict.UNKNOWN:
        return "; ".join(morning.reasons) or "it has not ended"
    return f"no violation in {count(morning.states, 'state')} of {count(morning.plans, 'trial')}"


def found_by_section(morning: Morning) -> list[tuple[str, tuple[BugRow, ...]]]:
    """In the order in which they are to be read."""
    return [(name, getattr(morning, name)) for name, _ in SECTIONS]


def facts(morning: Morning) -> Iterator[tuple[str, str]]:
    """Label and text of what is said once, above all lists."""
    run = morning.run
    when = f"{run.started} to {run.ended}" if run.ended else f"{run.started}, not ended"
    yield "soak", f"run {run.id}, seed {run.seed}, {when}" + (", interrupted" if run.interrupted else "")
    took = f"{seconds(morning.seconds)} by {count(morning.workers, 'worker')}, {count(morning.shards, 'shard')}"
    yield "time", took + (f", resumed {count(morning.resumed, 'time')}" if morning.resumed else "")
    trials = f"{count(morning.states, 'state')} of {count(morning.plans, 'trial')}"
    yield "judged", f"{trials}, {morning.rate:,.0f} states/s"
    yield "canary", canary_text(morning)
    dropped = f", {count(morning.dropped, 'bundle')} dropped for want of room" if morning.dropped else ""
    yield "disk", f"{size(morning.disk)} for bundles and store{dropped}"
    yield "machine", f"harness {run.harness}, Linux {run.kernel}, {run.host}"


def canary_text(morning: Morning) -> str:
    canary = morning.canary
    total = canary.found + canary.missed
    return f"found {canary.found:,} of {count(total, 'time')}" + (f", last at {canary.last}" if canary.last else "")


def bound_text(kept: Kept) -> str:
    """`at most 0.03 % (95 %)`."""
    if kept.upper is None:
        return f"{kept.row.failed:,} failed" if kept.row.failed else "-"
    return f"at most {kept.upper:.2%}" if kept.upper >= 0.0001 else f"at most {kept.upper:.1e}"


def bug_text(bug: BugRow) -> str:
    """One line: which file system, which rule, how often."""
    text = f"{bug.signature.file_system}: {bug.signature.rule}, {count(bug.count, 'trial')}"
    return printable(text + (f", came again {bug.rate}" if bug.rate else ""))


def bundle_command(bug: BugRow, reports: str) -> str:
    return replay_command(f"{reports.rstrip('/')}/{bug.bundle}") if bug.bundle else "no bundle is kept of it"


def show(page: Page, morning: Morning, reports: str) -> None:
    """For a terminal."""
    page.verdict(morning.verdict, headline(morning))
    page.line()
    for label, text in facts(morning):
        page.field(label, text)
    page.block("unknown", morning.reasons if morning.verdict is not Verdict.UNKNOWN else ())
    meanings = dict(SECTIONS)
    for name, bugs in found_by_section(morning):
        if bugs:
            page.line()
            page.line(f"{name} ({meanings[name]})", "bold")
            for bug in bugs:
                _show_bug(page, bug, reports)
    if morning.unjudged:
        page.line()
        page.line("could not be judged", "bold")
        page.block("", (bug_text(bug) for bug in morning.unjudged))
    page.line()
    page.line("guarantees, with the highest failure rate that fits (95 %)", "bold")
    for kept in morning.kept:
        row = kept.row
        judged = f"{count(row.trials, 'trial')}, {count(row.states, 'state')}"
        unknown = f", {row.unknown:,} unknown" if row.unknown else ""
        page.line(f"  {bound_text(kept):<17} {printable(row.guarantee)}: {judged}{unknown}")
    page.line()
    page.line(WHAT_THE_BOUND_IS, "dim")


def _show_bug(page: Page, bug: BugRow, reports: str) -> None:
    page.line(f"  {bug.signature.id}  {bug_text(bug)}", "bold red")
    page.field("", shortened(printable(bug.summary), 300))
    page.field("plan", printable(bug.signature.shape))
    page.field("replay", bundle_command(bug, reports), "bold")


def markdown(morning: Morning, reports: str) -> str:
    """The same for a file that is read where it lies, or on a web page."""
    lines = [f"# Soak: {morning.verdict}", "", escaped(headline(morning)), ""]
    lines += [f"- **{label}**: {escaped(text)}" for label, text in facts(morning)]
    lines += [f"- **unknown**: {escaped(reason)}" for reason in morning.reasons]
    for name, bugs in found_by_section(morning):
        lines += ["", f"## {name.capitalize()} ({len(bugs)}): {dict(SECTIONS)[name]}", ""]
        lines += [line for bug in bugs for line in _markdown_bug(bug, reports)] or ["None."]
    if morning.unjudged:
        lines += ["", "## Could not be judged", ""]
        lines += [f"- {escaped(bug_text(bug))}: {escaped(bug.summary)}" for bug in morning.unjudged]
    lines += ["", "## Guarantees", "", "| guarantee | trials | states | unknown | failure rate (95 %) |"]
    lines += ["|---|---:|---:|---:|---|"]
    lines += [_markdown_row(kept) for kept in morning.kept]
    lines += ["", WHAT_THE_BOUND_IS, "", "## Rate over time", "", "| minute | trials | states |", "|---:|---:|---:|"]
    lines += [f"| {each.minute} | {each.plans:,} | {each.states:,} |" for each in morning.minutes]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """Text that Markdown takes for text."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in printable(text))


def _markdown_bug(bug: BugRow, reports: str) -> list[str]:
    return [
        f"- `{bug.signature.id}` {escaped(bug_text(bug))}",
        f"  - {escaped(bug.summary)}",
        f"  - plan: {escaped(bug.signature.shape)}; lost: {escaped(bug.signature.lost)}",
        f"  - `{bundle_command(bug, reports)}`" if bug.bundle else "  - no bundle is kept of it",
    ]


def _markdown_row(kept: Kept) -> str:
    row = kept.row
    return f"| {escaped(row.guarantee)} | {row.trials:,} | {row.states:,} | {row.unknown:,} | {bound_text(kept)} |"


def as_json(morning: Morning, reports: str) -> dict[str, Any]:
    """For programs."""
    told: dict[str, Any] = msgspec.to_builtins(morning)
    for name, bugs in found_by_section(morning):
        told[name] = [_json_bug(bug, reports) for bug in bugs]
    head = {"schema": 1, "kind": "crash-harness morning report", "harness": harness.__version__}
    return head | told | {"rate": morning.rate, "headline": headline(morning)}


def _json_bug(bug: BugRow, reports: str) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(bug)
    return told | {"id": bug.signature.id, "replay": bundle_command(bug, reports) if bug.bundle else None}


def coverage_cells(morning: Morning) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Operations, persistence calls, and how often each stood before each, over all sources. None: never."""
    counts: dict[tuple[str, str], int] = {}
    for name, times in morning.coverage.items():
        _, operation, persistence = name.rsplit("/", 2)
        counts[operation, persistence] = counts.get((operation, persistence), 0) + times
    rows, columns = (_by_count(counts, axis) for axis in (0, 1))
    return rows, columns, [[counts.get((row, column)) for column in columns] for row in rows]


def _by_count(counts: dict[tuple[str, str], int], axis: int) -> list[str]:
    names: Sequence[str] = sorted({key[axis] for key in counts})
    return sorted(names, key=lambda name: -sum(times for key, times in counts.items() if key[axis] == name))

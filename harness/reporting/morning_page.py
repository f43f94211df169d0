"""The morning report as one HTML file, which opens from disk and asks the network for nothing."""

from collections.abc import Iterator
from typing import Any

from harness.campaign.morning import Morning
from harness.campaign.store import BugRow
from harness.errors import Missing, RequirementMissing
from harness.reporting import morning as words

_RATE_POINTS = 240
"""More points than that are joined: a chart has so many pixels."""


def html(morning: Morning, reports: str) -> str:
    """The page, as text. Raises RequirementMissing without what draws it."""
    try:
        from harness.reporting.html import charts
        from harness.reporting.html.environment import render_template
    except ImportError as error:
        why = f"the page of the morning report is drawn with it ({error})"
        raise RequirementMissing([Missing("jinja2", why, "pip install --upgrade crash-harness")]) from error
    drawn = list(_charts(morning, charts))
    return render_template(
        "morning.html.j2",
        it=morning,
        headline=words.headline(morning),
        facts=list(words.facts(morning)),
        sections=[
            (name, dict(words.SECTIONS)[name], [_bug(bug, reports) for bug in bugs])
            for name, bugs in words.found_by_section(morning)
        ],
        kept=[(kept.row, words.bound_text(kept)) for kept in morning.kept],
        what_the_bound_is=words.WHAT_THE_BOUND_IS,
        charts=drawn,
    )


def _bug(bug: BugRow, reports: str) -> dict[str, Any]:
    told = {name: getattr(bug, name) for name in ("signature", "kind", "summary", "count", "states")}
    replay = words.bundle_command(bug, reports) if bug.bundle else ""
    return told | {"text": words.bug_text(bug), "replay": replay, "first": bug.first_seen, "last": bug.last_seen}


def _charts(morning: Morning, charts: Any) -> Iterator[Any]:
    if morning.minutes:
        step = -(-len(morning.minutes) // _RATE_POINTS)
        groups = [morning.minutes[at : at + step] for at in range(0, len(morning.minutes), step)]
        xs = [group[0].minute for group in groups]
        states = [sum(each.states for each in group) / len(group) / 60 for group in groups]
        yield charts.line_chart(
            "Rate over time", xs, {"states a second": states}, x_label="minute of the soak", y_label="states a second"
        )
    rows, columns, values = words.coverage_cells(morning)
    if rows:
        title = "How often each operation was judged before each kind of persistence"
        yield charts.heat_map(title, rows, columns, values)

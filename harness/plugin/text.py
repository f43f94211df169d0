"""The text of a failure: the finding as a terminal report shows it, without colour, the replay command last."""

import io
import os

from rich.console import Console

from harness.plan.plan import Plan
from harness.reporting import struck
from harness.reporting.facts import facts_of
from harness.reporting.terminal import Page, headline, replay_command, shown_by
from harness.reporting.text import printable, shortened
from harness.reporting.why import reasons
from harness.settings import Settings
from harness.trial.kill import Struck
from harness.trial.recording import Recording
from harness.trial.report import Found, Report

_WIDTH = 10_000
_TITLE_MAX = 200


def struck_text(plan: Plan, result: Struck, bundle: str) -> str:
    """The same for a plan that a fault has struck, the plan last."""
    out = io.StringIO()
    struck.show(_console(out), plan, result, bundle, verbose=False)
    return "\n".join(line.rstrip() for line in [*out.getvalue().strip().splitlines(), "plan", *plan.lines()])


def _console(out: io.StringIO) -> Console:
    # soft_wrap and an unlimited width: pytest indents the lines, and commands must be copied whole.
    return Console(
        file=out, force_terminal=False, color_system=None, highlight=False, markup=False, emoji=False, width=_WIDTH
    )


def failure_text(
    title: str, report: Report, recording: Recording, settings: Settings, scope: str, plan: Plan | None = None
) -> str:
    """`title`, what was judged, and the findings: the first one whole, of the others what each is and its replay."""
    out = io.StringIO()
    page = Page(_console(out), verbose=True)
    page.line(title)
    page.field("judged", scope)
    if report.found:
        page.field("", headline(report))
    page.block("note", report.notes)
    for number, found in enumerate(report.found):
        page.line()
        if number == 0:
            _whole(page, report, recording, settings, plan)
        else:
            page.finding(found.finding)
        _replay(page, found)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _whole(page: Page, report: Report, recording: Recording, settings: Settings, plan: Plan | None) -> None:
    found = report.found[0]
    page.finding(found.finding)
    for reason in reasons(report, recording, settings, plan=plan, most=1):
        page.why(reason)
    page.field("shown by", shown_by(found))
    page.state(facts_of(found, recording, settings))
    page.evidence(found.finding)


def _replay(page: Page, found: Found) -> None:
    if found.bundle:
        page.field("bundle", shown_path(found.bundle))
        page.field("replay", replay_command(shown_path(found.bundle)))


def shown_path(path: str) -> str:
    """Relative to where the user stands, where that is the shorter way to say it."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else path


def title_of(report: Report) -> str:
    """One line, which pytest's summary of failures repeats: what is wrong, if anything was found."""
    found = report.found[0].finding.summary if report.found else headline(report)
    return f"{report.verdict}: {printable(shortened(found, _TITLE_MAX))}"

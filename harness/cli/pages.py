"""Findings with all that can be known of them on this machine, and the HTML page that shows them."""

import contextlib
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
from rich.text import Text

import harness
from harness.advice.advised import Advice
from harness.cli.verdicts import Desk, Further, could_not_write
from harness.crash.model import show_count
from harness.errors import HarnessError
from harness.explain.explained import Explained, Side
from harness.reporting.explained import is_plan
from harness.reporting.progress import Follower
from harness.reporting.terminal import headline, volume_text
from harness.reporting.text import count, printable
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.verdict import ExitCode, Verdict

if TYPE_CHECKING:
    from harness.reporting.html.page import RunPage

_T = TypeVar("_T")

_TITLE = "crash report"


class Wanted(NamedTuple):
    """What the user asked for, beyond the story."""

    sides: bool
    advice: bool


def finding(file: str, bundle: Bundle, follower: Follower, wanted: Wanted) -> tuple[Explained, bool]:
    """The finding with all that can be known of it here; and whether the user interrupted the search."""
    from harness.explain.explaining import explain_bundle

    follower.stage(f"explaining {printable(file)}")
    explained = explain_bundle(bundle, file)
    notes: list[str] = []
    if wanted.sides:
        follower.stage("comparing the files")
        sides = _welcome("the files were not compared", notes, lambda: _sides(bundle))
        explained = msgspec.structs.replace(explained, sides=sides or ())
        if sides == ():
            notes.append("the files were compared: none differs")
    found = None
    if wanted.advice:
        follower.stage("searching for the missing fsync (Ctrl-C ends the search)")
        found = _welcome("the missing fsync was not searched for", notes, lambda: _advice(bundle, follower))
        explained = msgspec.structs.replace(explained, advice=found.advice if found else None)
    explained = msgspec.structs.replace(explained, notes=(*explained.notes, *notes))
    return explained, found is not None and found.interrupted


def _welcome(what: str, notes: list[str], work: Callable[[], _T]) -> _T | None:
    """A part of the report that it can do without: where it cannot be had, the reason becomes a note."""
    if os.geteuid() != 0:
        notes.append(f"{what}: that needs root")
        return None
    try:
        return work()
    except (HarnessError, OSError) as error:
        cause = error.cause if isinstance(error, HarnessError) else str(error)
        notes.append(f"{what}: {cause.splitlines()[0]}")
        return None


def _sides(bundle: Bundle) -> tuple[Side, ...]:
    from harness.explain.sides import sides

    manifest = bundle.manifest
    assert manifest.state is not None
    return sides(bundle.recording, manifest.settings, manifest.state.state(), manifest.plan)


class _Found(NamedTuple):
    """What a search came to."""

    advice: Advice
    interrupted: bool


def _advice(bundle: Bundle, follower: Follower) -> _Found:
    """Search for the smallest set of fsyncs; raises HarnessError, saying why, where the bundle gives nothing to run."""
    from harness.advice.bundled import subject_of
    from harness.advice.plan_subject import hopeless
    from harness.advice.search import Search, Searching

    # The recovery of a crash state is not cut again: what is missing shows in the first crash.
    settings = msgspec.structs.replace(bundle.manifest.settings, depth=1)
    plan = bundle.manifest.plan

    def tell(now: Searching) -> None:
        tried = f"{count(now.searched, 'changed workload')} judged"
        follower.tell(Text(f"{now.stage}: {tried}, now {printable(now.changes)}"))

    with contextlib.closing(subject_of(bundle, settings)) as subject:
        search = Search(subject, hopeless=hopeless(settings, contract=plan is not None), on_progress=tell)
        return _Found(search.run(), search.interrupted)


def tell_further(
    desk: Desk,
    further: Further,
    report: Report,
    recording: Recording,
    reasons: Sequence[Explained],
    code: ExitCode,
) -> bool:
    """Search for the missing fsync and print it, write the HTML page: what of it was asked for. False: it is not whole.

    The search is made for the first finding alone: as a rule what one lacks, the others lack.
    """
    findings = []
    with desk.follower as follower:
        # The page shows all of them; the search needs no more than the first.
        for number, reason in enumerate(reasons if further.html else reasons[:1]):
            told = reason
            if reason.bundle:
                wanted = Wanted(bool(further.html), further.advise and number == 0)
                told, stopped = finding(reason.bundle, bundles.load(reason.bundle), follower, wanted)
                if number == 0 and further.advise:
                    tell_advice(desk, told, interrupted=stopped)
            findings.append(told)
    if not further.html:
        return True
    from harness.reporting.html.page import RunPage

    page = RunPage(
        title=_TITLE,
        command=shlex.join(["harness", *sys.argv[1:]]),
        verdict=report.verdict,
        exit_code=code,
        scope=headline(report) if report.verdict is Verdict.UNKNOWN else report.scope,
        judged=report.judged,
        allowed=show_count(report.allowed),
        complete=report.complete and report.judged == report.selected,
        volume=volume_text(recording),
        seconds=report.seconds,
        notes=tuple(report.notes),
        findings=tuple(findings),
        harness=harness.__version__,
        kernel=f"Linux {platform.release()}",
        left_by_workload=frozenset(found.bundle for found in findings if not is_plan(found)),
    )
    written = write_page(further.html, page)
    if written:
        desk.page.field("report", printable(further.html), "bold")
    return written


def tell_advice(desk: Desk, told: Explained, *, interrupted: bool) -> None:
    """The answer of the search in one line, and what it leaves out."""
    desk.page.line()
    if told.advice:
        desk.page.field("advice", printable(told.advice.text), "bold")
        for each in told.advice.superfluous:
            desk.page.field("", printable(f"superfluous: {each.text}"))
    else:
        desk.page.block("advice", [note for note in told.notes if "missing fsync" in note])
    if interrupted:
        print("interrupted: the search for the missing fsync is not complete", file=sys.stderr)


def write_page(path: str, page: "RunPage") -> bool:
    """Write the HTML file. False: it could not be, which is told."""
    from harness.reporting.html.page import write  # brings the charts, which take time to import

    try:
        write(path, page)
    except OSError as error:
        could_not_write("the report", path, error)
        return False
    return True

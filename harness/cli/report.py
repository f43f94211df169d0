"""`harness report`: one HTML file of findings, from their bundles."""

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click
import msgspec
from rich.text import Text

import harness
from harness.advice.advised import Advice
from harness.cli import exits, options
from harness.cli.verdicts import Desk, could_not_write
from harness.errors import HarnessError, Misuse
from harness.explain.explained import Explained, Side
from harness.reporting.progress import Follower
from harness.reporting.text import count, printable
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.trial.commands import Commands
from harness.verdict import ExitCode, worst

if TYPE_CHECKING:
    from harness.advice.search import Subject

_T = TypeVar("_T")


class _Wanted(NamedTuple):
    """What the user asked for, beyond the story."""

    sides: bool
    advice: bool


@click.command("report", epilog=exits.epilog())
@click.argument("files", metavar="FILE.crash...", nargs=-1)
@click.option("-o", "--output", metavar="FILE.html", default="", help="[default: beside the first bundle, as .html]")
@click.option("--advice/--no-advice", default=True, help="Search for the missing fsync, as root. [default: --advice]")
@click.option("--sides/--no-sides", default=True, help="Compare the files, as root. [default: --sides]")
@options.verbose_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    files: tuple[str, ...],
    output: str,
    advice: bool,
    sides: bool,
    verbose: bool,
    quiet: bool,
) -> ExitCode:
    """Write one HTML file that says what broke, why, and what to add: the story of each bundle's finding, its timeline,
    every write by its name, and the bytes that differ. It opens from disk and asks the network for nothing.

    As root it also mounts the disk to compare its files, and runs the bundle's workload again to find the missing
    fsync. Neither is a reason to fail: what could not be done is told in the report. The exit status is 0 once the file
    is written, whatever the verdict in it.
    """
    path = output or _beside(files)
    opened = [(file, _opened(file)) for file in _expected(files, path)]
    desk = Desk("", quiet=quiet, verbose=verbose)
    interrupted = False
    with desk.trial(Settings(), Commands()) as follower:
        findings = []
        for file, bundle in opened:
            its, stopped = _finding(file, bundle, follower, _Wanted(sides, advice and not interrupted))
            interrupted |= stopped
            findings.append(its)
        follower.stage("writing the page")
        written = _write(path, opened, findings)
    if not written:
        return ExitCode.UNKNOWN
    desk.page.field("report", printable(path), "bold")
    if interrupted:
        print("interrupted: the search for the missing fsync is not complete", file=sys.stderr)
    return ExitCode.INTERRUPTED if interrupted else ExitCode.INTACT


def _beside(files: Sequence[str]) -> str:
    return files[0].removesuffix(bundles.SUFFIX) + ".html" if files else ""


def _expected(files: Sequence[str], path: str) -> Sequence[str]:
    if not files:
        raise Misuse("no bundle is named", "harness report FILE.crash; findings of harness check are in reports/")
    if any(os.path.abspath(file) == os.path.abspath(path) for file in files):
        raise Misuse(f"the report would replace the bundle {path}", "name another file with -o FILE.html")
    return files


def _opened(file: str) -> Bundle:
    bundle = bundles.load(file)
    if bundle.manifest.state is None or bundle.manifest.finding is None:
        raise Misuse(f"{file} holds a whole recording and no finding", f"judge it: harness judge {file}")
    return bundle


def _finding(file: str, bundle: Bundle, follower: Follower, wanted: _Wanted) -> tuple[Explained, bool]:
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
    from harness.advice.plan_subject import hopeless
    from harness.advice.search import Search, Searching

    # The recovery of a crash state is not cut again: what is missing shows in the first crash.
    settings = msgspec.structs.replace(bundle.manifest.settings, depth=1)
    plan = bundle.manifest.plan

    def tell(now: Searching) -> None:
        tried = f"{count(now.searched, 'changed workload')} judged"
        follower.tell(Text(f"{now.stage}: {tried}, now {printable(now.changes)}"))

    with contextlib.closing(_subject(bundle, settings)) as subject:
        search = Search(subject, hopeless=hopeless(settings, contract=plan is not None), on_progress=tell)
        return _Found(search.run(), search.interrupted)


def _subject(bundle: Bundle, settings: Settings) -> "Subject":
    manifest = bundle.manifest
    if manifest.plan:
        from harness.advice.plan_subject import PlanSubject

        return PlanSubject.of_plan(manifest.plan, settings)
    from harness.advice.program_subject import ProgramSubject

    if not manifest.commands.check:
        raise Misuse("the bundle names no check that could be run again", "run its test, or harness advise")
    return ProgramSubject.of_bundle(bundle._replace(manifest=msgspec.structs.replace(manifest, settings=settings)))


def _write(path: str, opened: Sequence[tuple[str, Bundle]], findings: Sequence[Explained]) -> bool:
    from harness.reporting.html import page

    verdict = worst(found.verdict for found in findings)
    try:
        page.write(
            path,
            page.RunPage(
                title=", ".join(os.path.basename(file) for file, _ in opened),
                verdict=verdict,
                exit_code=verdict.exit_code,
                scope=_scope(findings),
                volume=findings[0].volume if len(findings) == 1 else "",
                findings=tuple(findings),
                harness=harness.__version__,
                kernel=f"Linux {platform.release()}",
                left_by_workload=frozenset(file for file, bundle in opened if bundle.manifest.plan is None),
            ),
        )
    except OSError as error:
        could_not_write("the report", path, error)
        return False
    return True


def _scope(findings: Sequence[Explained]) -> str:
    """A bundle holds one crash state: it does not know how many were judged when it was found."""
    if len(findings) > 1:
        return f"{count(len(findings), 'crash state')}, each out of its bundle"
    advice = findings[0].advice
    scope = "one crash state, out of its bundle"
    if advice is None or not advice.before.states:
        return scope
    before = advice.before
    return f"{scope}; run again as it is, {before.failing:,} of {count(before.states, 'state')} fail"

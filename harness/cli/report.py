"""`harness report`: one HTML file of findings, from their bundles."""

import os
import platform
import sys
from collections.abc import Sequence

import click

import harness
from harness.cli import exits, options
from harness.cli.pages import Wanted, finding, write_page
from harness.cli.verdicts import Desk
from harness.errors import Misuse
from harness.explain.explained import Explained
from harness.reporting.text import count, printable
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.trial.commands import Commands
from harness.verdict import ExitCode, worst


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
            its, stopped = finding(file, bundle, follower, Wanted(sides, advice and not interrupted))
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


def _write(path: str, opened: Sequence[tuple[str, Bundle]], findings: Sequence[Explained]) -> bool:
    from harness.reporting.html.page import RunPage

    verdict = worst(found.verdict for found in findings)
    page = RunPage(
        title=", ".join(os.path.basename(file) for file, _ in opened),
        verdict=verdict,
        exit_code=verdict.exit_code,
        scope=_scope(findings),
        volume=findings[0].volume if len(findings) == 1 else "",
        findings=tuple(findings),
        harness=harness.__version__,
        kernel=f"Linux {platform.release()}",
        left_by_workload=frozenset(file for file, bundle in opened if bundle.manifest.plan is None),
    )
    return write_page(path, page)


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

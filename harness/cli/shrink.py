"""`harness shrink`: the same finding with fewer operations, fewer lost writes, an earlier cut."""

import click
import msgspec

from harness.cli import exits, options
from harness.cli.verdicts import Desk, could_not_write
from harness.errors import Misuse, TrialUnknown
from harness.machine import requirements
from harness.reporting.facts import facts
from harness.reporting.terminal import replay_command
from harness.reporting.text import count
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.trial.check import bundled_checker
from harness.trial.commands import Commands
from harness.trial.judging import Judge
from harness.trial.lab import open_labs
from harness.trial.recording import ChosenState
from harness.trial.report import Found
from harness.trial.shrink import shown_by, shrink_plan, shrink_state
from harness.verdict import ExitCode, Finding


@click.command("shrink", epilog=exits.epilog())
@click.argument("file", metavar="FILE.crash")
@click.option("-o", "--output", metavar="NEW.crash", default="", help="[default: FILE-small.crash]")
@options.verbose_option
@click.option("-q", "--quiet", is_flag=True, help="Only the result; no progress.")
def command(file: str, output: str, verbose: bool, quiet: bool) -> ExitCode:
    """Find a smaller example of the finding in a bundle: the plan (if it is one) loses the operations that do not
    matter, then the crash state gets back each write whose loss does not matter, and the power goes as early as it may.
    """
    desk = Desk("", quiet=quiet, verbose=verbose)
    with desk.trial(Settings(), Commands()) as follower:
        follower.stage("load")
        bundle = bundles.load(file)
        finding = _finding(bundle, file)
        requirements.require(bundle.manifest.spec.fs)
        follower.stage("shrinking")
        smaller = _with_fewer_operations(bundle, finding)
        found = _with_fewer_losses(smaller, finding)
    content = _packed(smaller, found)
    path = output or file.removesuffix(bundles.SUFFIX) + "-small" + bundles.SUFFIX
    try:
        bundles.save(path, content)
    except OSError as error:
        could_not_write("the smaller bundle", path, error)
        return ExitCode.UNKNOWN
    _show(desk, bundle, smaller, found, path)
    return found.finding.verdict.exit_code


def _finding(bundle: Bundle, file: str) -> Finding:
    manifest = bundle.manifest
    if manifest.state is None or manifest.finding is None:
        raise Misuse(f"{file} holds a whole recording and no finding", "judge it: harness judge FILE")
    if manifest.test and not manifest.commands.check:
        raise Misuse(f"the check of {file} is a Python function of the test {manifest.test}", "run that test")
    return manifest.finding


def _with_fewer_operations(bundle: Bundle, finding: Finding) -> Bundle:
    """The bundle with the smallest plan found; as it is, where it has no plan or the finding does not come again."""
    manifest = bundle.manifest
    if manifest.plan is None or manifest.settings.depth > 1:
        return bundle
    with open_labs(manifest.settings, 1) as (lab,):
        smaller = shrink_plan(manifest.plan, finding, lab.judge)
    found = shown_by(smaller, finding) if smaller else None
    if smaller is None or found is None or smaller.recording is None:
        return bundle
    state = ChosenState.of(found.state)
    return bundle._replace(
        manifest=msgspec.structs.replace(manifest, plan=smaller.plan, state=state, finding=found.finding),
        recording=smaller.recording,
    )


def _with_fewer_losses(bundle: Bundle, finding: Finding) -> Found:
    assert bundle.manifest.state is not None
    judge = Judge(bundle.recording, bundle.manifest.settings, bundled_checker(bundle))
    state = shrink_state(judge, finding, bundle.manifest.state.state())
    findings = judge.one(state)
    if not findings:
        raise TrialUnknown(
            f"the finding does not come again on this machine: {finding.summary}",
            "another kernel or file system tools? harness replay FILE shows what is found here",
        )
    return Found(finding=findings[0], state=state, lost=judge.lost(state))


def _packed(bundle: Bundle, found: Found) -> bytes:
    manifest = bundle.manifest
    return bundles.pack(
        bundle.recording,
        manifest.settings,
        state=found.state,
        finding=found.finding,
        commands=manifest.commands,
        files=bundle.files,
        plan=manifest.plan,
    )


def _show(desk: Desk, before: Bundle, after: Bundle, found: Found, path: str) -> None:
    page, settings = desk.page, after.manifest.settings
    page.verdict(found.finding.verdict, "the same finding, as small as it was found to get")
    page.line()
    if before.manifest.plan and after.manifest.plan:
        old, new = len(before.manifest.plan.all), len(after.manifest.plan.all)
        page.field("plan", f"{count(new, 'operation')}, was {old}")
        page.block("", after.manifest.plan.lines())
    page.finding(found.finding)
    page.state(facts(after.recording, after.recording.space(settings), found.state))
    page.field("replay", replay_command(path), "bold")

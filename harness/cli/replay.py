"""`harness replay`: the same disk, the same check, the same verdict."""

import platform
import sys

import click

import harness
from harness.cli import exits, options
from harness.cli.verdicts import Desk
from harness.errors import Misuse
from harness.reporting import json_report
from harness.reporting.facts import facts
from harness.reporting.terminal import Page
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle, Manifest
from harness.trial.check import Replayed, replay
from harness.trial.commands import Commands
from harness.verdict import ExitCode, Verdict


@click.command("replay", epilog=exits.epilog())
@click.argument("file", metavar="FILE.crash")
@click.option("--shell", is_flag=True, help="Afterwards, an interactive shell inside the recovered volume.")
@options.report_options
def command(file: str, shell: bool, json_path: str, quiet: bool, verbose: bool) -> ExitCode:
    """Build the disk in the bundle, let the kernel recover it, run the bundle's check, and say whether the verdict is
    the recorded one. The exit status is the verdict of now.

    A bundle that a pytest test made runs that test again, with this disk; start it where the tests are.
    """
    desk = Desk(json_path, quiet=quiet, verbose=verbose)
    with desk.trial(Settings(), Commands()) as follower:
        follower.stage("load")
        bundle = bundles.load(file)
        if not _needs_pytest(bundle.manifest):
            follower.stage("replay")
            replayed = replay(bundle)
    if _needs_pytest(bundle.manifest):
        return _replay_test(bundle, file, shell=shell, desk=desk)
    _show(desk.page, bundle, replayed)
    code = replayed.verdict.exit_code
    if not desk.json(_as_json(file, bundle, replayed, code)) and replayed.verdict is Verdict.INTACT:
        code = ExitCode.UNKNOWN
    if shell:
        _open_shell(bundle, replayed.verdict)
    return code


def _replay_test(bundle: Bundle, file: str, *, shell: bool, desk: Desk) -> ExitCode:
    from harness.cli.scenarios import replay_test

    verdict, code = replay_test(bundle.manifest.test, file)
    manifest = bundle.manifest
    content = json_report.head(verdict, code, manifest.settings, manifest.commands)
    desk.json(content | {"test": manifest.test, "bundle": file})
    if shell:
        _open_shell(bundle, verdict)
    return code


def _needs_pytest(manifest: Manifest) -> bool:
    """The check of such a bundle is a Python function, which only its test has."""
    return bool(manifest.test) and not manifest.commands.check


def _recorded(manifest: Manifest) -> Verdict:
    return manifest.finding.verdict if manifest.finding else Verdict.INTACT


def _show(page: Page, bundle: Bundle, replayed: Replayed) -> None:
    manifest = bundle.manifest
    same = "the verdict recorded in the bundle" if replayed.same else f"not what was recorded: {_recorded(manifest)}"
    page.verdict(replayed.verdict, same)
    page.line()
    for finding in replayed.findings:
        page.finding(finding)
        page.evidence(finding)
    if not replayed.findings:
        page.line("  this time nothing is wrong with the disk" if not replayed.same else "  nothing is wrong")
    space = bundle.recording.space(manifest.settings)
    page.state(facts(bundle.recording, space, replayed.state))
    if not replayed.same:
        page.line()
        if manifest.finding:
            page.field("recorded", f"{manifest.finding.kind}: {manifest.finding.summary}")
        page.field("kernel", f"{manifest.kernel} then, {platform.release()} now")
        page.field("harness", f"{manifest.harness} then, {harness.__version__} now")


def _as_json(file: str, bundle: Bundle, replayed: Replayed, code: ExitCode) -> dict[str, object]:
    manifest = bundle.manifest
    space = bundle.recording.space(manifest.settings)
    known = facts(bundle.recording, space, replayed.state)
    return json_report.head(replayed.verdict, code, manifest.settings, manifest.commands) | {
        "bundle": file,
        "same_verdict": replayed.same,
        "recorded": {
            "verdict": _recorded(manifest).value,
            "kernel": manifest.kernel,
            "harness": manifest.harness,
            "finding": json_report.of_finding(manifest.finding) if manifest.finding else None,
        },
        "recording": json_report.of_recording(bundle.recording),
        "findings": [json_report.of_finding(finding) for finding in replayed.findings],
        "state": {"name": replayed.state.name} | json_report.of_state(known),
    }


def _open_shell(bundle: Bundle, verdict: Verdict) -> None:
    from harness.trial.shell import enter, recovered

    manifest = bundle.manifest
    if manifest.state is None:
        raise Misuse("the bundle holds a whole recording and no chosen state", "judge it: harness judge FILE")
    state = manifest.state.state()
    known = facts(bundle.recording, bundle.recording.space(manifest.settings), state)
    with recovered(bundle.recording, manifest.settings, state) as workspace:
        made = f"{len(known.promises):,} of {known.promises_total:,}"
        print(f"\nThis is the {manifest.spec.fs} volume after the power cut, as the kernel recovered it: {verdict}.")
        print(f"  lost      {len(known.lost):,} of {known.writes:,} writes since the last flush")
        print(f"  promises  {made} made before the cut: cat $HARNESS_PROMISES")
        print("  exit to leave; nothing you do here changes the bundle", flush=True)
        enter(workspace, manifest.spec.fs, verdict)
    sys.stdout.flush()

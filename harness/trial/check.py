"""From a recording to a verdict, and back from a bundle: control, judge, confirm, save what was found; replay."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.crash import CrashState
from harness.errors import BadBundle
from harness.machine import mounts, requirements
from harness.oracle.checks import Checker, CommandCheck
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.commands import Attachment, Commands, materialize
from harness.trial.judging import CheckerFactory, Judge, Progress
from harness.trial.plans import plan_checker
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.verdict import Finding, Verdict, worst

_BUNDLES_MAX = 20

OnStage = Callable[[str], None]
OnProgress = Callable[[Progress], None]


def _quiet(_: object) -> None:
    pass


def judge(
    recording: Recording,
    settings: Settings,
    checker: CheckerFactory,
    on_stage: OnStage = _quiet,
    on_progress: OnProgress = _quiet,
) -> Report:
    """Control, all states, and each finding's best state again. Raises CheckUnsound if the control fails."""
    judge = Judge(recording, settings, checker, on_progress)
    on_stage("control")
    judge.control()
    on_stage("judge")
    report = judge.all()
    if report.found and not report.interrupted:
        on_stage("confirm")
        judge.confirm(report)
    return report


def command_checker(command: str, settings: Settings) -> CheckerFactory:
    """A factory for workers: the command as a check, or none (mount and fsck alone) if it is empty."""

    def make(workspace: mounts.Workspace) -> Checker | None:
        return CommandCheck(command, workspace, settings.timeout) if command else None

    return make


def save_findings(
    report: Report,
    recording: Recording,
    settings: Settings,
    reports: str,
    *,
    commands: Commands | None = None,
    files: Sequence[Attachment] = (),
    test: str = "",
    plan: Plan | None = None,
) -> None:
    """One bundle for each distinct finding, named by file system, kind and state: a second run overwrites it."""
    for found in report.found[:_BUNDLES_MAX]:
        content = bundles.pack(
            found.deeper or recording,
            settings,
            state=found.state,
            finding=found.finding,
            commands=commands,
            files=files,
            test=test,
            plan=plan,
        )
        state = f"{found.state.name[:10]}-{found.state.promises}"
        name = f"{recording.spec.fs}-{found.finding.kind.lower()}-{state}{bundles.SUFFIX}"
        found.bundle = bundles.save(os.path.join(reports, name), content)


class Replayed(NamedTuple):
    """A replay: what was found this time, and whether that is the verdict in the bundle."""

    state: CrashState
    findings: list[Finding]
    verdict: Verdict
    same: bool


def replay(bundle: bundles.Bundle, checker: CheckerFactory | None = None) -> Replayed:
    """Build the bundle's disk, let the kernel recover it, run the check. Raises BadBundle if it holds no state."""
    if bundle.manifest.state is None:
        raise BadBundle("the bundle holds a whole recording and no chosen state", "judge it: harness judge FILE")
    requirements.require(bundle.manifest.spec.fs)
    settings = bundle.manifest.settings
    judge = Judge(bundle.recording, settings, checker or bundled_checker(bundle))
    state = bundle.manifest.state.state()
    findings = judge.one(state)
    verdict = worst([finding.verdict for finding in findings] or [Verdict.INTACT])
    recorded = bundle.manifest.finding.verdict if bundle.manifest.finding else Verdict.INTACT
    return Replayed(state, findings, verdict, verdict is recorded)


def bundled_checker(bundle: bundles.Bundle) -> CheckerFactory:
    """What the file system owes the bundle's plan; or its check command, its files put into place where need be."""
    if bundle.manifest.plan:
        return plan_checker(bundle.manifest.plan, bundle.recording, bundle.manifest.settings.contract)
    workspace = mounts.enter_private_mounts()
    command = materialize(bundle.manifest.commands.check, bundle.files, workspace)
    return command_checker(command, bundle.manifest.settings)

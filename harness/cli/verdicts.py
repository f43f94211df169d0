"""From a recording to a verdict on the screen, bundles on the disk and JSON: what `check` and `judge` share."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from harness.campaign.signatures import without_folders
from harness.errors import TrialUnknown
from harness.plan.plan import Plan
from harness.reporting import json_report, terminal, why
from harness.reporting.console import console
from harness.reporting.progress import Follower
from harness.reporting.text import count, printable
from harness.settings import Settings
from harness.trial.check import command_checker, judge, save_findings
from harness.trial.commands import Attachment, Commands
from harness.trial.plans import plan_checker
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.verdict import ExitCode, Verdict

if TYPE_CHECKING:
    from harness.cli.recorded import Recorder


class Desk:
    """Where one judging command writes: the report on stdout (stderr if stdout carries JSON), progress on stderr."""

    def __init__(self, json_path: str, *, quiet: bool, verbose: bool) -> None:
        self.json_path = json_path
        self._err: Console = console(sys.stderr)
        out = self._err if json_path == "-" else console(sys.stdout)
        self.page = terminal.Page(out, verbose=verbose)
        self.follower = Follower(self._err, quiet=quiet)
        self._written = False

    @contextmanager
    def trial(self, settings: Settings, commands: Commands) -> Iterator[Follower]:
        """Progress on the screen; a trial that ends in an exception still leaves its JSON report."""
        try:
            with self.follower:
                yield self.follower
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self.follower.last:
                last = self.follower.last
                done = f"judged {last.judged:,} of {count(last.selected, 'state')}"
                print(f"{done}, {count(last.findings, 'finding')} so far", file=sys.stderr)
            self.json(json_report.of_error(error, settings, commands))
            raise

    def json(self, content: object) -> bool:
        """Write the JSON report, if one is wanted and none was written. False: it could not be."""
        if not self.json_path or self._written:
            return True
        self._written = write_json(self.json_path, lambda: content)
        return self._written


def write_json(path: str, content: Callable[[], object]) -> bool:
    """Write the JSON report, if one is wanted ('-': on stdout). False: it could not be, which is told."""
    if not path:
        return True
    try:
        json_report.write(path, content())
    except OSError as error:
        could_not_write("the JSON report", path, error)
        return False
    return True


def could_not_write(what: str, path: str, error: OSError) -> None:
    """Say it beside the verdict, which stands."""
    print(f"error: {what} could not be written to {path}: {error.strerror}", file=sys.stderr)
    print("remedy: free some space, or name another place", file=sys.stderr)


class Further(NamedTuple):
    """What else is to come of a judgement: an HTML page, and the search for the missing fsync."""

    html: str = ""
    advise: bool = False


_NOTHING_FURTHER = Further()


def conclude(
    desk: Desk,
    recording: Recording,
    settings: Settings,
    commands: Commands,
    files: Sequence[Attachment],
    run: "Recorder",
    check: str | None = None,
    plan: Plan | None = None,
    further: Further = _NOTHING_FURTHER,
) -> ExitCode:
    """Judge, print the verdict, save a bundle of each finding, print the findings, keep the run, write the reports.

    `check`: the check as it is to be run here, where that differs from the one in `commands`. `plan`: the workload,
    whose contract is then the check.
    """
    with desk.trial(settings, commands) as follower:
        if plan:
            checker = plan_checker(plan, recording, settings.contract)
        else:
            checker = command_checker(commands.check if check is None else check, settings)
        report = judge(recording, settings, checker, follower.stage, follower.progress)
    desk.page.report(report, recording, settings)
    saved = _save(report, recording, settings, commands, files, run.reports, plan)
    reasons = why.reasons(report, recording, settings, plan=plan, commands=commands)
    desk.page.found(report, recording, settings, reasons)
    if report.found and not reasons:
        desk.page.field("note", printable(report.notes[-1]))
    _keep(report, recording, settings, commands, run, plan)
    code = run.settled(_exit_code(report, whole=saved))
    if not desk.json(json_report.of_report(report, recording, settings, commands, code, reasons)):
        code = _exit_code(report, whole=False)
    if further.html or (further.advise and reasons):
        from harness.cli.pages import tell_further

        if not tell_further(desk, further, report, recording, reasons, code):
            code = _exit_code(report, whole=False)
    if report.interrupted:
        print("interrupted", file=sys.stderr)
    return code


def _save(
    report: Report,
    recording: Recording,
    settings: Settings,
    commands: Commands,
    files: Sequence[Attachment],
    reports: str,
    plan: Plan | None,
) -> bool:
    try:
        save_findings(report, recording, settings, reports, commands=commands, files=files, plan=plan)
    except OSError as error:
        could_not_write("a bundle", reports, error)
        return False
    return True


def _keep(
    report: Report, recording: Recording, settings: Settings, commands: Commands, run: "Recorder", plan: Plan | None
) -> None:
    text = "; ".join(map(str, plan.all)) if plan else commands.workload or "a log recorded elsewhere"
    fs = recording.spec.fs
    check = without_folders(commands.check) or f"{fs} mounts, and passes its fsck"
    guarantee = f"{fs} keeps what it owes any plan" if plan else check
    run.report(report, recording, settings, text, guarantee, plan=plan, commands=commands)
    run.end(report.verdict, interrupted=report.interrupted)


def _exit_code(report: Report, *, whole: bool) -> ExitCode:
    """That of the verdict; INTACT turns into UNKNOWN where something that was asked for could not be written."""
    if report.interrupted:
        return ExitCode.INTERRUPTED
    if report.verdict is Verdict.INTACT and not whole:
        return TrialUnknown.exit_code
    return report.verdict.exit_code

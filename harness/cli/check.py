"""`harness check`: the main job, from a workload to a verdict."""

import os
from typing import Any

import click

from harness.cli import exits, options
from harness.cli.recorded import recorded
from harness.cli.usage import need
from harness.cli.verdicts import Desk, Further, conclude, could_not_write
from harness.errors import TrialUnknown
from harness.machine import requirements
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.commands import Attachment, Commands, attachments, resolve
from harness.trial.recorder import record
from harness.trial.recording import Recording
from harness.verdict import ExitCode


@click.command("check", epilog=exits.epilog())
@click.option("--workload", metavar="CMD", required=True, help="Shell command that writes to the volume.")
@click.option(
    "--check",
    "check_command",
    metavar="CMD",
    default="",
    help="Shell command that exits 0 if the volume is intact. Without it: mount and fsck alone.",
)
@click.option(
    "--setup", metavar="CMD", default="", help="Shell command that prepares the volume; its result is durable."
)
@options.settings_options()
@click.option(
    "--attach", metavar="PATH", multiple=True, help="A file or folder that the check needs; goes into bundles."
)
@options.reports_option
@options.store_option
@click.option("--save", metavar="FILE.crash", default="", help="Save the whole recording, whatever the verdict.")
@options.further_options
@options.report_options
def command(
    workload: str,
    check_command: str,
    setup: str,
    attach: tuple[str, ...],
    reports: str,
    no_store: bool,
    save: str,
    html: str,
    advise: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Run the workload on a fresh volume whose every block write is recorded. Build each disk that a power cut at any
    point may leave, let the kernel recover it, run the check there, and say what is lost.

    \b
    The commands run by /bin/sh in the volume's root; files of the current directory that they name are found.
      HARNESS_VOLUME    the volume's root
      HARNESS_PROMISE   workload: a line written to this file promises that what precedes it survives
      HARNESS_PROMISES  check: a file with the promises made before the cut, one a line
    """
    need("--workload", workload)
    settings = options.settings_of(values)
    commands = Commands(workload=workload, check=check_command, setup=setup)
    desk = Desk(json_path, quiet=quiet, verbose=verbose)
    with recorded(reports, "check", settings.seed, settings, store=not no_store) as run:
        with desk.trial(settings, commands) as follower:
            requirements.require(settings.fs)
            commands, files = _resolved(commands, attach)
            run.begin()
            follower.stage("record")
            recording = record(settings, commands)
            if save:
                _keep(save, recording, settings, commands, files)
        return conclude(desk, recording, settings, commands, files, run, further=Further(html, advise))


def _resolved(commands: Commands, attach: tuple[str, ...]) -> tuple[Commands, tuple[Attachment, ...]]:
    here = os.getcwd()
    found = Commands(
        workload=resolve(commands.workload, here),
        check=resolve(commands.check, here),
        setup=resolve(commands.setup, here),
    )
    return found, attachments([found.check, found.workload], attach)


def _keep(
    path: str, recording: Recording, settings: Settings, commands: Commands, files: tuple[Attachment, ...]
) -> None:
    try:
        bundles.save(path, bundles.pack(recording, settings, commands=commands, files=files))
    except OSError as error:
        could_not_write("the recording", path, error)
        raise TrialUnknown("the recording that --save asked for is lost, so nothing was judged") from error

"""`harness judge`: a recording judged again, with another model, budget or check; or one made by dm-log-writes."""

import os
from typing import Any

import click
import msgspec

from harness.cli import exits, options
from harness.cli.recorded import recorded
from harness.cli.verdicts import Desk, Further, conclude
from harness.errors import Misuse
from harness.machine import mounts, requirements
from harness.plan.plan import Plan
from harness.settings import DECLARED, Settings
from harness.trial import bundle as bundles
from harness.trial.commands import Attachment, Commands, attachments, materialize, resolve
from harness.trial.foreign import load_foreign, rebounded
from harness.trial.recording import Recording
from harness.verdict import ExitCode


@click.command("judge", epilog=exits.epilog())
@click.argument("file", metavar="[FILE.crash]", default="")
@click.option("--base", metavar="IMG", default="", help="Raw image of the device before the recording.")
@click.option("--log", metavar="LOG", default="", help="Log of it in the dm-log-writes format.")
@click.option(
    "--check",
    "check_command",
    metavar="CMD",
    default=None,
    help="Shell command that exits 0 if the volume is intact. [default: that of the bundle]",
)
@click.option(
    "--begin",
    type=click.IntRange(min=0),
    metavar="N",
    help="First cut: after N events. [default: the mark 'begin', else 0]",
)
@click.option(
    "--end",
    type=click.IntRange(min=0),
    metavar="N",
    help="Last cut: after N events. [default: the mark 'end', else all]",
)
@options.settings_options()
@click.option(
    "--attach", metavar="PATH", multiple=True, help="A file or folder that the check needs; goes into bundles."
)
@options.reports_option
@options.store_option
@options.further_options
@options.report_options
def command(
    file: str,
    base: str,
    log: str,
    check_command: str | None,
    begin: int | None,
    end: int | None,
    attach: tuple[str, ...],
    reports: str,
    no_store: bool,
    html: str,
    advise: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Judge a recording without running its workload: the one in a bundle, with other settings or another check, or a
    log that dm-log-writes kept elsewhere, over a raw image of the device as it was before.

    \b
      harness judge found.crash --model torn --max-states 5000
      harness judge --base before.img --log writes.log --fs xfs --check 'python3 app.py verify'
    """
    _one_source(file, base, log)
    desk = Desk(json_path, quiet=quiet, verbose=verbose)
    settings, commands = options.settings_of(values), Commands(check=check_command or "")
    with desk.trial(settings, commands) as follower:
        follower.stage("load")
        source = _Source(file, base, log, begin, end, values)
        recording, settings, its, files, plan = source.bundled() if file else source.foreign()
        requirements.require(recording.spec.fs)
        if check_command is not None:
            check_command = resolve(check_command, os.getcwd())
            its = msgspec.structs.replace(its, check=check_command)
            files = attachments([check_command], attach)
            plan = None
        # What is saved names the files as they were; what is run, where they are now.
        check = materialize(its.check, files, mounts.enter_private_mounts())
    with recorded(reports, "judge", settings.seed, settings, store=not no_store) as run:
        run.begin()
        return conclude(
            desk, recording, settings, its, files, run, check=check, plan=plan, further=Further(html, advise)
        )


def _one_source(file: str, base: str, log: str) -> None:
    if file and (base or log):
        raise Misuse("a bundle brings its own base image and log", "give FILE.crash, or --base and --log")
    if not file and not (base and log):
        raise Misuse("there is nothing to judge", "give FILE.crash, or both --base IMG and --log LOG")


_Loaded = tuple[Recording, Settings, Commands, tuple[Attachment, ...], Plan | None]


class _Source:
    """Where the recording comes from, as the user said it."""

    def __init__(
        self, file: str, base: str, log: str, begin: int | None, end: int | None, values: dict[str, Any]
    ) -> None:
        self._file, self._base, self._log = file, base, log
        self._begin, self._end = begin, end
        self._given = options.given(values)

    def bundled(self) -> "_Loaded":
        for name in options.OF_THE_VOLUME:
            if name in self._given:
                flag = DECLARED[name].flag
                raise Misuse(f"{flag} was settled when the bundle was recorded", f"leave {flag} out, or record again")
        bundle = bundles.load(self._file)
        settings = msgspec.structs.replace(bundle.manifest.settings, **self._given)
        recording = rebounded(bundle.recording, self._begin, self._end)
        return recording, settings, bundle.manifest.commands, bundle.files, bundle.manifest.plan

    def foreign(self) -> "_Loaded":
        settings = msgspec.structs.replace(Settings(), **self._given)
        recording = load_foreign(
            self._base,
            self._log,
            settings,
            sector_size=self._given.get("sector_size", 0),
            begin=self._begin,
            end=self._end,
        )
        settings = msgspec.structs.replace(settings, size=recording.spec.size, sector_size=recording.spec.sector_size)
        return recording, settings, Commands(), (), None

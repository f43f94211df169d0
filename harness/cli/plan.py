"""`harness plan`: run a plan and judge every disk that a power cut may leave by what the file system owes it."""

import sys
from typing import Any

import click

from harness.cli import exits, options
from harness.cli.recorded import recorded
from harness.cli.verdicts import Desk, Further, conclude
from harness.errors import Misuse
from harness.machine import requirements
from harness.plan.plan import Plan, from_json
from harness.settings import DECLARED
from harness.trial.commands import Commands
from harness.trial.plans import record_plan
from harness.verdict import ExitCode


@click.command("plan", epilog=exits.epilog())
@click.argument("file", metavar="FILE.json")
@options.settings_options(DECLARED)
@options.reports_option
@options.store_option
@options.further_options
@options.report_options
def command(
    file: str,
    reports: str,
    no_store: bool,
    html: str,
    advise: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Run the plan in FILE.json ('-': standard input) on a fresh volume, build each disk that a power cut at any point
    may leave, let the kernel recover it, and compare it with what the file system's contract owes the plan.

    \b
      {"kind": "crash-harness plan", "operations": [
        {"op": "creat", "path": "foo"}, {"op": "write", "path": "foo", "length": 4096}, {"op": "fsync", "path": "foo"}]}
    """
    plan = read_plan(file)
    settings = options.settings_of(values)
    commands = Commands()
    desk = Desk(json_path, quiet=quiet, verbose=verbose)
    with recorded(reports, "plan", settings.seed, settings, store=not no_store) as run:
        with desk.trial(settings, commands) as follower:
            requirements.require(settings.fs)
            run.begin()
            follower.stage("record")
            recording = record_plan(settings, plan)
        return conclude(desk, recording, settings, commands, (), run, plan=plan, further=Further(html, advise))


def read_plan(path: str) -> Plan:
    """The plan in a file, or on standard input for '-'. Raises Misuse for what cannot be read, or is no plan."""
    try:
        if path == "-":
            return from_json(sys.stdin.buffer.read())
        with open(path, "rb") as file:
            return from_json(file.read())
    except OSError as error:
        raise Misuse(f"{path}: {error.strerror}", "give a file with a plan: docs/writing-a-plan.md") from error

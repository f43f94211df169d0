"""`harness enumerate`: every sequence of operations within bounds, on one file system."""

import sys
from typing import Any

import click

from harness.campaign.enumerating import Enumeration, Request
from harness.campaign.keeping import Keeper
from harness.campaign.results import Header
from harness.cli import exits, options
from harness.cli.recorded import recorded
from harness.cli.verdicts import could_not_write, write_json
from harness.errors import Misuse
from harness.machine import requirements
from harness.plan import enumeration
from harness.reporting import enumerated
from harness.reporting.console import console
from harness.settings import DECLARED
from harness.verdict import ExitCode, Verdict


@click.command("enumerate", epilog=exits.epilog())
@click.option("--ops", type=click.IntRange(1, enumeration.OPS_MAX), required=True, help="Core operations a sequence.")
@click.option("--shard", metavar="I/N", default="1/1", show_default=True, help="Only part I of N.")
@click.option("--resume", is_flag=True, help="Go on where the same run was stopped.")
@click.option("--nested", is_flag=True, help="A directory in a directory as well (A/C).")
@click.option("--wide", is_flag=True, help="Operations and persistence points beyond the published bounds.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N sequences (of the shard).")
@click.option("--list", "only_list", is_flag=True, help="Print the sequences and judge nothing.")
@options.settings_options(DECLARED)
@options.reports_option
@options.store_option
@options.report_options
def command(
    ops: int,
    shard: str,
    resume: bool,
    nested: bool,
    wide: bool,
    limit: int | None,
    only_list: bool,
    reports: str,
    no_store: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Run every sequence of up to three core operations, each with a persistence point behind it or none, on a fresh
    volume; cut the power, let the kernel recover it, and compare it with what the file system owes the sequence.

    \b
      harness enumerate --ops 1 --fs xfs
      harness enumerate --ops 2 --cuts promises --shard 3/8 --resume
    """
    part = _shard(shard)
    if only_list:
        for sequence in enumeration.sequences(ops, nested, wide=wide, part=part):
            print(f"{sequence.number:>8}  {sequence.id}  {sequence.text}")
        return ExitCode.INTACT
    settings = options.settings_of(values)
    requirements.require(settings.fs)
    request = Request(ops, settings, nested, wide, part, resume, limit or 0)
    total = _in_shard(enumeration.total(ops, nested, wide=wide), part)
    out = console(sys.stderr if json_path == "-" else sys.stdout)
    of = Header.of(ops, nested, wide, part, settings)
    with recorded(reports, "enumerate", settings.seed, of, store=not no_store, resume=resume) as run:
        run.begin()
        keeper = Keeper(run, settings, reports)
        try:
            with enumerated.Follower(console(sys.stderr), quiet=quiet) as follower:
                outcome = Enumeration(request, total, reports, follower.progress, keeper).run()
        except OSError as error:
            could_not_write("the results", reports, error)
            run.end(Verdict.UNKNOWN)
            return ExitCode.UNKNOWN
        run.end(outcome.verdict, interrupted=outcome.interrupted)
    enumerated.show(out, outcome, request, verbose=verbose)
    code = run.settled(ExitCode.INTERRUPTED if outcome.interrupted else outcome.verdict.exit_code)
    if not write_json(json_path, lambda: enumerated.as_json(outcome, request, code)):
        code = code if outcome.verdict is not Verdict.INTACT else ExitCode.UNKNOWN
    if outcome.interrupted:
        print(f"interrupted; go on with --resume ({outcome.path})", file=sys.stderr)
    return code


def _shard(text: str) -> tuple[int, int]:
    first, slash, last = text.partition("/")
    if not slash or not first.isdigit() or not last.isdigit() or not 1 <= int(first) <= int(last):
        raise Misuse(f"--shard {text} is no part of a whole", "give I/N with I from 1 to N: 1/4, 2/4, 3/4, 4/4")
    return int(first), int(last)


def _in_shard(total: int, part: tuple[int, int]) -> int:
    index, count = part
    return (total - index) // count + 1 if total >= index else 0

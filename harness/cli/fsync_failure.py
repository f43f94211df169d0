"""`harness fsync-failure`: what each file system does when a write of an fsync fails."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import click
import msgspec

from harness.campaign.cells import kept_fsync_failure
from harness.cli import exits, options
from harness.cli.recorded import recorded
from harness.cli.tables import CANNOT, Table, fill
from harness.machine import requirements
from harness.oracle.fsync_check import broken
from harness.reporting.fsync_failure import FsyncPage, as_json, exit_code, progress
from harness.trial.fsync_failure import Bed, Cell, Column, cases, columns
from harness.verdict import ExitCode, FindingKind

_TABLE = Table(lambda out, brief: FsyncPage(out, brief=brief), as_json, exit_code, progress)


@click.command("fsync-failure", epilog=exits.epilog())
@click.option("--fs", "file_systems", metavar="NAME", multiple=True, help="Only this file system; may be repeated.")
@options.reports_option
@options.store_option
@options.report_options
@click.option(
    "--verify", is_flag=True, hidden=True, help="The check of a bundle: is there what a successful fsync covered?"
)
def command(
    file_systems: tuple[str, ...],
    reports: str,
    no_store: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 (its callback has done what it asks)
    verify: bool,
) -> int:
    """Let one block write fail beneath an fsync (of data, journal or metadata) on ext4 with data=ordered and
    data=journal, on xfs and btrfs, and say what becomes of the page, the error, the data and the file system, beside
    the results published for Linux 5.2.
    """
    if verify:
        return _verify()
    chosen = columns(file_systems)
    for fs in dict.fromkeys(column.fs for column in chosen):
        requirements.require(fs)
    with recorded(reports, "fsync-failure", 0, None, store=not no_store) as run:
        run.begin()
        kept = partial(kept_fsync_failure, reports=reports)
        return fill(_TABLE, _cells(chosen, reports), run, kept, json_path, quiet=quiet)


def _cells(chosen: Sequence[Column], reports: str) -> Iterator[tuple[Cell, Callable[[], object]]]:
    for column in chosen:
        with Bed(column) as bed:
            for case in cases(column):
                cell = bed.run(case)
                yield cell, partial(bed.save, cell, reports)


def _verify() -> int:
    """As the check of a bundle, in the volume: 1 and the broken promise, if there is one."""
    try:
        with open(os.environ["HARNESS_PROMISES"], "rb") as file:
            found = broken(file.read().splitlines(), os.environ["HARNESS_VOLUME"])
    except (msgspec.MsgspecError, OSError, KeyError) as error:
        print(f"it could not be verified: {error}", file=sys.stderr)
        return CANNOT
    print(f"{FindingKind.FALSE_SUCCESS} {found}" if found else "what each successful fsync covered is here")
    return ExitCode.CORRUPTED if found else ExitCode.INTACT

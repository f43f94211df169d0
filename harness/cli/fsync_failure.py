"""`harness fsync-failure`: what each file system does when a write of an fsync fails."""

import os
import sys
import time
from collections.abc import Iterator, Sequence

import click
import msgspec

from harness.cli import exits, options
from harness.cli.verdicts import could_not_write
from harness.machine import requirements
from harness.oracle.fsync_check import broken
from harness.reporting import json_report
from harness.reporting.console import console
from harness.reporting.fsync_failure import FsyncPage, as_json, exit_code, progress
from harness.trial.fsync_failure import Bed, Cell, Column, cases, columns
from harness.verdict import ExitCode, FindingKind

_CANNOT = 126
"""What a shell exits with for a command that could not be run: the replayed check then says UNKNOWN, not "wrong"."""


@click.command("fsync-failure", epilog=exits.epilog())
@click.option("--fs", "file_systems", metavar="NAME", multiple=True, help="Only this file system; may be repeated.")
@options.reports_option
@options.report_options
@click.option(
    "--verify", is_flag=True, hidden=True, help="The check of a bundle: is there what a successful fsync covered?"
)
def command(
    file_systems: tuple[str, ...],
    reports: str,
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
    return _run(chosen, reports, json_path, quiet=quiet)


def _run(chosen: Sequence[Column], reports: str, json_path: str, *, quiet: bool) -> ExitCode:
    started = time.monotonic()
    cells: list[Cell] = []
    interrupted, saved = False, True
    try:
        for bed, cell in _cells(chosen):
            cells.append(cell)
            saved &= _save(bed, cell, reports)
            if not quiet:
                print(progress(cell), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    elapsed = time.monotonic() - started
    code = ExitCode.INTERRUPTED if interrupted else exit_code(cells)
    if cells:
        out = console(sys.stderr if json_path == "-" else sys.stdout)
        FsyncPage(out, brief=quiet).show(cells, elapsed)
    if interrupted:
        print("interrupted", file=sys.stderr)
    written = _write(json_path, cells, code, elapsed)
    return code if (saved and written) or code is not ExitCode.INTACT else ExitCode.UNKNOWN


def _cells(chosen: Sequence[Column]) -> Iterator[tuple[Bed, Cell]]:
    for column in chosen:
        with Bed(column) as bed:
            for case in cases(column):
                yield bed, bed.run(case)


def _save(bed: Bed, cell: Cell, reports: str) -> bool:
    try:
        bed.save(cell, reports)
    except OSError as error:
        could_not_write("a bundle", reports, error)
        return False
    return True


def _write(json_path: str, cells: Sequence[Cell], code: ExitCode, elapsed: float) -> bool:
    if not json_path:
        return True
    try:
        json_report.write(json_path, as_json(cells, code, elapsed))
    except OSError as error:
        could_not_write("the JSON report", json_path, error)
        return False
    return True


def _verify() -> int:
    """As the check of a bundle, in the volume: 1 and the broken promise, if there is one."""
    try:
        with open(os.environ["HARNESS_PROMISES"], "rb") as file:
            found = broken(file.read().splitlines(), os.environ["HARNESS_VOLUME"])
    except (msgspec.MsgspecError, OSError, KeyError) as error:
        print(f"it could not be verified: {error}", file=sys.stderr)
        return _CANNOT
    print(f"{FindingKind.FALSE_SUCCESS} {found}" if found else "what each successful fsync covered is here")
    return ExitCode.CORRUPTED if found else ExitCode.INTACT

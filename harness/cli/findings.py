"""`harness findings`: what was ever found here."""

import os
import sys
from collections.abc import Iterable

import click

import harness
from harness.campaign.store import Store
from harness.cli import exits, options
from harness.cli.verdicts import could_not_write, write_json
from harness.reporting import findings
from harness.reporting.console import console
from harness.verdict import ExitCode


@click.command("findings", epilog=exits.epilog())
@click.option("--run", type=click.IntRange(min=1), metavar="ID", help="Only what this run saw.")
@click.option("--all", "everything", is_flag=True, help="Also what was only seen where it was expected.")
@click.option("--export", metavar="FILE", default="", help="Write all of the store as lines of JSON; '-': stdout.")
@click.option("--json", "json_path", metavar="FILE", default="", help="Write the list as JSON; '-': stdout.")
@options.reports_option
@options.verbose_option
def command(run: int | None, everything: bool, export: str, json_path: str, reports: str, verbose: bool) -> ExitCode:
    """List what was ever found in the runs of this reports directory: one row for each bug, with how often and when it
    was seen, in how many tries it came again, and the smallest bundle that shows it. A list is no verdict: the exit
    status is 0 whatever is in it.
    """
    store = Store.read(reports)
    if export:
        return _export(store, export)
    if run:
        store.run(run)
    known = store.bugs(run=run)
    shown = [bug for bug in known if everything or not bug.canary]
    out = console(sys.stderr if json_path == "-" else sys.stdout)
    findings.show_bugs(out, shown, reports, hidden=len(known) - len(shown), verbose=verbose)
    written = write_json(json_path, lambda: findings.bugs_as_json(shown, reports, harness.__version__))
    return ExitCode.INTACT if written else ExitCode.UNKNOWN


def _export(store: Store, path: str) -> ExitCode:
    if path == "-":
        for line in store.export():
            sys.stdout.write(line.decode())
        return ExitCode.INTACT
    try:
        _write(path, store.export())
    except OSError as error:
        could_not_write("the export", path, error)
        return ExitCode.UNKNOWN
    return ExitCode.INTACT


def _write(path: str, lines: Iterable[bytes]) -> None:
    """A file of that name is replaced whole or not at all. The lines may be more than memory holds."""
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(beside, "xb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise

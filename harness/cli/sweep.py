"""`harness sweep`: clear what a dead run left on this machine."""

import sys

import click

from harness.cli import exits, options
from harness.cli.volumes import require_root, state_option
from harness.reporting import json_report
from harness.reporting.console import console
from harness.reporting.volumes import show_swept
from harness.verdict import ExitCode
from harness.volume import registry


@click.command("sweep", epilog=exits.epilog())
@state_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be cleared, and clear nothing.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@options.verbose_option
def command(folders: tuple[str, ...], dry_run: bool, as_json: bool, verbose: bool) -> ExitCode:  # noqa: ARG001
    """Clear loop devices that bear the harness's mark, and journals in DIR, whose owner is dead. What belongs to
    a live run, and what bears no mark, is never touched. Exit status 3: something of a dead run is still there.

    A run that is killed leaves nothing by itself: this is for devices that somebody else holds.
    """
    require_root()
    found = registry.sweep(folders, dry_run=dry_run)
    if as_json:
        json_report.write("-", {"dry_run": dry_run, "found": found})
    else:
        show_swept(console(sys.stdout), found, dry_run=dry_run)
    return ExitCode.UNKNOWN if any(one.left and one.ours for one in found) else ExitCode.INTACT

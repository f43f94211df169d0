"""`harness show`: what a bundle is."""

import sys

import click

from harness.cli import exits, options
from harness.reporting import json_report, overview
from harness.reporting.console import console
from harness.reporting.terminal import Page
from harness.trial import bundle as bundles
from harness.verdict import ExitCode


@click.command("show", epilog=exits.epilog())
@click.argument("file", metavar="FILE.crash")
@click.option("--log", "whole_log", is_flag=True, help="List every event of the block log.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@options.verbose_option
def command(file: str, whole_log: bool, as_json: bool, verbose: bool) -> ExitCode:
    """Say what the bundle is: its plan, volume and versions, the log by epoch with the cut, what was lost, the promises
    made before the cut, and the verdict with its evidence. Needs no root and judges nothing.
    """
    bundle = bundles.load(file)
    if as_json:
        json_report.write("-", overview.as_json(file, bundle, whole_log=whole_log))
        return ExitCode.INTACT
    page = Page(console(sys.stdout), verbose=verbose)
    overview.show(page, file, bundle)
    if whole_log:
        page.line()
        # Written straight: a log can have a hundred thousand events.
        sys.stdout.writelines(line + "\n" for line in overview.log_lines(bundle))
    return ExitCode.INTACT

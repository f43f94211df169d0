"""`harness morning`: the report of a soak, from the store."""

import os
import sys
from collections.abc import Callable

import click

from harness.campaign.morning import Morning, last_soak, morning_of
from harness.campaign.store import Store
from harness.cli import exits, options
from harness.cli.verdicts import could_not_write
from harness.errors import RequirementMissing
from harness.machine.files import write_atomically
from harness.reporting import json_report
from harness.reporting import morning as words
from harness.reporting.console import console
from harness.reporting.terminal import Page
from harness.verdict import ExitCode

MARKDOWN = "morning.md"
PAGE = "morning.html"


@click.command("morning", epilog=exits.epilog())
@click.option("--reports", metavar="DIR", default="reports", show_default=True, help="Where the soak kept its store.")
@click.option("--run", type=click.IntRange(min=1), metavar="ID", help="[default: the last soak]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--html", "html_path", metavar="FILE", default="", help="Write it as a page as well.")
@click.option("--markdown", "markdown_path", metavar="FILE", default="", help="Write it as Markdown as well.")
@options.verbose_option
def command(
    reports: str, run: int | None, as_json: bool, html_path: str, markdown_path: str, verbose: bool
) -> ExitCode:
    """Report the last soak: what is new, what is back, what is gone, how much was judged, and how often each guarantee
    may still fail. Needs no root. The exit status is that of the soak's verdict.
    """
    store = Store.read(reports)
    morning = morning_of(store, run or last_soak(store))
    whole = _write(markdown_path, lambda: words.markdown(morning, reports))
    whole &= _write(html_path, lambda: _page(morning, reports))
    if as_json:
        json_report.write("-", words.as_json(morning, reports))
    else:
        words.show(Page(console(sys.stdout), verbose=verbose), morning, reports)
    code = morning.verdict.exit_code
    return ExitCode.UNKNOWN if code is ExitCode.INTACT and not whole else code


def write_files(morning: Morning, reports: str) -> bool:
    """morning.md and morning.html in the reports directory. False: one could not be written, which is told."""
    whole = _write(os.path.join(reports, MARKDOWN), lambda: words.markdown(morning, reports))
    try:
        return _write(os.path.join(reports, PAGE), lambda: _page(morning, reports)) and whole
    except RequirementMissing as error:
        print(f"note: {error.cause}", file=sys.stderr)
        return whole


def _page(morning: Morning, reports: str) -> str:
    from harness.reporting.morning_page import html

    return html(morning, reports)


def _write(path: str, content: Callable[[], str]) -> bool:
    if not path:
        return True
    try:
        write_atomically(path, content().encode("utf-8", "backslashreplace"))
    except OSError as error:
        could_not_write("the report", path, error)
        return False
    return True

"""`harness doctor`: what this machine has, what is missing, and how to get it."""

import sys

import click
from rich.console import Console
from rich.text import Text

from harness.cli import exits, options
from harness.machine import requirements
from harness.machine.requirements import Row, State
from harness.reporting.console import console
from harness.reporting.text import count, printable
from harness.verdict import ExitCode

_SHOWN = {
    State.OK: ("ok", "green"),
    State.MISSING: ("missing", "bold red"),
    State.OPTIONAL_MISSING: ("optional", "yellow"),
    State.UNKNOWN: ("unknown", "yellow"),
}


@click.command("doctor", epilog=exits.epilog())
@click.option("--install", is_flag=True, help="Install the missing Debian packages with apt-get.")
@options.verbose_option
def command(install: bool, verbose: bool) -> ExitCode:
    """Say what this machine has of what the harness needs, what is missing, and how to get it.

    Missing optional things cost speed or evidence, no more.
    """
    rows = requirements.doctor()
    out = console(sys.stdout)
    if install:
        packages = requirements.install(rows)
        out.print(f"installed: {', '.join(packages)}" if packages else "no package is missing")
        rows = requirements.doctor()
    _print(out, rows, verbose=verbose)
    missing = [row for row in rows if row.state is State.MISSING]
    return ExitCode.REQUIREMENT_MISSING if missing else ExitCode.INTACT


def _print(out: Console, rows: list[Row], *, verbose: bool) -> None:
    width = max(len(row.name) for row in rows)
    for row in rows:
        word, style = _SHOWN[row.state]
        needed = "" if row.needed_for == (requirements.EVERYTHING,) else f"  (for {', '.join(row.needed_for)})"
        detail = Text(printable(row.detail) + needed)
        out.print(Text.assemble((f"{word:<9}", style), f"{row.name:<{width}}  ", detail))
        lacking = row.state in (State.MISSING, State.OPTIONAL_MISSING)
        if verbose or lacking:
            out.print(Text(f"{'':9}why: {row.why}", style="dim"))
        if lacking:
            out.print(Text(f"{'':9}remedy: {row.remedy}"))
    missing = [row for row in rows if row.state is State.MISSING]
    out.print()
    if missing:
        out.print(Text(f"{count(len(missing), 'requirement')} missing", style="bold red"))
        if any(row.package for row in missing):
            out.print("harness doctor --install gets the Debian packages")
    else:
        out.print(Text("this machine has everything that is required", style="green"))

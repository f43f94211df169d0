"""Commands that fill a table cell by cell, on real volumes, each cell with its bundle: `litmus`, `fsync-failure`."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from rich.console import Console

from harness.campaign.records import Sighting, Trial
from harness.cli.recorded import Recorder
from harness.cli.verdicts import could_not_write, write_json
from harness.reporting.console import console
from harness.verdict import ExitCode, Verdict

C = TypeVar("C")

CANNOT = 126
"""What a shell exits with for a command that could not be run: the replayed check then says UNKNOWN, not "wrong"."""


class _Page(Protocol):
    def show(self, cells: Sequence[Any], elapsed: float) -> None: ...


class Table(NamedTuple):
    """How one kind of table is told: a page for people, JSON, an exit code, a line of progress for each cell."""

    page: Callable[[Console, bool], _Page]
    """Of the console, and whether it is to be brief."""
    as_json: Callable[[Sequence[Any], ExitCode, float], object]
    exit_code: Callable[[Sequence[Any]], ExitCode]
    progress: Callable[[Any], str]


Kept = Callable[[C], tuple[Trial, Sequence[Sighting]]]
"""A cell as the store keeps it, once its bundle is saved."""


def fill(
    table: Table,
    cells: Iterable[tuple[C, Callable[[], object]]],
    run: Recorder,
    kept: Kept[C],
    json_path: str,
    *,
    quiet: bool,
) -> ExitCode:
    """Take cell after cell, each with what saves its bundle, keep it in the store, and show what they come to.

    Ctrl-C ends the taking: what there is by then is shown. INTACT turns into UNKNOWN where something could not be
    written.
    """
    started = time.monotonic()
    taken: list[C] = []
    interrupted, saved = False, True
    try:
        for cell, save in cells:
            taken.append(cell)
            saved &= _saved(save, run.reports)
            run.add([kept(cell)])
            if not quiet:
                print(table.progress(cell), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    elapsed = time.monotonic() - started
    code = ExitCode.INTERRUPTED if interrupted else table.exit_code(taken)
    run.end(_verdict(code), interrupted=interrupted)
    if taken:
        table.page(console(sys.stderr if json_path == "-" else sys.stdout), quiet).show(taken, elapsed)
    if interrupted:
        print("interrupted", file=sys.stderr)
    written = write_json(json_path, lambda: table.as_json(taken, code, elapsed))
    return run.settled(code if (saved and written) or code is not ExitCode.INTACT else ExitCode.UNKNOWN)


def _verdict(code: ExitCode) -> Verdict:
    return next((verdict for verdict in Verdict if verdict.exit_code is code), Verdict.UNKNOWN)


def _saved(save: Callable[[], object], reports: str) -> bool:
    try:
        save()
    except OSError as error:
        could_not_write("a bundle", reports, error)
        return False
    return True

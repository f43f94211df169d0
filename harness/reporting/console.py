"""The console that every report is printed on."""

from typing import TextIO

from rich.console import Console

_PLAIN_WIDTH = 140  # of tables, where no terminal tells its own: CI logs, files


def console(stream: TextIO) -> Console:
    """A console that never wraps, colours or links what must be copied as it is; colour as NO_COLOR and TERM allow."""
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)

"""The console that every report is printed on."""

from typing import TextIO

from rich.console import Console


def console(stream: TextIO) -> Console:
    """A console that never wraps, colours or links what must be copied as it is; colour as NO_COLOR and TERM allow."""
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)

"""A view of long work: redrawn in place on a terminal, a plain line now and then elsewhere.

Everything happens in the caller's thread, as for the live line of a trial (harness.reporting.progress): rich's own
refresh thread stays off, because the harness forks while it works.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

_REDRAWN_EVERY = 0.25
PLAIN_EVERY = 30.0


class Drawn:
    """Something that is drawn in place on a terminal. A context manager. `quiet`: nothing is drawn."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    @property
    def live(self) -> bool:
        """Whether it is drawn in place."""
        return self._live.is_started


class LiveView(Drawn):
    """`tell` as often as there is news; it draws only as often as somebody can read."""

    def __init__(self, console: Console, *, quiet: bool = False, plain_every: float = PLAIN_EVERY) -> None:
        """`plain_every`: seconds between two lines where the console is no terminal."""
        super().__init__(console, quiet=quiet)
        self._plain_every = plain_every

    def tell(self, view: Callable[[], RenderableType], line: Callable[[], Text | str]) -> None:
        """Show how it stands: `view()` where it is drawn in place, else `line()`; neither is asked for in vain."""
        now = time.monotonic()
        every = _REDRAWN_EVERY if self.live else self._plain_every
        if self._quiet or now - self._told_at < every:
            return
        self._told_at = now
        if self.live:
            self._live.update(view(), refresh=True)
        else:
            self.say(line())

    def say(self, text: Text | str) -> None:
        """A line that stays, above the view."""
        if not self._quiet:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)

"""Progress while a trial runs: one live line on a terminal, plain lines elsewhere.

Everything happens in the caller's thread. rich's own refresh thread stays off: the harness forks while it works, and a
lock that another thread held at that instant would never be released in the child.
"""

import time

from rich.console import Console
from rich.text import Text

from harness.reporting.live_view import Drawn
from harness.reporting.text import count, seconds
from harness.trial.judging import Progress

_PLAIN_EVERY = 5.0
_BAR_WIDTH = 24

_STAGES = {
    "record": "recording the workload",
    "load": "loading the recording",
    "control": "judging the volume as the workload left it (control)",
    "judge": "judging crash states",
    "confirm": "judging each finding again",
    "save": "saving bundles",
    "replay": "building the disk and judging it",
}


class LiveLine(Drawn):
    """One line that changes on a terminal, a plain line now and then elsewhere, nothing if quiet."""

    def tell(self, text: Text, *, important: bool = False) -> None:
        """Show it: on a terminal at once, elsewhere if it is important, or if nothing was shown for five seconds."""
        if self._quiet:
            return
        if self.live:
            self._live.update(text, refresh=True)
        elif important or time.monotonic() - self._told_at >= _PLAIN_EVERY:
            self._told_at = time.monotonic()
            self._console.print(text, soft_wrap=True, highlight=False)


class Follower(LiveLine):
    """Follows one trial: `stage` and `progress` are its callbacks."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(console, quiet=quiet)
        self._stage = ""
        self.last: Progress | None = None

    def stage(self, name: str) -> None:
        self._stage = _STAGES.get(name, name)
        self._told_at = time.monotonic()
        self.tell(Text(self._stage + " ..."), important=True)

    def progress(self, progress: Progress) -> None:
        self.last = progress
        self.tell(_line(self._stage, progress, bar=self.live))


def _line(stage: str, progress: Progress, *, bar: bool) -> Text:
    share = progress.judged / progress.selected if progress.selected else 1.0
    text = Text(no_wrap=True, overflow="ellipsis")
    if bar:
        filled = int(share * _BAR_WIDTH)
        text.append("[" + "#" * filled + "." * (_BAR_WIDTH - filled) + "] ", style="cyan")
    else:
        text.append(f"{stage}: ")
    text.append(f"{progress.judged:,} of {count(progress.selected, 'state')}, {progress.rate:,.0f}/s, ")
    text.append(count(progress.findings, "finding"), style="bold red" if progress.findings else "")
    if progress.judged < progress.selected and progress.rate:
        text.append(f", {seconds(progress.left)} left")
    return text

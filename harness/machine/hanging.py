"""A call into the kernel that may never come back: a sync, an unmount or a removal above a disk that does not answer.

A process that is killed meanwhile ends when the call does: what the disk hangs on must die with it, as an engine does.
"""

import threading
from collections.abc import Callable

from harness.errors import HarnessError


class Call:
    """`act`, begun in a thread of its own, in the mount namespace of the caller. It may raise OSError, HarnessError."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._error: OSError | HarnessError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._act()
        except (OSError, HarnessError) as error:
            self._error = error

    def is_over(self, seconds: float) -> bool:
        """Wait for it, at most so long, in real time. Raises what it ended with."""
        self._thread.join(seconds)
        if self._error:
            raise self._error
        return not self._thread.is_alive()

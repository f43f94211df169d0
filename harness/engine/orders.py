"""What the harness can tell a running engine to do wrong, and how it hears of it."""

import contextlib
import os
import signal
from abc import abstractmethod
from collections.abc import Sequence

import msgspec

from harness.closing import Closing
from harness.engine.messages import Frames
from harness.engine.rules import Count, Order, Rule, checked
from harness.engine.status import Status
from harness.errors import EngineLost, HarnessError
from harness.machine.process import wait_readable

_NEWS_MAX = 4096
_LOOK_SECONDS = 0.0005


class Commanded(Closing):
    """The faulty side of an engine: orders go to its file `control`, hits come back through a pipe and its status."""

    def __init__(self, mount_dir: str, status: Status, pidfd: int, news: int, sector: int) -> None:
        self.mount_dir = mount_dir
        self.status = status
        self._pidfd = pidfd
        self._news = news
        self._sector = sector
        self._rules = 0

    @abstractmethod
    def trouble(self) -> HarnessError | None:
        """Why the engine does not do what it should. None: it does."""

    def arm(self, rules: Sequence[Rule]) -> None:
        """From here on these rules hold, and no others; their counts begin at 0. What a rule held is done now.

        Raises Misuse for rules that have no meaning on this disk, EngineLost when nobody answers.
        """
        checked(rules, self.status.size, self._sector)
        if rules:
            self._forget_news()
        self._order(Order(rules=list(rules)))
        if rules:
            self._rules = len(rules)

    def heal(self) -> None:
        """No rule holds any more, and what was held is done. The counts stay."""
        self.arm([])

    def release(self, rule: int) -> None:
        """The `hang` rule that was armed as number `rule`, from 0, holds nothing more. The counts stay.

        What it held is refused where a rule that refuses every such request is awake by now, and done elsewhere.
        """
        self._order(Order(release=rule))

    def wake(self, text: str) -> None:
        """Append a mark, for the rules that wait `since` it. Unlike `mark`, also while a mark of somebody's is held.

        The kernel lets one process at a time write to a file such as `mark` (fs/fuse/file.c, inode_lock).
        """
        self._order(Order(say=text))

    def switch(self, where: str) -> None:
        """Between two requests, leave the blocks to whoever serves at `where`. Raises EngineLost if nobody does."""
        self._order(Order(switch=where))

    def counts(self) -> list[Count]:
        """What each of the rules that were armed last has met. Also when the engine is gone."""
        return self.status.counts(self._rules)

    @property
    def news(self) -> int:
        """A descriptor that is readable when there is a hit to await, and when the engine is dead."""
        return self._news

    def await_hit(self, seconds: float) -> bool:
        """Wait, at most so long, until a rule acts on a request. Each hit is told once. True too if the engine died."""
        if not wait_readable(self._news, seconds):
            return False
        os.read(self._news, 1)
        return True

    def halt(self) -> None:
        """SIGSTOP: when this returns it answers nothing, until `go_on`. Whoever touches the volume meanwhile waits."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
        while not os.waitid(os.P_PIDFD, self._pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            if wait_readable(self._pidfd, _LOOK_SECONDS):  # it died instead
                return

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def slay(self, seconds: float) -> bool:
        """SIGKILL, and wait for its death; False if it lives on. Nothing is cleared up: that is for kill or close."""
        self._signal(signal.SIGKILL)
        return wait_readable(self._pidfd, seconds)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _forget_news(self) -> None:
        while wait_readable(self._news, 0) and os.read(self._news, _NEWS_MAX):
            pass

    def _order(self, order: Order) -> None:
        message = Frames.pack(msgspec.json.encode(order))
        try:
            fd = os.open(f"{self.mount_dir}/control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, message, 0)
            finally:
                with contextlib.suppress(OSError):  # the rule may have been for the engine to die, and was quick
                    os.close(fd)
        except OSError as error:
            raise self.trouble() or EngineLost(f"the engine refused an order: {error}", "run it again") from error

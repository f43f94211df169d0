"""Faults in one target, in force: what the engine was armed with, and the thread that awaits the rest.

The engine strikes by itself where it can, at the very request. Where the harness must act, a rule of the engine *holds*
the request or mark that is the address; the thread hears of it, acts and lets it go. In this order:

1. where the fault takes the device away, the engine refuses everything from here on: a mark wakes the rules for that;
2. a block request that was held is let go, and thereby refused or done: the kernel waits for requests in flight
   before it changes a capacity (blk_mq_freeze_queue), so that none may be held then;
3. the deed;
4. a mark that was held is let go: whoever said it goes on after the deed.
"""

import contextlib
import functools
import os
import select
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from harness.engine.rules import Count, Rule
from harness.errors import EngineLost, Misuse, RequirementMissing, TrialUnknown
from harness.faults.address import REQUESTS, At, When

if TYPE_CHECKING:
    from harness.extents import Extent
    from harness.faults.fault import SingleFault
    from harness.faults.target import Target

_ASK_MS = 1.0
_FAR_MS = 60_000.0
_LOOK_SECONDS = 0.01
_NEWS_MAX = 4096
_END_SECONDS = 10.0


State = Literal["waiting", "done", "failed"]


class Part:
    """One of the faults of an injection: its rules, and what became of it."""

    def __init__(self, fault: "SingleFault", target: "Target", number: int) -> None:
        self.fault = fault
        self.awaited = f"fault: {number} is awaited"
        self.due = f"fault: {number} is due"
        self.clock = _clock_of(fault.at)
        self.state: State = "waiting"
        self.error = ""
        self.first = 0
        self.trigger: Rule | None = None
        refused = None if fault.by_engine else fault.refusals(target)
        self.refuses = refused is not None and target.served is not None
        if fault.by_engine:
            self.rules = fault.rules(target, self.awaited)
        else:
            self.rules = _refusals(refused or [], self.due) if self.refuses else []
            self.trigger = _trigger(fault, target, self.awaited, hold_all=self.refuses or fault.keeps_hold)
            self.rules += [self.trigger] if self.trigger else []
        self.counts: list[Count] = [Count(0, 0) for _ in self.rules]

    @property
    def hits(self) -> int:
        return sum(count.hit for count in self.counts) if self.fault.by_engine else int(self.state == "done")

    @property
    def seen(self) -> int:
        """How many requests or marks matched the address so far."""
        return self.counts[-1].seen if self.counts else 0

    @property
    def place(self) -> int:
        """Where its trigger stands among the rules that are armed."""
        return self.first + len(self.rules) - 1


def _clock_of(at: At) -> At | None:
    start = at.start
    return start if start and start.on in ("after", "when") else None


def _trigger(fault: "SingleFault", target: "Target", awaited: str, *, hold_all: bool) -> Rule | None:
    """The rule that holds what the deed waits for. `hold_all`: and all that comes after it."""
    if not fault.at.request and not fault.at.words:
        return None
    rule = fault.striking("hang", target, awaited)
    return msgspec.structs.replace(rule, count=0) if hold_all and fault.at.request else rule


def _refusals(extents: "list[Extent]", due: str) -> list[Rule]:
    """A device of which a part is gone still flushes."""
    return [
        Rule(action="error", on=kind, count=0, since=due, extents=tuple(extents))
        for kind in REQUESTS
        if kind != "flush" or not extents
    ]


def _next_ms(waiting: "Sequence[Part]", passed: float) -> float:
    """How long to wait when nobody says anything."""
    clocks = [part.clock for part in waiting if part.clock]
    if any(clock.on == "when" for clock in clocks):
        return _ASK_MS
    return min((max(0.0, clock.seconds - passed) * 1000 for clock in clocks), default=_FAR_MS)


def _has_come(clock: At, passed: float) -> bool:
    return clock.condition() if isinstance(clock, When) else passed >= clock.seconds


class Injection:
    """Made by `begin`, ended by `heal`."""

    def __init__(self, target: "Target", faults: "Sequence[SingleFault]") -> None:
        self.target = target
        self.engine = target.engine
        self.healed = False
        self.parts = [Part(fault, target, number) for number, fault in enumerate(faults)]
        self._began = time.monotonic()
        self._wake = self._news = -1
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._counted = False

    @classmethod
    def begin(cls, target: "Target", faults: "Sequence[SingleFault]") -> "Injection":
        """Arm the engine, do what is due at once, and await the rest. Raises as Fault.inject does."""
        missing = [found for fault in faults if (found := fault.availability(target))]
        if missing:
            raise RequirementMissing(missing)
        if target.spec.fault != "none":
            cause = f"the volume's device has a fault of its own already: {target.spec.fault}"
            raise Misuse(cause, "inject into a volume without one; compose it: lie@flush:1,count=0")
        if target.injection and not target.injection.healed:
            names = " + ".join(str(part.fault) for part in target.injection.parts)
            raise Misuse(f"{names} is in force on this target", "heal it first, or compose what is to be there at once")
        injection = cls(target, faults)
        injection._arm()
        target.injection = injection
        try:
            injection._start()
        except BaseException:
            injection.heal()
            raise
        return injection

    def part(self, fault: "SingleFault") -> Part:
        """What became of this fault. Raises Misuse if it is none of them."""
        self._count()
        for part in self.parts:
            if part.fault == fault:
                return part
        raise Misuse(f"{fault} was not injected", "these were: " + ", ".join(str(part.fault) for part in self.parts))

    def await_hit(self, fault: "SingleFault", seconds: float) -> bool:
        """See Fault.await_hit."""
        give_up_at = time.monotonic() + seconds
        while not (part := self.part(fault)).hits:
            left = give_up_at - time.monotonic()
            if left <= 0 or part.state == "failed" or self.healed:
                return False
            if self._thread:
                with self._changed:
                    self._changed.wait(min(left, _LOOK_SECONDS))
            elif self.engine is None or not self.engine.alive or not self.engine.await_hit(left):
                return self.part(fault).hits > 0
        return True

    def heal(self) -> None:
        """See Fault.heal."""
        if self.healed:
            return
        self.healed = True
        if self.engine and self.engine.alive:
            if self.target.served:
                self.target.served.wake_engine()
            with contextlib.suppress(EngineLost):
                self.engine.heal()
        self._end_thread()
        self._count()
        with contextlib.ExitStack() as undoing:  # the last first, and all of them, whatever one of them raises
            for part in self.parts:
                if part.state != "waiting":
                    undoing.callback(part.fault.undo, self.target)

    def _arm(self) -> None:
        rules: list[Rule] = []
        for part in self.parts:
            part.first = len(rules)
            rules += part.rules
        if rules:
            if self.engine is None:
                raise EngineLost("the disk has no engine that lives", "attach it first")
            self.engine.arm(rules)

    def _start(self) -> None:
        for part in self._awaited():
            if not part.trigger and not part.clock:
                self._advance(part)
        if self._awaited():
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            self._news = os.dup(self.engine.news) if self.engine else -1
            self._thread = threading.Thread(target=self._watch, name="harness-faults", daemon=True)
            self._thread.start()

    def _awaited(self) -> list[Part]:
        """Those for which the harness has still something to do."""
        return [part for part in self.parts if part.state == "waiting" and (part.clock or not part.fault.by_engine)]

    def _count(self) -> None:
        """Until the heal, the engine's counts are this injection's."""
        if self.engine and not self._counted:
            counts = self.engine.counts()
            for part in self.parts:
                part.counts = counts[part.first : part.first + len(part.rules)]
            self._counted = self.healed

    def _watch(self) -> None:
        """The thread: await what the parts wait for, until there is nothing left, or the heal."""
        while not self.healed and (waiting := self._awaited()):
            self._await_news(waiting)
            self._count()
            for part in waiting:
                if not self.healed:
                    with contextlib.suppress(Exception):  # the part keeps what it says
                        self._advance(part)
            with self._changed:
                self._changed.notify_all()

    def _await_news(self, waiting: Sequence[Part]) -> None:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._news >= 0:
            poller.register(self._news, select.POLLIN)
        for fd, _ in poller.poll(_next_ms(waiting, self._passed)):
            if fd == self._news and not os.read(fd, _NEWS_MAX):  # the engine is dead
                os.close(fd)
                self._news = -1

    @property
    def _passed(self) -> float:
        """Seconds since the injection."""
        return time.monotonic() - self._began

    def _advance(self, part: Part) -> None:
        """One step further, if its time has come. What goes wrong is kept, and raised."""
        try:
            if part.clock:
                if not _has_come(part.clock, self._passed):
                    return
                part.clock = None
                if self.engine and part.rules:
                    self.engine.wake(part.awaited)
                if part.fault.by_engine:
                    part.state = "done"
                    return
                if part.trigger:
                    return
            if not part.trigger or part.counts[-1].hit:
                self._strike(part)
        except Exception as error:
            part.state, part.error = "failed", str(error)
            raise

    def _strike(self, part: Part) -> None:
        """See the module's own words. Nothing stays held, whatever goes wrong."""
        with contextlib.ExitStack() as after:
            if self.engine and part.refuses:
                self.engine.wake(part.due)
            if self.engine and part.trigger and not part.fault.keeps_hold:
                letting_go = functools.partial(self.engine.release, part.place)
                if part.fault.at.request:
                    letting_go()
                else:
                    after.callback(letting_go)
            part.fault.act(self.target)
            part.state = "done"

    def _end_thread(self) -> None:
        if self._thread is None:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            waiting = ", ".join(str(part.fault) for part in self.parts)
            cause = f"the deed of a fault ({waiting}) hangs in the kernel"
            raise TrialUnknown(cause, "see `ps -eLo pid,stat,wchan,cmd`")
        for fd in {self._wake, self._news} - {-1}:
            os.close(fd)

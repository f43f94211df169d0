"""The faults of a served disk, carried out: a request goes through the rules before it is done.

What a fault kept from the medium is not in the log, so that the log says what the medium holds; a mark `fault: …` says
what was asked for.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.blocklog import LogWriter
from harness.blocklog.format import FAULT, LIED
from harness.engine import status as page
from harness.engine.rules import Armed, Request, Rule
from harness.machine import fuse

_MIB = 1 << 20


class Reply(NamedTuple):
    """What to answer: an errno (0: none) and the body, which is sent from where it lies."""

    error: int = 0
    body: bytes | memoryview = b""


class Held(NamedTuple):
    """A request that a rule keeps unanswered; `do` carries it out after all."""

    unique: int
    do: Callable[[], Reply]


class Faults:
    """The rules of one engine. `words` is its status page, `news` a pipe that gets a byte for each hit (-1: none)."""

    def __init__(self, log: LogWriter, memory: memoryview, words: memoryview, sector: int, news: int) -> None:
        self._log = log
        self._memory = memory
        self._words = words
        self._sector = sector
        self._news = news
        self._armed = Armed()
        self._held: list[Held] = []
        self._owed = 0

    def arm(self, rules: Sequence[Rule]) -> None:
        """These hold from now on, and no others. An empty list leaves the counts where they can be read."""
        self._armed.arm(rules)
        if rules:
            self._publish()

    def on(self, request: Request) -> bool:
        """Whether requests of this kind must go through the rules."""
        return self._armed.on(request)

    def take_held(self) -> list[Held]:
        """The requests that nobody has answered yet, to be carried out now."""
        held, self._held = self._held, []
        return held

    def through(
        self,
        request: Request,
        unique: int,
        do: Callable[[], Reply],
        *,
        offset: int = 0,
        length: int = 0,
        texts: Sequence[str] = (),
    ) -> Reply | None:
        """The answer to a request that `do` carries out; None if it gets none for now."""
        if request == "flush" and self._owed:
            error, self._owed = self._owed, 0
            self._note("late error of an earlier write, answered to a flush")
            return Reply(error)
        rule = self._decide(request, offset, length, texts)
        return self._act(rule, request, unique, do, offset, length) if rule else do()

    def write(self, unique: int, offset: int, size: int, land: Callable[[int, int], None]) -> Reply | None:
        """The same for a write, whose payload stands at the log's payload_at; land(offset, size) makes it so."""
        done = Reply(body=fuse.WRITE_OUT.pack(size, 0))
        rule = self._decide("write", offset, size, ())
        if rule is None:
            land(offset, size)
            return done
        if rule.action in ("hang", "delay", "signal", "die", "error"):
            return self._act(rule, "write", unique, self._landing(offset, size, land, done), offset, size)
        error = self._spoil(rule, offset, size, land)
        self._note(f"{rule.action}: write of {size} at {offset}")
        return Reply(error) if error else done

    def _landing(self, offset: int, size: int, land: Callable[[int, int], None], done: Reply) -> Callable[[], Reply]:
        """To be called now or later: what is read into the log's memory meanwhile does not matter."""
        at = self._log.payload_at
        payload = bytes(self._memory[at : at + size])

        def do() -> Reply:
            at = self._log.payload_at
            self._memory[at : at + size] = payload
            land(offset, size)
            return done

        return do

    def _spoil(self, rule: Rule, offset: int, size: int, land: Callable[[int, int], None]) -> int:
        """Do to the medium what the rule says; the errno to answer, 0 where the write is acknowledged."""
        if rule.action == "short":
            half = size // 2 - size // 2 % self._sector
            if half:
                land(offset, half)
            return rule.errno
        if rule.action == "flip":
            self._memory[self._log.payload_at + rule.shift % size] ^= 1
            land(offset, size)
        elif rule.action == "misdirect":
            land(offset + rule.shift, size)
        elif rule.action == "late":
            self._owed = rule.errno
        return 0

    def _act(
        self, rule: Rule, request: str, unique: int, do: Callable[[], Reply], offset: int, length: int
    ) -> Reply | None:
        if rule.action == "hang":
            self._held.append(Held(unique, do))
            return None
        if rule.action == "delay":
            time.sleep(rule.seconds + rule.seconds_per_mib * length / _MIB)
        elif rule.action == "signal":
            with contextlib.suppress(ProcessLookupError):
                os.kill(rule.pid, signal.SIGKILL)
        elif rule.action == "die":
            if rule.after:
                do()
            os.kill(os.getpid(), signal.SIGKILL)
        elif rule.action == "lie":
            self._log.mark(LIED)
            return Reply()
        else:  # error, or a discard that is dropped
            self._note(f"{rule.action}: {request}" + (f" of {length} at {offset}" if length else ""))
            return Reply(rule.errno if rule.action == "error" else 0)
        return do()

    def _decide(self, request: Request, offset: int, length: int, texts: Sequence[str]) -> Rule | None:
        if not self._armed.on(request):
            return None
        rule = self._armed.decide(request, offset, length, texts)
        self._publish()
        if rule and self._news >= 0:
            with contextlib.suppress(OSError):  # nobody reads, and the pipe is full
                os.write(self._news, b"h")
        return rule

    def _publish(self) -> None:
        for index, (seen, hit) in enumerate(zip(self._armed.seen, self._armed.hit, strict=True)):
            self._words[page.SEEN + index] = seen
            self._words[page.HIT + index] = hit

    def _note(self, text: str) -> None:
        self._log.mark(FAULT + text.encode())

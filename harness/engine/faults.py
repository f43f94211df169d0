"""The faults of a served disk, carried out: a request goes through the rules before it is done.

What a fault kept from the medium is not in the log, so that the log says what the medium holds; a mark `fault: …` says
what was asked for.
"""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.blocklog import LogWriter
from harness.blocklog.format import FAULT, LIED
from harness.engine import status as page
from harness.engine.rules import SPOILING, Armed, Request, Rule
from harness.machine import fuse

_MIB = 1 << 20


class Reply(NamedTuple):
    """What to answer: an errno (0: none) and the body, which is sent from where it lies."""

    error: int = 0
    body: bytes | memoryview = b""


class Held(NamedTuple):
    """A request that rule number `rule` keeps unanswered; `do` carries it out after all."""

    rule: int
    unique: int
    do: Callable[[], Reply]
    refusal: Callable[[], int]
    """The errno with which a rule that woke meanwhile refuses it; 0: none does."""


class Faults:
    """The rules of one engine. `words` is its status page, `news` a pipe that gets a byte for each hit (-1: none)."""

    def __init__(
        self, log: LogWriter, memory: memoryview, words: memoryview, size: int, sector: int, news: int
    ) -> None:
        self._log = log
        self._memory = memory
        self._words = words
        self._size = size
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

    def wake(self, texts: Sequence[str]) -> None:
        """These marks were said."""
        self._armed.wake(texts)

    def release(self, rule: int) -> list[tuple[int, Callable[[], Reply]]]:
        """This rule holds nothing more. What it held: each request, and what becomes of it now."""
        self._armed.retire(rule)
        let_go = [held for held in self._held if held.rule == rule]
        self._held = [held for held in self._held if held.rule != rule]
        return [(held.unique, self._judged_again(held)) for held in let_go]

    def release_all(self) -> list[tuple[int, Callable[[], Reply]]]:
        """What any rule held: each request, and how it is done after all."""
        let_go, self._held = self._held, []
        return [(held.unique, held.do) for held in let_go]

    def _judged_again(self, held: Held) -> Callable[[], Reply]:
        error = held.refusal()
        return (lambda: Reply(error)) if error else held.do

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
        index = self._decide(request, offset, length, texts)
        return do() if index is None else self._act(index, request, unique, do, offset, length)

    def write(self, unique: int, offset: int, size: int, land: Callable[[int, int], None]) -> Reply | None:
        """The same for a write, whose payload stands at the log's payload_at; land(offset, size) makes it so."""
        done = Reply(body=fuse.WRITE_OUT.pack(size, 0))
        index = self._decide("write", offset, size, ())
        if index is None:
            land(offset, size)
            return done
        rule = self._armed.rules[index]
        if rule.action not in SPOILING:
            return self._act(index, "write", unique, self._landing(offset, size, land, done), offset, size)
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
            astray = offset + rule.shift
            land(astray if 0 <= astray <= self._size - size else max(0, offset - rule.shift), size)
        elif rule.action == "late":
            self._owed = rule.errno
        return 0

    def _act(
        self, index: int, request: Request, unique: int, do: Callable[[], Reply], offset: int, length: int
    ) -> Reply | None:
        rule = self._armed.rules[index]
        if rule.action == "hang":
            refusal = functools.partial(self._armed.refusal, request, offset, length)
            self._held.append(Held(index, unique, do, refusal))
            return None
        if rule.action == "delay":
            time.sleep(rule.seconds + rule.seconds_per_mib * length / _MIB)
        elif rule.action == "die":
            if rule.after:
                do()
            os.kill(os.getpid(), signal.SIGKILL)
        elif rule.action == "lie":
            self._log.mark(LIED)
            return Reply()
        elif rule.action != "signal":  # error, or a discard that is dropped
            self._note(f"{rule.action}: {request}" + (f" of {length} at {offset}" if length else ""))
            return Reply(rule.errno if rule.action == "error" else 0)
        return do()

    def _decide(self, request: Request, offset: int, length: int, texts: Sequence[str]) -> int | None:
        if not self._armed.on(request):
            return None
        index = self._armed.decide(request, offset, length, texts)
        if index is not None and self._armed.rules[index].action == "signal":
            index = self._strike_process(index)
        self._publish()
        if index is not None and self._news >= 0:
            with contextlib.suppress(OSError):  # nobody reads, and the pipe is full
                os.write(self._news, b"h")
        return index

    def _strike_process(self, index: int) -> int | None:
        """SIGKILL, before anybody is told of the hit. A process that is gone is none."""
        try:
            os.kill(self._armed.rules[index].pid, signal.SIGKILL)
            return index
        except ProcessLookupError:
            self._armed.hit[index] -= 1
            return None

    def _publish(self) -> None:
        for index, (seen, hit) in enumerate(zip(self._armed.seen, self._armed.hit, strict=True)):
            self._words[page.SEEN + index] = seen
            self._words[page.HIT + index] = hit

    def _note(self, text: str) -> None:
        self._log.mark(FAULT + text.encode())

"""The soak: shards of new seeds handed out until the time is up, and a canary that must keep being found."""

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import NamedTuple

from harness.campaign import budget, night
from harness.campaign.again import shards_again
from harness.campaign.morning import verdict_of
from harness.campaign.night import Night, Spec
from harness.campaign.pool import Answer, Pool
from harness.campaign.records import BugSignature
from harness.campaign.shards import Known, Shard, ShardResult, Task
from harness.closing import Closing
from harness.errors import Misuse
from harness.verdict import Verdict, worst

EXPLAINED_MAX = 5
"""Findings of one kind on one source that are shrunk; those behind them are counted."""

_TICK_SECONDS = 0.25
_BEAT_SECONDS = 5.0
_DRAIN_SECONDS = 300.0
_ATTEMPTS = 2
_FAILURES_MAX = 2


class Limits(NamedTuple):
    """When it ends: after so many seconds, or so many shards of new seeds (0: by time alone)."""

    seconds: float
    shards: int = 0


class View(NamedTuple):
    """What can be said of a running soak, a few times a second. Times in seconds."""

    night: Night
    elapsed: float
    spent: float
    left: float
    rate: float
    """States a second, of this process's time."""
    workers: int
    busy: tuple[tuple[str, int, int], ...]
    """Source, plans and states of each shard that is being judged."""
    ending: bool


class Watcher:
    """Is told how it goes; does nothing by itself."""

    def tick(self, view: View) -> None:
        """Some four times a second."""

    def shard(self, shard: Shard, result: ShardResult, *, new: bool) -> None:
        """One was judged; `new`: it was not in the store before."""

    def note(self, text: str) -> None:
        """Something that is to be read."""


class Outcome(NamedTuple):
    """How it ended. `trouble` is an error of the disk that ended it."""

    run: int
    verdict: Verdict
    interrupted: bool
    trouble: OSError | None = None


class Soak:
    """One run. All that it finds out is in the store at once."""

    def __init__(self, night: Night, pool: Pool, spec: Spec, seed: int, limits: Limits, watcher: Watcher) -> None:
        self._night = night
        self._pool = pool
        self._limits = limits
        self._watcher = watcher
        self._canaries = budget.Canaries(seed, spec.canaries, limits.seconds, night.canaries)
        again, notes = shards_again(night.store)
        for note in notes:
            watcher.note(note)
        self._first = deque(shard for shard in again if shard.name not in night.done)
        self._row = self._shards(budget.shards(seed, spec.sources, spec.covered))
        self._retries: deque[Task] = deque()
        self._busy: dict[str, Task] = {}
        self._explained: Counter[tuple[str, tuple[str, str]]] = Counter()
        self._known: dict[tuple[str, tuple[str, str]], BugSignature] = {}
        self._failures: Counter[str] = Counter()
        self._given_up = {source.name: False for source in spec.sources}
        self._stop = 0
        self._last_canary = False
        self._beat_at = 0.0

    def run(self) -> Outcome:
        """Until the time is up, or SIGINT or SIGTERM; a second one of these is Ctrl-C as usual."""
        trouble: OSError | None = None
        with self._signals():
            try:
                self._judge()
            except OSError as error:
                trouble = error
        return self._ended(trouble)

    def _judge(self) -> None:
        drained_by = 0.0
        while not self._stop:
            self._fill()
            if not self._busy and self._over:
                return
            for answer in self._pool.answers(_TICK_SECONDS):
                self._take(answer)
            if time.monotonic() >= self._beat_at:
                self._night.beat()
                self._beat_at = time.monotonic() + _BEAT_SECONDS
            self._watcher.tick(self._view())
            if self._over:
                drained_by = drained_by or time.monotonic() + _DRAIN_SECONDS
                if time.monotonic() > drained_by:
                    self._lose_the_rest()
                    return

    @property
    def _over(self) -> bool:
        """Nothing new is to begin."""
        return self._row is None and not self._retries and not self._first and self._last_canary

    def _shards(self, row: Iterator[Shard]) -> Iterator[Shard] | None:
        """The row without what is in the store already."""
        if self._limits.shards:
            row = islice(row, self._limits.shards)
        return (shard for shard in row if shard.name not in self._night.done)

    def _fill(self) -> None:
        while self._pool.free > 0 and (task := self._next()) is not None:
            self._busy[task.shard.name] = task
            self._pool.submit(task)

    def _next(self) -> Task | None:
        """A shard whose server was lost, a canary that is due, what was found before, the next of the row."""
        if self._retries:
            return self._retries.popleft()
        spent = self._night.spent
        if spent >= self._limits.seconds:
            self._row = None
            self._first.clear()
        if self._canaries.due(spent) and self._row is not None:
            return Task(shard=self._canaries.next(spent))
        if self._first:
            return Task(shard=self._first.popleft())
        shard = self._of_row()
        if shard is not None:
            self._canaries.note()
            known = tuple(
                Known(source=source, group=group, signature=signature)
                for (source, group), signature in self._known.items()
                if source == shard.source and self._explained[source, group] >= EXPLAINED_MAX
            )
            return Task(shard=shard, known=known)
        if not self._last_canary:
            self._last_canary = True
            last = self._canaries.next(spent) if self._canaries.due(float("inf")) else None
            return Task(shard=last) if last else None
        return None

    def _of_row(self) -> Shard | None:
        if self._row is None or all(self._given_up.values()):
            self._row = None
            return None
        for shard in self._row:
            if not self._given_up[shard.source]:
                return shard
        self._row = None
        return None

    def _take(self, answer: Answer) -> None:
        shard, result = answer.task.shard, answer.result
        self._busy.pop(shard.name, None)
        if result is None or result.trouble:
            self._failed(answer.task, result.trouble if result else answer.why)
            return
        new = self._night.take(shard, result)
        for note in result.notes:
            self._watcher.note(note)
        for group, signature in result.groups:
            self._explained[shard.source, group] += 1
            self._known.setdefault((shard.source, group), signature)
        if shard.canary and not result.convicts:
            self._watcher.note(f"the canary was missed: {shard.guarantee}, seed {shard.seed}")
        self._watcher.shard(shard, result, new=new)

    def _failed(self, task: Task, why: str) -> None:
        """Once more; then it is UNKNOWN, and a source that fails again and again is given up."""
        shard = task.shard
        if task.attempt + 1 < _ATTEMPTS:
            self._watcher.note(f"a shard of {shard.source} is judged again: {why}")
            self._retries.append(Task(shard=shard, known=task.known, attempt=task.attempt + 1))
            return
        self._watcher.note(f"a shard of {shard.source} could not be judged: {why}")
        self._night.lose(task, why)
        self._failures[shard.source] += 1
        if self._failures[shard.source] >= _FAILURES_MAX and shard.source in self._given_up:
            self._watcher.note(f"{shard.source} is given up")
            self._given_up[shard.source] = True

    def _lose_the_rest(self) -> None:
        for task in self._busy.values():
            self._night.lose(task, f"it had not ended {_DRAIN_SECONDS:g} s after the time was up")

    def _view(self) -> View:
        night = self._night
        by_name = {task.shard.name: task.shard.source for task in self._busy.values()}
        signs = self._pool.working
        busy = tuple((by_name[sign.shard], sign.plans, sign.states) for sign in signs if sign.shard in by_name)
        states = night.states_now + sum(states for _, _, states in busy)
        return View(
            night=night,
            elapsed=night.elapsed,
            spent=night.spent,
            left=max(0.0, self._limits.seconds - night.spent),
            rate=states / night.elapsed if night.elapsed else 0.0,
            workers=self._pool.workers,
            busy=busy,
            ending=self._row is None,
        )

    def _ended(self, trouble: OSError | None) -> Outcome:
        interrupted = self._stop != 0
        figures = {night.WORKERS: self._pool.workers}
        self._pool.close()
        run, store = self._night.run, self._night.store
        try:
            self._night.beat()
            figures |= {night.DISK: self._night.shelf.used(), night.DROPPED: self._night.shelf.dropped}
            verdict = verdict_of(store, run)
            if trouble or interrupted:
                verdict = worst([verdict, Verdict.UNKNOWN])
            self._night.end(verdict, interrupted=interrupted, figures=figures)
        except OSError as error:
            trouble = trouble or error
            found = any(self._night.findings.values())
            verdict = Verdict.CORRUPTED if found else Verdict.UNKNOWN
        return Outcome(run, verdict, interrupted, trouble)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = number

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Claim(Closing):
    """One soak at a time in a reports directory. The lock is this process's own, and ends with it (fcntl(2))."""

    def __init__(self, folder: str) -> None:
        """Raises Misuse where another process soaks there, OSError."""
        import fcntl

        os.makedirs(folder, exist_ok=True)
        self._fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            where = os.path.dirname(folder)
            raise Misuse(f"another soak is at work in {where}", "wait for it, or name another --reports") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

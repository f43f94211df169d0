"""The processes that judge: a pool hands them chunks of states in log order, replaces one that dies, loses no state."""

import contextlib
import mmap
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Protocol

import msgspec

from harness.closing import Closing
from harness.machine import zram
from harness.machine.remote import Remote
from harness.machine.sandbox import interrupts_held
from harness.oracle.examine import harness_fault
from harness.trial.report import Deep
from harness.verdict import Finding, FindingKind, Verdict

_CHUNK_MAX = 32
_TICK_SECONDS = 0.1
_BURIALS_MAX = 25
_AT = struct.Struct("<Q")

Chunk = tuple[int, int]
Bad = list[tuple[int, list[Finding]]]


class Told(msgspec.Struct, array_like=True):
    """What a worker says at the end of a chunk: the states with findings, and, if it failed on the way, on what."""

    bad: Bad
    fault: Finding | None = None
    deep: list[Deep] = []


class Bench(Protocol):
    """A worker's tools, made in the worker itself: judges the states that it is given, forward only."""

    def judge(self, index: int) -> list[Finding]: ...
    def take_deep(self) -> list[Deep]:
        """What became of the recoveries of the states judged since the last call."""


BenchMaker = Callable[[zram.ZramDevice | None], Bench]


class Worker(Closing):
    """The parent's handle on one worker, which is pid 1 of a PID namespace with mounts of its own."""

    def __init__(self, make_bench: BenchMaker, device: zram.ZramDevice | None) -> None:
        self.device = device
        self.pending: list[Chunk] = []
        self._at = mmap.mmap(-1, mmap.PAGESIZE)  # shared: the state that it is judging, written by the worker
        self._seen = -1
        self._moved_at = time.monotonic()

        def serve(tasks: Connection, answers: Connection) -> int:
            return _work(tasks, answers, make_bench, device, self._at)

        self._remote = Remote(serve, "harness-judge")
        self.told = self._remote.told

    def send(self, chunk: Chunk) -> None:
        self.pending.append(chunk)
        with contextlib.suppress(BrokenPipeError):  # it has died since it told us something: `died` says so next
            self._remote.send(msgspec.msgpack.encode(chunk))

    def receive(self) -> Told | None:
        """What it told; None if it died before it could."""
        told = self._remote.receive()
        return None if told is None else msgspec.msgpack.decode(told, type=Told)

    @property
    def died(self) -> int:
        """A descriptor that is readable once the worker is dead."""
        return self._remote.died

    @property
    def at(self) -> int:
        """Index of the state that it is judging."""
        index: int = _AT.unpack_from(self._at)[0]
        return index

    def silent_for(self) -> float:
        """Seconds since it last went on to another state."""
        if self.at != self._seen or not self.pending:
            self._seen = self.at
            self._moved_at = time.monotonic()
        return time.monotonic() - self._moved_at

    def death(self) -> Finding:
        status = self._remote.init.wait(1.0)
        return unjudged(FindingKind.HARNESS, f"the process that judged this state died (status {status})")

    def close(self) -> None:
        self._remote.close()
        self._at.close()


def unjudged(kind: FindingKind, summary: str) -> Finding:
    return Finding(kind=kind, verdict=Verdict.UNKNOWN, summary=summary)


def hung(seconds: float) -> Finding:
    return unjudged(FindingKind.STUCK, f"not judged within {seconds:g} s: the kernel or the check hangs")


def _work(
    tasks: Connection,
    answers: Connection,
    make_bench: BenchMaker,
    device: zram.ZramDevice | None,
    at: mmap.mmap,
) -> int:
    """A worker's whole life. Our own failure on a state is told, not swallowed, and ends the worker."""
    told = Told([])
    try:
        bench = make_bench(device)
        for first, last in _chunks(tasks):
            told = Told([])
            for index in range(first, last):
                _AT.pack_into(at, 0, index)
                if found := bench.judge(index):
                    told.bad.append((index, found))
            told.deep = bench.take_deep()
            answers.send_bytes(msgspec.msgpack.encode(told))
    except Exception as error:
        told.fault = harness_fault(error)
        answers.send_bytes(msgspec.msgpack.encode(told))
        return 1
    return 0


def _chunks(tasks: Connection) -> Iterator[Chunk]:
    while True:
        try:
            yield msgspec.msgpack.decode(tasks.recv_bytes(), type=Chunk)
        except EOFError:
            return


class Tallying(Protocol):
    """What the pool reports to: `note` for a state with findings, `judged` for each number of states done."""

    def note(self, index: int, findings: Sequence[Finding]) -> None: ...
    def judged(self, count: int) -> None: ...
    def deeper(self, deep: Sequence[Deep]) -> None: ...
    def tick(self) -> None: ...


class Pool:
    """Judges states 0 … `count` - 1 with `workers` processes. `patience`: seconds without progress that mean hung."""

    def __init__(self, count: int, make_bench: BenchMaker, tally: Tallying, *, patience: float) -> None:
        self._make_bench = make_bench
        self._tally = tally
        self._patience = patience
        self._workers: list[Worker] = []
        self._buried = 0
        # Small enough that progress shows and the last worker is not waited for, large enough to cost nothing.
        size = max(1, min(_CHUNK_MAX, count // _CHUNK_MAX))
        self._todo = [(first, min(first + size, count)) for first in range(0, count, size)][::-1]

    @property
    def chunks(self) -> int:
        return len(self._todo)

    def run(self, devices: Sequence[zram.ZramDevice | None]) -> None:
        """Until every state is judged or given up as UNKNOWN. One worker a device (None: a loop device of its own)."""
        try:
            for device in devices:
                self._start(device)
            while any(worker.pending for worker in self._workers):
                self._step()
        finally:
            self._close()

    def _start(self, device: zram.ZramDevice | None) -> None:
        with interrupts_held():
            worker = Worker(self._make_bench, device)
            self._workers.append(worker)
        for _ in range(2):  # one in work and one in hand, so that no worker waits for us
            self._feed(worker)

    def _feed(self, worker: Worker) -> None:
        if self._todo:
            worker.send(self._todo.pop())

    def _step(self) -> None:
        ready = wait([end for worker in self._workers for end in (worker.told, worker.died)], _TICK_SECONDS)
        for worker in list(self._workers):
            if worker.told in ready:
                self._take(worker)
            elif worker.died in ready:
                self._bury(worker, worker.death())
            elif worker.silent_for() > self._patience:
                self._bury(worker, hung(self._patience))
        self._tally.tick()

    def _take(self, worker: Worker) -> None:
        told = worker.receive()
        if told is None or told.fault:
            self._bury(worker, told.fault if told and told.fault else worker.death())
            return
        first, last = worker.pending.pop(0)
        for index, findings in told.bad:
            self._tally.note(index, findings)
        self._tally.judged(last - first)
        self._tally.deeper(told.deep)
        self._feed(worker)

    def _bury(self, worker: Worker, why: Finding) -> None:
        """The state that it died on is UNKNOWN; what it had not told of is done by another worker."""
        at, pending = worker.at, worker.pending
        self._workers.remove(worker)
        worker.close()
        if not pending:
            return
        self._buried += 1
        if not any(first <= at < last for first, last in pending):
            at = pending[0][0]  # it died before it came to a state at all
        self._tally.note(at, [why])
        self._tally.judged(1)
        self._todo += [chunk for chunk in reversed(_without(pending, at)) if chunk[0] < chunk[1]]
        if self._buried > _BURIALS_MAX:
            self._give_up(why)
        elif self._todo:
            self._start(worker.device)

    def _give_up(self, why: Finding) -> None:
        """Worker after worker died: whatever it is, it will not pass. All that is left is UNKNOWN."""
        for first, last in self._todo:
            for index in range(first, last):
                self._tally.note(index, [why])
            self._tally.judged(last - first)
        self._todo.clear()

    def _close(self) -> None:
        with interrupts_held():
            for worker in self._workers:
                worker.close()


def _without(chunks: Sequence[Chunk], index: int) -> list[Chunk]:
    left: list[Chunk] = []
    for first, last in chunks:
        left += [(first, index), (index + 1, last)] if first <= index < last else [(first, last)]
    return left

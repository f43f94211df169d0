"""Judge every selected state of a recording, on all cores, each on a disk of its own."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import NamedTuple

import msgspec

from harness.blocklog import Kind, Promise
from harness.crash import CrashState, Selection, StateSpace
from harness.errors import CheckUnsound
from harness.machine import mounts, zram
from harness.machine.mounts import Workspace
from harness.machine.tracing import Tracepoint
from harness.oracle.checks import Checker
from harness.settings import Settings
from harness.trial.bench import Bench
from harness.trial.depth import DeepBench, Recoveries
from harness.trial.devices import scratch_devices, workers_wanted
from harness.trial.recording import Recording, lost_atoms, walk, whole
from harness.trial.report import Deep, Found, Report, Tally
from harness.trial.report import Recoveries as Recovered
from harness.trial.workers import BenchMaker, Pool, Worker, hung
from harness.verdict import Finding, Verdict

PATIENCE_SECONDS = 30.0
_CONFIRMATIONS = 3

CheckerFactory = Callable[[Workspace], Checker | None]


class Progress(NamedTuple):
    """How far judging has come. `left` is the estimated time left in seconds."""

    judged: int
    selected: int
    rate: float
    findings: int
    left: float


OnProgress = Callable[[Progress], None]


class Judge:
    """Judges one recording with one check.

    `checker` is called in each worker, after it has mounts of its own, to make the check. `on_progress` is called in
    this process, some ten times a second.
    """

    def __init__(
        self,
        recording: Recording,
        settings: Settings,
        checker: CheckerFactory,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self._recording = recording
        self._settings = settings
        self._checker = checker
        self._on_progress = on_progress
        self._workspace = mounts.enter_private_mounts()
        self._tracepoint: Tracepoint | None = None
        self.space = recording.space(settings)
        self.promises: Sequence[Promise] = recording.log.promises(recording.end)

    def control(self) -> None:
        """Judge the disk that lost nothing. Raises CheckUnsound if even that one is rejected."""
        for finding in self.one(whole(self.space, self._recording)):
            raise CheckUnsound(
                f"the check rejects the volume as the workload left it, with no power cut: {finding.summary}",
                "run the check on a volume that the workload has just written; it must exit 0 there",
                finding.output.encode(),
            )

    def one(self, state: CrashState) -> list[Finding]:
        """Judge one state on a fresh loop device, in a worker of its own."""
        with Worker(lambda device: self.bench([state], device), None) as worker:
            worker.send((0, 1))
            if not wait([worker.told, worker.died], self._patience):
                return [hung(self._patience)]
            told = worker.receive()
            if told is None:
                return [worker.death()]
            return [told.fault] if told.fault else [finding for _, found in told.bad for finding in found]

    def all(self) -> Report:
        """Judge every selected state. Ctrl-C ends it early: the report says so and is never INTACT."""
        selection = select(self.space, self._settings)
        states = walk(selection.states)
        log = self._recording
        report = Report(
            model=self._settings.model,
            seed=self._settings.seed,
            allowed=self.space.allowed,
            selected=len(states),
            complete=selection.complete,
            writes=log.count(Kind.WRITE),
            flushes=log.count(Kind.FLUSH),
            promises=len(self.promises),
            notes=list(log.notes),
            recoveries=Recovered() if self._settings.depth > 1 else None,
        )
        scorer = _Scorer(report, states, self.lost, self._on_progress, log)
        pool = Pool(len(states), self._maker(states), scorer, patience=self._patience)
        try:
            with ExitStack() as stack:
                wanted = min(workers_wanted(self._settings), pool.chunks)
                devices, self._tracepoint = scratch_devices(stack, self._settings, self._recording.spec, wanted)
                pool.run(devices)
        except KeyboardInterrupt:
            report.interrupted = True
        scorer.close()
        return report

    def confirm_soundly(self, report: Report) -> None:
        """The same, the control first: where that fails the check is wrong, and what it found is UNKNOWN."""
        try:
            self.control()
        except CheckUnsound as error:
            report.notes.append(error.cause)
            for found in report.found:
                found.finding = msgspec.structs.replace(found.finding, verdict=Verdict.UNKNOWN)
            return
        self.confirm(report)

    def confirm(self, report: Report) -> None:
        """Judge each finding's best state again on fresh disks. One that never comes back is UNKNOWN."""
        try:
            for found in report.found:
                self._confirm(found)
        except KeyboardInterrupt:
            report.interrupted = True

    def _confirm(self, found: Found) -> None:
        judge = Judge(found.deeper, self._settings, self._checker) if found.deeper else self
        again = [_same(found.finding, judge.one(found.state)) for _ in range(_CONFIRMATIONS)]
        found.reproduced = f"{sum(again)}/{_CONFIRMATIONS}"
        if not any(again):
            found.finding = msgspec.structs.replace(found.finding, verdict=Verdict.UNKNOWN)

    def lost(self, state: CrashState) -> int:
        """How many writes of its epoch the state lost."""
        return len(lost_atoms(self.space, state))

    def bench(self, states: Sequence[CrashState], device: zram.ZramDevice | None) -> Bench:
        """The tools of one worker; to be called in the worker, which then owns its mounts."""
        recording, settings = self._recording, self._settings
        bench = Bench(recording.spec, recording.base, self._workspace, device, self._tracepoint, fsck=settings.fsck)
        bench.load(recording, self.space, states, self._checker(self._workspace))
        return bench

    def _deep_bench(self, states: Sequence[CrashState], device: zram.ZramDevice | None) -> DeepBench:
        recoveries = Recoveries(self._recording, self.space, self._settings, len(states))
        bench = self.bench(states, device)
        return DeepBench(bench, recoveries, states, self._checker(self._workspace))

    def _maker(self, states: Sequence[CrashState]) -> BenchMaker:
        make = self._deep_bench if self._settings.depth > 1 else self.bench
        return lambda device: make(states, device)

    @property
    def _patience(self) -> float:
        """Seconds without any sign of life after which a worker counts as hung in the kernel."""
        return self._settings.timeout * 1.5 + PATIENCE_SECONDS


class _Scorer:
    """Keeps the report while states are being judged."""

    def __init__(
        self,
        report: Report,
        states: Sequence[CrashState],
        lost: Callable[[CrashState], int],
        on_progress: OnProgress,
        recording: Recording,
    ) -> None:
        self._recording = recording
        self._report = report
        self._states = states
        self._lost = lost
        self._on_progress = on_progress
        self._tally = Tally()
        self._started = time.monotonic()

    def note(self, index: int, findings: Sequence[Finding]) -> None:
        state = self._states[index]
        self._report.unknown += any(finding.verdict is Verdict.UNKNOWN for finding in findings)
        for finding in findings:
            self._tally.add(finding, state, self._lost(state))

    def judged(self, count: int) -> None:
        self._report.judged += count

    def deeper(self, deep: Sequence[Deep]) -> None:
        for recovery in deep:
            self._report.add_recovery(recovery, self._recording, self._tally)

    def tick(self) -> None:
        done, total = self._report.judged, self._report.selected
        seconds = time.monotonic() - self._started
        rate = done / seconds if seconds else 0.0
        left = (total - done) / rate if rate else 0.0
        self._on_progress(Progress(done, total, rate, self._tally.count, left))

    def close(self) -> None:
        self._report.seconds = time.monotonic() - self._started
        self._report.found = self._tally.found()


def select(space: StateSpace, settings: Settings) -> Selection:
    """The states of a recording that these settings ask for."""
    if settings.cuts == "promises":
        return space.after_promises()
    return space.states(settings.max_states, settings.seed)


def _same(finding: Finding, others: Sequence[Finding]) -> bool:
    return any(other.kind is finding.kind and other.verdict is finding.verdict for other in others)

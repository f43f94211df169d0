"""Judge every selected state of a recording, on all cores, each on a disk of its own."""

import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import NamedTuple

import msgspec

from harness.blocklog import Kind, Promise
from harness.crash import CrashState, DiskBuilder
from harness.errors import CheckUnsound, HarnessError, InternalError, Missing, Misuse, RequirementMissing
from harness.machine import filesystems, mounts, zram
from harness.machine.mounts import Workspace
from harness.machine.scratch import LoopScratch, Scratch, ZramScratch
from harness.machine.tracing import Tracepoint, find_tracepoint
from harness.oracle.checks import Checker
from harness.oracle.examine import Examiner
from harness.settings import Settings
from harness.trial.recording import Recording, lost_atoms, whole
from harness.trial.report import Found, Report, Tally
from harness.trial.workers import Pool, Worker, hung
from harness.verdict import Finding, Verdict

_MAP_NORESERVE = 0x4000
_AUDIT_FACTOR = 16
_PATIENCE_SECONDS = 30.0
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
        self._fs = filesystems.lookup(recording.spec.fs)
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
        selection = self.space.states(self._settings.max_states, self._settings.seed)
        # Neighbours in this order differ in few writes, which makes the next disk cheap to build.
        states = sorted(selection.states, key=lambda state: (state.epoch, state.kept, state.cut))
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
        )
        scorer = _Scorer(report, states, self.lost, self._on_progress)
        pool = Pool(len(states), self._maker(states), scorer, patience=self._patience)
        try:
            with ExitStack() as stack:
                pool.run(self._devices(stack, min(self._workers_wanted(), pool.chunks)))
        except KeyboardInterrupt:
            report.interrupted = True
        scorer.close()
        return report

    def confirm(self, report: Report) -> None:
        """Judge each finding's best state again on fresh disks. One that never comes back is UNKNOWN."""
        try:
            for found in report.found:
                self._confirm(found)
        except KeyboardInterrupt:
            report.interrupted = True

    def _confirm(self, found: Found) -> None:
        again = [_same(found.finding, self.one(found.state)) for _ in range(_CONFIRMATIONS)]
        found.reproduced = f"{sum(again)}/{_CONFIRMATIONS}"
        if not any(again):
            found.finding = msgspec.structs.replace(found.finding, verdict=Verdict.UNKNOWN)

    def lost(self, state: CrashState) -> int:
        """How many writes of its epoch the state lost."""
        return len(lost_atoms(self.space, state))

    def bench(self, states: Sequence[CrashState], device: zram.ZramDevice | None) -> "_Bench":
        """The tools of one worker; to be called in the worker, which then owns its mounts."""
        recording = self._recording
        image = private_copy(recording)
        builder = DiskBuilder(self.space, image)
        footprint = [*recording.base.nonzero_extents(), *builder.footprint]
        scratch: Scratch
        if device:
            scratch = ZramScratch(device, image, footprint, self._tracepoint)
        else:
            scratch = LoopScratch(image, footprint, recording.spec.sector_size)
        checker = self._checker(self._workspace)
        fsck = self._settings.fsck
        examiner = Examiner(self._fs, recording.spec.mount_options, self._workspace, checker, run_fsck=fsck)
        return _Bench(states, self.promises, builder, scratch, examiner)

    def _maker(self, states: Sequence[CrashState]) -> Callable[[zram.ZramDevice | None], "_Bench"]:
        return lambda device: self.bench(states, device)

    @property
    def _patience(self) -> float:
        """Seconds without any sign of life after which a worker counts as hung in the kernel."""
        return self._settings.timeout * 1.5 + _PATIENCE_SECONDS

    def _workers_wanted(self) -> int:
        """Two a core: while one waits for the kernel (RCU, a block device), the other computes."""
        if not self._fs.concurrent_copies:
            return 1
        return self._settings.workers or 2 * len(os.sched_getaffinity(0))

    def _devices(self, stack: ExitStack, count: int) -> Sequence[zram.ZramDevice | None]:
        """zram devices where they are to be had, else loop devices. Raises Misuse or RequirementMissing for neither."""
        wanted = self._settings.scratch
        lacking = self._no_zram()
        if wanted == "zram" and lacking:
            raise lacking
        if wanted == "loop" or lacking:
            return [None] * count
        try:
            pool = stack.enter_context(zram.ZramPool(self._workspace, count, self._recording.base.size))
        except InternalError:  # no memory for one of that size, say
            if wanted == "zram":
                raise
            return [None] * count
        self._tracepoint = find_tracepoint(self._workspace)
        return pool.devices

    def _no_zram(self) -> HarnessError | None:
        if self._recording.spec.sector_size != zram.SECTOR_SIZE:
            return Misuse(f"zram devices have sectors of {zram.SECTOR_SIZE} bytes", "leave --scratch to choose itself")
        if not zram.available():
            why = "--scratch zram asks for it"
            return RequirementMissing([Missing("zram", why, "modprobe zram, or leave --scratch to choose itself")])
        return None


class _Bench:
    """One worker's disk image, scratch device and examiner."""

    def __init__(
        self,
        states: Sequence[CrashState],
        promises: Sequence[Promise],
        builder: DiskBuilder,
        scratch: Scratch,
        examiner: Examiner,
    ) -> None:
        self._states = states
        self._promises = promises
        self._builder = builder
        self._scratch = scratch
        self._examiner = examiner
        self._done = 0
        self._next_audit = 1

    def judge(self, index: int) -> list[Finding]:
        state = self._states[index]
        path = self._scratch.put(self._builder.build(state))
        # The second put is the first that relies on what was traced; after that, ever more rarely is enough.
        if self._done == self._next_audit:
            self._scratch.audit()
            self._next_audit *= _AUDIT_FACTOR
        self._done += 1
        return self._examiner.examine(path, self._scratch.name, self._promises[: state.promises])


class _Scorer:
    """Keeps the report while states are being judged."""

    def __init__(
        self,
        report: Report,
        states: Sequence[CrashState],
        lost: Callable[[CrashState], int],
        on_progress: OnProgress,
    ) -> None:
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

    def tick(self) -> None:
        done, total = self._report.judged, self._report.selected
        seconds = time.monotonic() - self._started
        rate = done / seconds if seconds else 0.0
        left = (total - done) / rate if rate else 0.0
        self._on_progress(Progress(done, total, rate, self._tally.count, left))

    def close(self) -> None:
        self._report.seconds = time.monotonic() - self._started
        self._report.found = self._tally.found()


def private_copy(recording: Recording) -> mmap.mmap:
    """The base's bytes in private memory, for a builder to change. Costs what is not zero, not the volume's size."""
    image = mmap.mmap(-1, recording.base.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    for offset, length in recording.base.nonzero_extents():
        image[offset : offset + length] = recording.base.read(offset, length)
    return image


def _same(finding: Finding, others: Sequence[Finding]) -> bool:
    return any(other.kind is finding.kind and other.verdict is finding.verdict for other in others)

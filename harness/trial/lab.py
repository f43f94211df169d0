"""A lab: a warm process that records plans and judges their crash states, one plan after the other.

What costs time stays between plans: the process, its mounts, the scratch device, the writer. Each plan gets a volume of
its own over the same base, each state a disk of its own.
"""

import contextlib
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

import msgspec

from harness.blocklog import BlockLog, Kind
from harness.closing import Closing
from harness.crash import CrashState
from harness.errors import HarnessError
from harness.machine import mounts, zram
from harness.machine.image import Image
from harness.machine.remote import Remote
from harness.machine.sandbox import interrupts_held
from harness.machine.tracing import Tracepoint
from harness.oracle.examine import harness_fault
from harness.plan.interpreter import Writer
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.bench import Bench
from harness.trial.depth import DeepBench, Recoveries
from harness.trial.devices import scratch_devices
from harness.trial.judging import PATIENCE_SECONDS, select
from harness.trial.plans import plan_check, record_on
from harness.trial.recording import ChosenState, Recording, lost_atoms, walk
from harness.trial.report import Deep, Found, Report, Tally
from harness.trial.report import Recoveries as Recovered
from harness.trial.workers import hung
from harness.verdict import Finding, Verdict, unjudged
from harness.volume import VolumeSpec, make_base


class Shown(msgspec.Struct, array_like=True):
    """One distinct finding of a plan, with the state that shows it best."""

    finding: Finding
    state: ChosenState
    lost: int
    states: int


class Answer(msgspec.Struct, kw_only=True):
    """What a lab says of one plan. The log comes along where something was found."""

    selected: int = 0
    judged: int = 0
    unknown: int = 0
    allowed: str = "0"
    complete: bool = False
    writes: int = 0
    flushes: int = 0
    promises: int = 0
    seconds: float = 0.0
    shown: list[Shown] = []
    deep: list[Deep] = []
    log: bytes = b""
    begin: int = 0
    end: int = 0
    orderly: bool = True
    notes: tuple[str, ...] = ()
    trouble: Finding | None = None
    """Why nothing could be judged: the recording failed, the lab died."""


class Judgement(msgspec.Struct, kw_only=True):
    """A plan, what was judged of it, and its recording where something was found."""

    plan: Plan
    report: Report
    recording: Recording | None = None


class Lab(Closing):
    """The parent's handle: one plan at a time. A lab that dies or hangs is replaced; its plan is UNKNOWN."""

    def __init__(
        self, settings: Settings, base: Image, device: zram.ZramDevice | None, tracepoint: Tracepoint | None
    ) -> None:
        self._settings = settings
        self._spec = VolumeSpec.of(settings)
        self._base = base
        self._device = device
        self._tracepoint = tracepoint
        self._plan: Plan | None = None
        self._sent_at = 0.0
        self._remote = self._start()

    def _start(self) -> Remote:
        def serve(tasks: Connection, answers: Connection) -> int:
            worker = _Worker(self._settings, self._spec, self._base, self._device, self._tracepoint)
            return worker.serve(tasks, answers)

        return Remote(serve, "harness-lab")

    def submit(self, plan: Plan) -> None:
        """Begin with a plan."""
        self._plan = plan
        self._sent_at = time.monotonic()
        self._remote.send(msgspec.msgpack.encode(plan))

    @property
    def ends(self) -> list[Connection | int]:
        """What to wait for: one of them is ready when there is an answer, or when the lab is dead."""
        return [self._remote.told, self._remote.died]

    @property
    def overdue(self) -> bool:
        """It has had its time, and more: something hangs."""
        return self._plan is not None and time.monotonic() - self._sent_at > self.patience

    @property
    def patience(self) -> float:
        """Seconds that one plan may take before it counts as hung."""
        return 3 * self._settings.timeout + PATIENCE_SECONDS + 0.5 * self._settings.max_states

    def judge(self, plan: Plan) -> Judgement:
        """Submit and wait."""
        self.submit(plan)
        wait(self.ends, self.patience)
        return self.collect()

    def collect(self) -> Judgement:
        """The answer to the plan that was submitted; UNKNOWN if the lab died or hangs. To be called when one is due."""
        plan, self._plan = self._plan, None
        assert plan is not None
        answer = self._answer()
        recording = None
        if answer.log:
            recording = Recording(
                self._spec,
                self._base,
                BlockLog.parse(answer.log),
                answer.begin,
                answer.end,
                answer.orderly,
                answer.notes,
            )
        return Judgement(plan=plan, report=_report(answer, self._settings, recording), recording=recording)

    def _answer(self) -> Answer:
        if self._remote.told.poll():
            told = self._remote.receive()
            if told is not None:
                return msgspec.msgpack.decode(told, type=Answer)
        status = self._remote.init.poll()
        why = hung(self.patience) if status is None else _died(status)
        with interrupts_held():
            self._remote.close()
            self._remote = self._start()
        return Answer(trouble=why)

    def close(self) -> None:
        self._remote.close()


@contextlib.contextmanager
def open_labs(settings: Settings, count: int) -> Iterator[list[Lab]]:
    """So many labs for volumes of these settings, over one base. Raises Misuse, RequirementMissing."""
    mounts.enter_private_mounts()
    spec = VolumeSpec.of(settings)
    with contextlib.ExitStack() as stack:
        base = make_base(spec)
        devices, tracepoint = scratch_devices(stack, settings, spec, count)
        with interrupts_held():
            labs = [stack.enter_context(Lab(settings, base, device, tracepoint)) for device in devices]
        yield labs


def _died(status: int) -> Finding:
    return unjudged(f"the process that recorded and judged this plan died (status {status})")


def _report(answer: Answer, settings: Settings, recording: Recording | None) -> Report:
    report = Report(
        model=settings.model,
        seed=settings.seed,
        allowed=int(answer.allowed, 16),
        selected=answer.selected,
        complete=answer.complete,
        judged=answer.judged,
        unknown=answer.unknown,
        seconds=answer.seconds,
        writes=answer.writes,
        flushes=answer.flushes,
        promises=answer.promises,
        notes=list(answer.notes),
        recoveries=Recovered() if settings.depth > 1 else None,
    )
    tally = Tally()
    for shown in answer.shown:
        tally.take(Found(finding=shown.finding, state=shown.state.state(), lost=shown.lost, states=shown.states))
    for deep in answer.deep:
        report.add_recovery(deep, recording, tally)
    report.found = tally.found()
    if answer.trouble:
        nowhere = CrashState(epoch=0, cut=0, kept=0, promises=0, name="")
        report.found = [Found(finding=answer.trouble, state=nowhere, lost=0)]
        report.unknown += 1
    return report


class _Worker:
    """The lab's own side."""

    def __init__(
        self,
        settings: Settings,
        spec: VolumeSpec,
        base: Image,
        device: zram.ZramDevice | None,
        tracepoint: Tracepoint | None,
    ) -> None:
        self._settings = settings
        self._spec = spec
        self._base = base
        workspace = mounts.enter_private_mounts()
        self._bench = Bench(spec, base, workspace, device, tracepoint, fsck=settings.fsck)
        self._writer = Writer(workspace.volume)

    def serve(self, tasks: Connection, answers: Connection) -> int:
        """Until the parent goes."""
        while True:
            try:
                plan = msgspec.msgpack.decode(tasks.recv_bytes(), type=Plan)
            except EOFError:
                return 0
            answers.send_bytes(msgspec.msgpack.encode(self._told(plan)))

    def _told(self, plan: Plan) -> Answer:
        started = time.monotonic()
        try:
            recording = record_on(self._spec, self._base, self._settings, plan, self._writer)
            answer = self._judged(plan, recording)
        except HarnessError as error:
            answer = Answer(trouble=harness_fault(error))
        answer.seconds = time.monotonic() - started
        return answer

    def _judged(self, plan: Plan, recording: Recording) -> Answer:
        settings = self._settings
        space = recording.space(settings)
        selection = select(space, settings)
        states = walk(selection.states)
        checker = plan_check(plan, recording, settings.contract)
        self._bench.load(recording, space, states, checker)
        bench: Bench | DeepBench = self._bench
        recoveries: Recoveries | None = None
        if settings.depth > 1:
            recoveries = Recoveries(recording, space, settings, len(states))
            bench = DeepBench(self._bench, recoveries, states, checker)
        tally = Tally()
        answer = Answer(selected=len(states), allowed=f"{space.allowed:x}", complete=selection.complete)
        for index, state in enumerate(states):
            findings = bench.judge(index)
            answer.judged += 1
            answer.unknown += any(finding.verdict is Verdict.UNKNOWN for finding in findings)
            for finding in findings:
                tally.add(finding, state, len(lost_atoms(space, state)))
        answer.deep = bench.take_deep()
        if recoveries:
            recoveries.close()
        self._bench.unload()
        return _with_evidence(answer, recording, tally)


def _with_evidence(answer: Answer, recording: Recording, tally: Tally) -> Answer:
    answer.writes, answer.flushes = recording.count(Kind.WRITE), recording.count(Kind.FLUSH)
    answer.promises = len(recording.log.promises(recording.end))
    answer.notes = recording.notes
    answer.shown = [_shown(found) for found in tally.found()]
    if answer.shown or any(deep.findings for deep in answer.deep):
        answer.log = bytes(recording.log.view[: recording.log.size])
        answer.begin, answer.end, answer.orderly = recording.begin, recording.end, recording.orderly
    return answer


def _shown(found: Found) -> Shown:
    return Shown(found.finding, ChosenState.of(found.state), found.lost, found.states)

"""Live kills: a plan runs on a fresh volume, a fault strikes it, the volume is taken away, attached again and judged.

What the kernel did to the disk up to that instant is in the block log. So a live trial ends as a recording like any
other, of the plan as far as it was begun: its bundle is replayed, shrunk and shown as they are.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import NamedTuple

import msgspec

from harness.blocklog import BlockLog, LogWriter
from harness.blocklog.format import BEGIN, END
from harness.closing import Closing
from harness.engine.rules import Count, Rule
from harness.errors import HarnessError, WorkloadFailed
from harness.machine import mounts, syscalls
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.machine.syncing import sync_file_system
from harness.oracle.examine import Examiner, harness_fault
from harness.plan import operations as op
from harness.plan.interpreter import Writer
from harness.plan.plan import OUTCOME, START, Outcome, Plan, begun_before, end_mark, outcomes_of
from harness.settings import Settings
from harness.trial.plans import plan_check
from harness.trial.recording import Recording
from harness.verdict import Finding, FindingKind, Verdict, worst
from harness.volume import VolumeSpec
from harness.volume.disks import ServedDisk
from harness.volume.recorded import mount_device

_MARKS_ROOM = 64 << 10
_RESTORED_SECONDS = 10.0
_KILLED = 4  # EINTR: how an operation ended that its process did not live to see
_HOLD = Rule(action="hang", on="mark", text=START.decode())


class Strike(NamedTuple):
    """A fault as a live trial has it: rules of the engine, and what the harness itself does each time one of them acts.

    `rules` gets the writer's pid. They are armed when the plan's setup is durable. `on_hit` gets the disk; a `hang`
    rule holds the request until it returns.
    """

    name: str
    rules: Callable[[int], Sequence[Rule]]
    on_hit: Callable[[ServedDisk], None] | None = None


class Struck(NamedTuple):
    """What came of it. `plan` is the plan as far as it was begun, and `recording` the disk that it left."""

    plan: Plan
    recording: Recording
    counts: list[Count]
    """What each rule of the fault has met."""
    kernel: list[str]
    findings: list[Finding]

    @property
    def verdict(self) -> Verdict:
        """INTACT: the fault struck, and what had been promised by then is there."""
        return worst([finding.verdict for finding in self.findings]) if self.findings else Verdict.INTACT


class KillBench(Closing):
    """A process's tools for live trials: a writer and an examiner, which stay warm, over one base image."""

    def __init__(self, settings: Settings, base: Image) -> None:
        """To be made in a process that owns its mounts."""
        self._settings = settings
        self._spec = VolumeSpec.of(settings)
        self._base = base
        self._workspace = mounts.enter_private_mounts()
        self._writer = Writer(self._workspace.volume)
        self._examiner = Examiner(
            self._spec.file_system, self._spec.mount_options, self._workspace, run_fsck=settings.fsck
        )

    def close(self) -> None:
        self._writer.close()

    def trial(self, plan: Plan, strike: Strike) -> Struck:
        """Run the plan on a fresh volume, let the fault strike, take the volume away, attach it again, and judge it.

        Raises WorkloadFailed for a plan that cannot be run, EngineLost where the engine was not told to die.
        """
        with (
            ServedDisk(self._spec, self._base, log_max=self._settings.log_max, label="kill") as disk,
            KernelLog() as log,
        ):
            name = disk.attach().name
            mount_device(disk.attached, self._workspace.volume, self._spec)
            try:
                begun, outcomes = self._run(disk, plan, strike)
            finally:
                self._take_away(disk)
            kernel = log.lines(name)
            counts = disk.engine.counts()
            recording = self._recorded(disk, begun, outcomes)
            findings = missed(strike, counts) or self._judged(disk, begun, recording)
        return Struck(begun, recording, counts, kernel, findings)

    def _run(self, disk: ServedDisk, plan: Plan, strike: Strike) -> tuple[Plan, list[Outcome]]:
        """The plan as far as it was begun, and how its operations ended."""
        engine, writer, seconds = disk.engine, self._writer, self._settings.timeout
        engine.mark(BEGIN)
        engine.arm([_HOLD])
        writer.begin(plan, f"{engine.mount_dir}/mark", may_be_lost=True)
        if not engine.await_hit(seconds):
            self._hung(disk)
        engine.arm(strike.rules(writer.pid))
        try:
            if strike.on_hit:
                self._attend(disk, strike.on_hit, time.monotonic() + seconds)
            if not wait([writer.fileno()], seconds):
                self._hung(disk)
            outcomes = writer.finish(seconds)
            return begun_of(plan, len(outcomes)), outcomes
        except WorkloadFailed:
            if writer.killed and engine.alive:
                return self._survived(disk, plan)
            raise

    def _attend(self, disk: ServedDisk, on_hit: Callable[[ServedDisk], None], deadline: float) -> None:
        """Until the writer has answered: each time a rule acts, do the harness's own part, and let the request go."""
        engine, answered = disk.engine, self._writer.fileno()
        while answered not in wait([engine.news, answered], max(0.0, deadline - time.monotonic())):
            if not engine.await_hit(0) or not engine.alive:
                return
            on_hit(disk)
            engine.heal()

    def _hung(self, disk: ServedDisk) -> None:
        """What waits for an answer of the device survives even SIGKILL: so the device first, the writer second."""
        disk.restore()
        disk.engine.heal()
        self._writer.finish(_RESTORED_SECONDS)
        cause = f"the plan did not end within {self._settings.timeout:g} s; it did when the device was given back"
        raise WorkloadFailed(cause, "give it longer with --timeout, or look at what the fault holds")

    def _survived(self, disk: ServedDisk, plan: Plan) -> tuple[Plan, list[Outcome]]:
        """The writer was killed and its volume is well: what it had done is made durable, and must then be there."""
        log = disk.log()
        outcomes = outcomes_of(log)
        begun = begun_before(log, len(log.events))
        if begun > len(outcomes):
            n = len(outcomes)
            outcomes.append(Outcome(n=n, op=str(plan.all[n]), errno=_KILLED))
        sync_file_system(self._workspace.volume)
        plan = begun_of(plan, len(outcomes))
        outcomes.append(Outcome(n=len(outcomes), op=str(op.Sync())))
        return Plan(setup=plan.setup, operations=(*plan.operations, op.Sync())), outcomes

    def _take_away(self, disk: ServedDisk) -> None:
        """Unmount, whatever the device says to it, and let it go."""
        with contextlib.suppress(OSError):
            syscalls.umount(self._workspace.volume)
        disk.detach()

    def _recorded(self, disk: ServedDisk, plan: Plan, outcomes: Sequence[Outcome]) -> Recording:
        log = _with_outcomes(disk.log(), plan, outcomes)
        begin = log.find(START)
        if begin is None:
            raise WorkloadFailed("the plan's setup was not finished", "run it again")
        return Recording(self._spec, self._base, log, begin, len(log.events), orderly=False)

    def _judged(self, disk: ServedDisk, plan: Plan, recording: Recording) -> list[Finding]:
        """Attach it again: what the engine had answered is the disk. Then the kernel recovers it."""
        try:
            device = disk.attach()
            checker = plan_check(plan, recording, self._settings.contract)
            made = recording.log.promises()
            return self._examiner.examine(device.path, device.name, made, checker)
        except HarnessError as error:
            return [harness_fault(error)]


def begun_of(plan: Plan, count: int) -> Plan:
    """The first `count` operations of a plan, its setup whole among them."""
    return Plan(setup=plan.setup, operations=plan.all[len(plan.setup) : count])


def missed(strike: Strike, counts: Sequence[Count]) -> list[Finding]:
    """A fault that never struck proves nothing: UNKNOWN, and how near it came."""
    if any(count.hit for count in counts) or not counts:
        return []
    seen = max(count.seen for count in counts)
    summary = f"the fault {strike.name} never struck: {seen} requests of its kind came"
    return [Finding(kind=FindingKind.HARNESS, verdict=Verdict.UNKNOWN, summary=summary)]


def _with_outcomes(log: BlockLog, plan: Plan, outcomes: Sequence[Outcome]) -> BlockLog:
    """The log, and behind it how those operations ended whose end it could not be told any more.

    They are no promises, whatever they were told: but for the sync with which the harness ended the plan.
    """
    writer = LogWriter.behind(log, _MARKS_ROOM)
    for outcome in outcomes[len(outcomes_of(log)) :]:
        ours = isinstance(plan.all[outcome.n], op.Sync) and outcome.ok
        writer.mark(end_mark(plan.all[outcome.n], outcome) if ours else OUTCOME + msgspec.json.encode(outcome))
    writer.mark(END)
    return writer.parsed()

"""Live kills: a plan runs on a fresh volume, a fault strikes it, the volume is taken away, attached again and judged.

What the kernel did to the disk up to that instant is in the block log. So a live trial ends as a recording like any
other, of the plan as far as it was begun: its bundle is replayed, shrunk and shown as they are.
"""

import contextlib
import errno
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import NamedTuple

import msgspec

from harness.blocklog import BlockLog, LogWriter
from harness.blocklog.format import BEGIN, END, JSON
from harness.closing import Closing
from harness.errors import HarnessError, WorkloadFailed
from harness.faults import At, Back, Fault, SingleFault, Target, Watchdog, compose, missed, restore
from harness.machine import mounts, syscalls
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.machine.syncing import sync_file_system
from harness.oracle.examine import Examiner, harness_fault
from harness.plan import operations as op
from harness.plan.interpreter import Writer
from harness.plan.operations import persists
from harness.plan.plan import OUTCOME, START, Outcome, Plan, begun_before, end_mark, outcomes_of
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.plans import plan_check
from harness.trial.recording import Recording, whole
from harness.verdict import Finding, Verdict, worst
from harness.volume import VolumeSpec
from harness.volume.disks import ServedDisk
from harness.volume.recorded import mount_device

_MARKS_ROOM = 64 << 10
_RESTORED_SECONDS = 10.0
_LOST = (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EUCLEAN)
_LABEL = "live"
_KILLED = errno.EINTR
"""How an operation ended that its process did not live to see."""


class Struck(NamedTuple):
    """What came of it. `plan` is the plan as far as it was begun, and `recording` the disk that it left."""

    plan: Plan
    recording: Recording
    fault: Fault
    hits: int
    kernel: list[str]
    findings: list[Finding]
    notes: list[str]

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
            self._spec.file_system,
            self._spec.mount_options,
            self._workspace,
            run_fsck=settings.fsck,
            may_have_failed=True,
        )

    def close(self) -> None:
        self._writer.close()

    def trial(self, plan: Plan, fault: Fault) -> Struck:
        """Run the plan on a fresh volume, let the fault strike, take the volume away, attach it again, and judge it.

        Requests are counted from the end of the plan's setup. Raises RequirementMissing and Misuse for a fault that
        this volume cannot have, WorkloadFailed for a plan that cannot be run, EngineLost.
        """
        fault = from_start(fault)
        disk = ServedDisk(self._spec, self._base, log_max=self._settings.log_max, label=_LABEL)
        with disk, KernelLog() as log:
            name = disk.attach().name
            mount_device(disk.attached, self._workspace.volume, self._spec)
            target = Target(disk=disk, mount=self._workspace.volume, writer=self._writer.ready())
            notes: list[str] = []
            try:
                begun, outcomes = self._run(target, plan, fault, notes)
            except BaseException:  # Ctrl-C too: a writer that goes on, or hangs, would keep the volume busy
                restore(target)
                self._writer.close()
                raise
            finally:
                self._take_away(target, fault)
            kernel = log.lines(name)
            recording = self._recorded(disk, begun, outcomes, notes)
            never = missed(fault, target)
            findings = [never] if never else self._judged(disk, begun, recording)
        return Struck(begun, recording, fault, fault.hits(target), kernel, findings, notes)

    def _run(self, target: Target, plan: Plan, fault: Fault, notes: list[str]) -> tuple[Plan, list[Outcome]]:
        """The plan as far as it was begun, and how its operations ended."""
        disk, writer, seconds = target.disk, self._writer, self._settings.timeout
        assert isinstance(disk, ServedDisk)
        disk.engine.mark(BEGIN)
        fault.inject(target)
        writer.begin(plan, f"{disk.engine.mount_dir}/mark", may_be_lost=True)
        if not wait([writer.fileno()], seconds):
            notes += [f"the plan waited for the device for {seconds:g} s, then it was given back", *restore(target)]
        try:
            outcomes = writer.finish(_RESTORED_SECONDS)
            return begun_of(plan, len(outcomes)), outcomes
        except WorkloadFailed:
            if not writer.killed or not disk.engine.alive:
                raise
        return self._survived(target, plan, disk.log())

    def _survived(self, target: Target, plan: Plan, log: BlockLog) -> tuple[Plan, list[Outcome]]:
        """The writer was killed, its volume lives: where what it had done can be made durable, it must be there."""
        outcomes = outcomes_of(log)
        if begun_before(log, len(log.events)) > len(outcomes):
            n = len(outcomes)
            outcomes.append(Outcome(n=n, op=str(plan.all[n]), errno=_KILLED))
        plan = begun_of(plan, len(outcomes))
        try:
            with Watchdog(self._settings.timeout, target):
                sync_file_system(target.mount)
        except OSError:  # another fault was there as well
            return plan, outcomes
        outcomes.append(Outcome(n=len(outcomes), op=str(op.Sync())))
        return Plan(setup=plan.setup, operations=(*plan.operations, op.Sync())), outcomes

    def _take_away(self, target: Target, fault: Fault) -> None:
        """Unmount, whatever the device says to it, and let it go. A device that was taken away stays so."""
        try:
            _give_back(target, fault)
            with contextlib.suppress(OSError):
                syscalls.umount(self._workspace.volume)
        finally:
            target.disk.detach()
            if target.injection:
                fault.heal(target)

    def _recorded(self, disk: ServedDisk, plan: Plan, outcomes: Sequence[Outcome], notes: Sequence[str]) -> Recording:
        log = _with_outcomes(disk.log(), plan, outcomes)
        begin = log.find(START)
        if begin is None:
            raise WorkloadFailed("the plan's setup was not finished", "run it again")
        return Recording(self._spec, self._base, log, begin, len(log.events), orderly=False, notes=tuple(notes))

    def _judged(self, disk: ServedDisk, plan: Plan, recording: Recording) -> list[Finding]:
        """Attach it again: what the engine had answered is the disk. Then the kernel recovers it."""
        try:
            device = disk.attach()
            checker = plan_check(plan, recording, self._settings.contract)
            made = recording.log.promises()[: promised(plan, recording.log)]
            return self._examiner.examine(device.path, device.name, made, checker)
        except HarnessError as error:
            return [harness_fault(error)]


def packed(struck: Struck, settings: Settings) -> bytes:
    """The bundle of what was found: the disk as the fault left it."""
    state = whole(struck.recording.space(settings), struck.recording)
    state = state._replace(promises=promised(struck.plan, struck.recording.log))
    return bundles.pack(struck.recording, settings, state=state, finding=struck.findings[0], plan=struck.plan)


def promised(plan: Plan, log: BlockLog) -> int:
    """How many promises count: those before the first fsync (or its like) that failed.

    A later one that succeeds says nothing of what was written before: the error was told once, the pages are clean, and
    the file system may have given up (docs/fsync-failure.md). btrfs answers 0 then even on a device that is gone.
    """
    count = 0
    for mark in log.marks:
        if mark.text.startswith(JSON):
            count += 1
        elif mark.text.startswith(OUTCOME):
            outcome = msgspec.json.decode(mark.text[len(OUTCOME) :], type=Outcome)
            if outcome.errno in _LOST and persists(plan.all[outcome.n]):
                break
    return count


def from_start(fault: Fault) -> Fault:
    """The same fault, its requests counted from the mark on that ends a plan's setup; `once` is that instant."""
    parts = [msgspec.structs.replace(part, at=_from_start(part.at)) for part in fault.parts]
    return parts[0] if isinstance(fault, SingleFault) else compose(*parts)


def _from_start(at: At) -> At:
    start = At.mark(START.decode())
    if at.on == "once":
        return start
    return msgspec.structs.replace(at, since=start) if at.request and at.since is None else at


def _give_back(target: Target, fault: Fault) -> None:
    """Heal what leaves a volume that works: one that is full, or hangs, cannot be unmounted in order."""
    if target.injection and fault.back is Back.VOLUME:
        fault.heal(target)


def begun_of(plan: Plan, count: int) -> Plan:
    """The first `count` operations of a plan, its setup whole among them."""
    return Plan(setup=plan.setup, operations=plan.all[len(plan.setup) : count])


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

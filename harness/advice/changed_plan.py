"""A warm process that runs a plan with calls added and calls left out, and judges what a power cut leaves of it.

Every operation keeps its number, and every promise of the plan its place: an added call promises nothing, and where a
call is left out its promise is made all the same. So the question that is put to a disk stays the one that was put
before the change; without that, leaving out an fsync would only lower what is asked.
"""

import errno
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from harness.advice.plan_changes import Edits
from harness.blocklog.format import JSON
from harness.closing import Closing
from harness.errors import BadLog, HarnessError, WorkloadFailed
from harness.machine import mounts, zram
from harness.machine.image import Image
from harness.machine.remote import Remote
from harness.machine.sandbox import interrupts_held
from harness.machine.syncing import sync_file_system
from harness.machine.tracing import Tracepoint
from harness.oracle.checks import Checker
from harness.oracle.examine import harness_fault
from harness.plan.calls import FOLDER, Volume, do
from harness.plan.operations import Operation, paths_of
from harness.plan.plan import START, Outcome, Plan, begin_mark, check_paths, end_mark
from harness.settings import Settings
from harness.trial.bench import Bench
from harness.trial.judging import PATIENCE_SECONDS, select
from harness.trial.litmus import Neighbour
from harness.trial.recorder import expect_room, recording_of
from harness.trial.recording import Recording, walk, whole
from harness.trial.workers import hung
from harness.verdict import Finding, Verdict, unjudged
from harness.volume import RecordedVolume, VolumeSpec

_UMASK = 0o022


class Question(msgspec.Struct, kw_only=True):
    """A plan, and what is asked of every disk that it leaves."""

    plan: Plan
    settings: Settings
    checker: Callable[[mounts.Workspace, Recording], Checker | None]
    convicts: Callable[[Finding], bool] = lambda finding: finding.verdict is Verdict.CORRUPTED
    """Whether a finding is the failure that is asked about; one that is not leaves its state unjudged."""
    all_succeed: bool = False
    """Whether an operation of the plan that fails makes the run worthless."""


class Task(msgspec.Struct, array_like=True):
    """One run. `enough`: no more states are judged once so many have failed; 0: all are."""

    edits: Edits
    neighbour: bool = False
    enough: int = 0


class Told(msgspec.Struct, kw_only=True):
    """What one run came to. `trouble`: why it, or a state of it, could not be judged."""

    states: int = 0
    failing: int = 0
    unknown: int = 0
    complete: bool = False
    trouble: str = ""
    finding: Finding | None = None
    """The first that convicted."""


class ChangedPlans(Closing):
    """The parent's handle: one run at a time. A process that dies or hangs is replaced; its run says so."""

    def __init__(
        self, question: Question, base: Image, device: zram.ZramDevice | None, tracepoint: Tracepoint | None
    ) -> None:
        def serve(tasks: Connection, answers: Connection) -> int:
            return _Worker(question, base, device, tracepoint).serve(tasks, answers)

        self._serve = serve
        settings = question.settings
        self._patience = 3 * settings.timeout + PATIENCE_SECONDS + 0.5 * settings.max_states
        self._sent_at = 0.0
        self._remote = self._start()

    def _start(self) -> Remote:
        return Remote(self._serve, "harness-advise")

    def submit(self, task: Task) -> None:
        """Begin with a run."""
        self._sent_at = time.monotonic()
        self._remote.send(msgspec.msgpack.encode(task))

    @property
    def ends(self) -> list[Connection | int]:
        """What to wait for: one of them is ready when there is an answer, or when the process is dead."""
        return [self._remote.told, self._remote.died]

    @property
    def overdue(self) -> bool:
        """It has had its time, and more: something hangs."""
        return time.monotonic() - self._sent_at > self._patience

    def collect(self) -> Told:
        """What the run came to. To be called when one of `ends` is ready, or when it is overdue."""
        if self._remote.told.poll():
            told = self._remote.receive()
            if told is not None:
                return msgspec.msgpack.decode(told, type=Told)
        status = self._remote.init.poll()
        why = hung(self._patience) if status is None else unjudged(f"the process that ran the plan died ({status})")
        with interrupts_held():
            self._remote.close()
            self._remote = self._start()
        return Told(trouble=why.summary)

    def close(self) -> None:
        self._remote.close()


class _Worker:
    """The process's own side."""

    def __init__(
        self, question: Question, base: Image, device: zram.ZramDevice | None, tracepoint: Tracepoint | None
    ) -> None:
        self._question = question
        self._settings = question.settings
        self._spec = VolumeSpec.of(self._settings)
        self._base = base
        self._workspace = mounts.enter_private_mounts()
        fsck = self._settings.fsck
        self._bench = Bench(self._spec, base, self._workspace, device, tracepoint, fsck=fsck)

    def serve(self, tasks: Connection, answers: Connection) -> int:
        """Until the parent goes."""
        while True:
            try:
                task = msgspec.msgpack.decode(tasks.recv_bytes(), type=Task)
            except EOFError:
                return 0
            answers.send_bytes(msgspec.msgpack.encode(self._told(task)))

    def _told(self, task: Task) -> Told:
        try:
            return self._judged(self._recorded(task), task.enough)
        except HarnessError as error:
            return Told(trouble=harness_fault(error).summary)
        except OSError as error:  # the volume is full, or its engine is gone
            return Told(trouble=f"the plan could not be recorded: {error}")

    def _recorded(self, task: Task) -> Recording:
        plan, settings = self._question.plan, self._settings
        with RecordedVolume(self._spec, self._base, log_max=settings.log_max) as volume:
            with _Run(volume, plan, task) as run:
                outcomes = run.all()
            volume.linger(settings.linger)
            volume.finish()
        if volume.error:
            raise volume.error
        expect_room("plan", volume, "give it a larger one with --size, or shorten the plan")
        failed = next((outcome for outcome in outcomes if not outcome.ok), None)
        if failed and self._question.all_succeed:
            why = f"{plan.all[failed.n]}: {os.strerror(failed.errno)}"
            raise WorkloadFailed(f"an operation of the pattern failed: {why}", "correct the test's operations")
        recording = recording_of(volume, self._spec, self._base)
        begin = recording.log.find(START)
        if begin is None:
            raise BadLog("the recording has no mark where the plan's setup is done", "run it again")
        return recording._replace(begin=begin)

    def _judged(self, recording: Recording, enough: int) -> Told:
        space = recording.space(self._settings)
        checker = self._question.checker(self._workspace, recording)
        selection = select(space, self._settings)
        states = walk(selection.states)
        self._bench.load(recording, space, [whole(space, recording)], checker)
        try:
            for finding in self._bench.judge(0):
                return Told(trouble=f"with no power cut at all the check says no: {finding.summary}")
            self._bench.load(recording, space, states, checker)
            told = Told(complete=selection.complete)
            first = -1
            for index in range(len(states)):
                self._note(told, self._bench.judge(index))
                first = index if first < 0 and told.failing else first
                if enough and told.failing >= enough:
                    told.complete = False
                    break
            if told.failing:
                self._bench.load(recording, space, [states[first]], checker)
                if not any(map(self._question.convicts, self._bench.judge(0))):
                    told.trouble = "a state that failed does not fail again on a fresh disk"
        finally:
            self._bench.unload()
        return told

    def _note(self, told: Told, findings: list[Finding]) -> None:
        convicting = [finding for finding in findings if self._question.convicts(finding)]
        other = next((finding for finding in findings if finding not in convicting), None)
        told.states += 1
        told.failing += bool(convicting)
        told.unknown += other is not None and not convicting
        told.finding = told.finding or next(iter(convicting), None)
        if other and not convicting and not told.trouble:
            told.trouble = f"{other.kind}: {other.summary}"


class _Run:
    """A plan with its changes, on a volume that is being recorded. A context manager: the neighbour holds a file."""

    def __init__(self, volume: RecordedVolume, plan: Plan, task: Task) -> None:
        self._volume = volume
        self._plan = plan
        self._edits = task.edits
        self._wanted = task.neighbour
        self._neighbour: Neighbour | None = None

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self._neighbour:
            self._neighbour.close()

    def all(self) -> list[Outcome]:
        """Every operation's outcome. Raises WorkloadFailed where an added call fails, OSError, HarnessError."""
        check_paths(self._plan)
        outcomes = []
        root_fd = os.open(self._volume.path, FOLDER)
        umask = os.umask(_UMASK)
        try:
            for n, operation in enumerate(self._plan.all):
                if n == len(self._plan.setup):
                    self._start()
                self._added(n, root_fd)
                outcomes.append(self._operation(n, operation, root_fd))
            self._added(len(self._plan.all), root_fd)
        finally:
            os.umask(umask)
            os.close(root_fd)
        return outcomes

    def _start(self) -> None:
        sync_file_system(self._volume.path)
        self._volume.mark(START)
        if self._wanted:
            self._neighbour = Neighbour(self._volume.path, self._volume.spec.fs)

    def _added(self, before: int, root_fd: int) -> None:
        for n, call in self._edits.added:
            if n == before:
                try:
                    do(call, Volume(self._volume.path, root_fd, n))
                except OSError as error:
                    raise WorkloadFailed(f"the added {call} fails: {error.strerror}") from error
                self._commit()

    def _operation(self, n: int, operation: Operation, root_fd: int) -> Outcome:
        self._volume.mark(begin_mark(n))
        outcome = Outcome(n=n, op=str(operation))
        if n not in self._edits.removed:
            outcome = self._done(outcome, operation, root_fd)
        elif not all(os.path.lexists(os.path.join(self._volume.path, path)) for path in paths_of(operation)):
            outcome = msgspec.structs.replace(outcome, errno=errno.ENOENT)
        mark = end_mark(operation, outcome)
        # As harness.trial.litmus does: before a plain mark, which waits for the engine while data are on their way;
        # behind a promise, which must not rest on what the neighbour made durable.
        promise = mark.startswith(JSON)
        if not promise:
            self._commit()
        self._volume.mark(mark)
        if promise:
            self._commit()
        return outcome

    def _done(self, outcome: Outcome, operation: Operation, root_fd: int) -> Outcome:
        try:
            value, inode, size = do(operation, Volume(self._volume.path, root_fd, outcome.n))
            return msgspec.structs.replace(outcome, value=value, inode=inode, size=size)
        except OSError as error:
            return msgspec.structs.replace(outcome, errno=error.errno or errno.EIO)

    def _commit(self) -> None:
        if self._neighbour:
            self._neighbour.make_commit()

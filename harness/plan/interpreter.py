"""Runs plans on a mounted volume, in this process or one after the other in a child that stays."""

import contextlib
import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

import msgspec

from harness.closing import Closing
from harness.engine.messages import Frames
from harness.errors import HarnessError, InternalError, WorkloadFailed
from harness.machine import syscalls
from harness.machine.process import describe_status
from harness.machine.remote import Remote
from harness.machine.syncing import sync_file_system
from harness.plan.calls import FOLDER, Volume, do
from harness.plan.operations import Operation
from harness.plan.plan import START, Outcome, Plan, begin_mark, check_paths, end_mark

NAME = "harness-writer"
"""What ps calls the child."""

R = TypeVar("R")

_UMASK = 0o022
_DEATH_SECONDS = 10.0


def run_plan(
    plan: Plan, root: str, mark: Callable[[bytes], None], lost: Callable[[], bool] = lambda: False
) -> list[Outcome]:
    """Run it on the volume mounted at `root` and say how each operation ended, by marks in the log as well.

    Where `lost` is true after a mark, nobody took that mark any more: no further operation is begun.

    Raises Misuse for paths that leave the volume, WorkloadFailed when the setup cannot be made durable, and whatever
    `mark` raises. That an operation fails is an outcome.
    """
    check_paths(plan)
    outcomes: list[Outcome] = []
    root_fd = os.open(root, FOLDER)
    umask = os.umask(_UMASK)
    try:
        for n, operation in enumerate(plan.all):
            if n == len(plan.setup):
                _start(root, mark)
            mark(begin_mark(n))
            if lost():
                return outcomes
            outcomes.append(_run(operation, Volume(root, root_fd, n)))
            mark(end_mark(operation, outcomes[-1]))
        if not plan.operations:
            _start(root, mark)
    finally:
        os.umask(umask)
        os.close(root_fd)
    return outcomes


def _start(root: str, mark: Callable[[bytes], None]) -> None:
    try:
        sync_file_system(root)
    except OSError as error:
        cause = f"what the plan's setup did cannot be made durable: {error}"
        raise WorkloadFailed(cause, "look at the kernel log, and whether the volume is full") from error
    mark(START)


def _run(operation: Operation, volume: Volume) -> Outcome:
    text = str(operation)
    try:
        value, inode, size = do(operation, volume)
        return Outcome(n=volume.n, op=text, value=value, inode=inode, size=size)
    except OSError as error:
        return Outcome(n=volume.n, op=text, errno=error.errno or errno.EIO)


class _Task(msgspec.Struct, array_like=True):
    plan: Plan
    mark_path: str
    may_be_lost: bool = False


class _Answer(msgspec.Struct, array_like=True):
    """What the child says at the end of a plan; `error` tells why it was not run to its end."""

    outcomes: list[Outcome]
    error: str = ""


class Writer(Closing):
    """A child process that runs plan after plan on the volume mounted at `root`: a plan costs no fork.

    It shares the mounts of the process that makes it, holds nothing of the volume between plans, and lives no longer
    than the calling *thread*. Make it before a recording begins: like any fork it keeps the memory that is mapped then.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.ended: int | None = None
        """How the last child ended that died in the middle of a plan, as Init.wait tells it."""
        self._child: Remote | None = self._start()

    def _start(self) -> Remote:
        return Remote(lambda tasks, answers: _serve(self._root, tasks, answers), NAME, mounts=False)

    @property
    def pid(self) -> int:
        """Of the child; 0 when there is none, until the next run."""
        return self._child.init.pid if self._child else 0

    def run(self, plan: Plan, mark_path: str, timeout: float) -> list[Outcome]:
        """run_plan in the child, its marks written to the engine's file `mark_path`, for at most `timeout` seconds.

        Raises Misuse for paths that leave the volume; WorkloadFailed when it hung (and was killed), died or could not
        run the plan to its end. The next call then starts a new child.
        """
        self.begin(plan, mark_path)
        return self.finish(timeout)

    def begin(self, plan: Plan, mark_path: str, *, may_be_lost: bool = False) -> None:
        """Let the child begin with a plan. `may_be_lost`: a volume that is lost ends the plan, and is no failure.

        Raises Misuse for paths that leave the volume, WorkloadFailed when the child is dead.
        """
        check_paths(plan)
        self.ready()
        self.ended = None
        self._asking(lambda child: child.send(msgspec.msgpack.encode(_Task(plan, mark_path, may_be_lost))))

    def ready(self) -> int:
        """The child's pid; a new child, where the last one is dead."""
        if self._child is None or self._child.init.poll() is not None:
            self.close()
            self._child = self._start()
        return self._child.init.pid

    def finish(self, timeout: float) -> list[Outcome]:
        """How the operations of the plan that was begun ended: those that were begun. Raises as `run` does."""
        answer = self._asking(lambda child: _answer_of(child, timeout))
        if answer.error:
            self.close()
            raise WorkloadFailed(f"the plan could not be run to its end: {answer.error}", "run it again")
        return answer.outcomes

    def _asking(self, ask: Callable[[Remote], R]) -> R:
        assert self._child is not None
        try:
            return ask(self._child)
        except OSError as error:  # EPIPE, ECONNRESET
            died = self._death(self._child)
            self.close()
            raise died from error
        except BaseException:  # an interrupt too: the answer that is still to come belongs to no later plan
            self.close()
            raise

    def _death(self, child: Remote) -> WorkloadFailed:
        self.ended = child.init.wait(_DEATH_SECONDS)
        how = "closed its pipe" if self.ended is None else describe_status(self.ended)
        return WorkloadFailed(f"the process that ran the plan {how}", "look at the kernel log, and run it again")

    @property
    def killed(self) -> bool:
        """The child is dead, by a signal, in the middle of a plan."""
        return self.ended is not None and self.ended < 0

    def fileno(self) -> int:
        """Readable when the child has answered. -1: there is none."""
        return self._child.told.fileno() if self._child else -1

    def close(self) -> None:
        """Kill the child, whatever it is doing. Raises InternalError when it hangs inside the kernel for good."""
        child, self._child = self._child, None
        if child:
            child.close()


def _answer_of(child: Remote, timeout: float) -> _Answer:
    if not child.told.poll(timeout):
        raise WorkloadFailed(f"the plan did not end within {timeout:g} s", "give it longer with --timeout")
    answer = child.receive()
    if answer is None:
        raise OSError(errno.EPIPE, "it died")
    return msgspec.msgpack.decode(answer, type=_Answer)


def _serve(root: str, tasks: Connection, answers: Connection) -> int:
    """The child's life: plan after plan, until the parent closes its end."""
    _settle({tasks.fileno(), answers.fileno()})
    with contextlib.suppress(EOFError):
        while True:
            task = msgspec.msgpack.decode(tasks.recv_bytes(), type=_Task)
            answers.send_bytes(msgspec.msgpack.encode(_answer(task, root)))
    return 0


def _answer(task: _Task, root: str) -> _Answer:
    try:
        return _Answer(_run_marked(task, root))
    except HarnessError as error:
        return _Answer([], error.cause)
    except OSError as error:
        return _Answer([], f"the engine refused a mark, or the volume is gone: {error}")
    except Exception:
        return _Answer([], traceback.format_exc())


def _run_marked(task: _Task, root: str) -> list[Outcome]:
    fd = os.open(task.mark_path, os.O_WRONLY | os.O_CLOEXEC)
    lost = False

    def mark(text: bytes) -> None:
        nonlocal lost
        message = Frames.pack(text)
        try:
            if os.pwrite(fd, message, 0) != len(message):
                raise InternalError("the engine took half a mark", "run it again")
        except OSError:
            if not task.may_be_lost:
                raise
            lost = True

    try:
        return run_plan(task.plan, root, mark, lambda: lost)
    finally:
        with contextlib.suppress(OSError):  # of a dead engine
            os.close(fd)


def _settle(keep: set[int]) -> None:
    """Let go of everything that the parent had open: a descriptor of ours on its volume or engine would hold it."""
    os.chdir("/")
    syscalls.close_all_except(keep)
    for _ in range(3):  # the lowest free ones: 0, 1, 2. What libc may print must not land in a file of ours.
        os.open(os.devnull, os.O_RDWR)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    sys.settrace(None)
    sys.setprofile(None)
    gc.freeze()

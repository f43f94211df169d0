"""Record a workload command while each of its calls on the volume is seen, with syncs added to it or left out.

The program itself is not changed. An added fsync is made by the harness, on the same file of the same mounted volume,
while the program waits; one that is left out returns 0 to the program and is not made (harness.machine.notify).
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from harness.advice.call_sites import (
    AFTER,
    AFTER_RUN,
    BEFORE,
    DIRECTORY,
    FDATASYNC,
    FSYNC,
    REMOVE,
    History,
    Rule,
    Shape,
    Unsynced,
    targets,
)
from harness.errors import Missing, RequirementMissing, TrialUnknown
from harness.machine import notify
from harness.machine.calls_seen import Call, CallReader
from harness.machine.image import Image
from harness.machine.notify import Answer, Notification, Supervisor
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recorder import Ran, prepare, ran_here, record_on, told_by_init
from harness.trial.recording import Recording
from harness.volume import VolumeSpec

_NOTHING_DONE = 0


class Prepared(NamedTuple):
    """A volume with the setup command's work on it, for any number of recordings."""

    spec: VolumeSpec
    base: Image


class Seen(msgspec.Struct):
    """What the init of an interposed command tells: how it ended, and its calls."""

    ran: Ran | None = None
    calls: list[Call] = []
    notes: list[str] = []
    trouble: str = ""
    refused: str = ""
    """Why the program could not be watched at all."""


def record_interposed(
    settings: Settings, commands: Commands, changes: Iterable[Rule] = (), *, prepared: Prepared | None = None
) -> tuple[Recording, tuple[Call, ...]]:
    """As recorder.record, with `changes` made to the program's syncs; and its calls on the volume, in order.

    `prepared`: a volume to start from, instead of a new one with the setup's work on it. Calls that were added or left
    out are among the calls, and say so. Raises as record does; RequirementMissing where calls cannot be seen here;
    TrialUnknown where a part of the program cannot be seen (a program of another architecture).
    """
    notify.machine()
    spec, base = prepared or prepare(settings, commands.setup)
    rules = tuple(changes)
    seen = Seen()

    def runner(command: str, timeout: float, ours: dict[str, str]) -> Ran:
        nonlocal seen
        told = told_by_init(lambda: msgspec.msgpack.encode(_life(command, timeout, ours, rules)), timeout)
        seen = msgspec.msgpack.decode(told, type=Seen)
        return _ran(seen)

    recording = record_on(spec, base, settings, commands.workload, runner)
    if seen.trouble:
        remedy = "run programs that are built for this machine, as root, and no security module that hides them"
        raise TrialUnknown(f"the calls of the workload could not be followed: {seen.trouble}", remedy)
    return recording._replace(notes=(*recording.notes, *seen.notes)), tuple(seen.calls)


def _ran(seen: Seen) -> Ran:
    if seen.refused or seen.ran is None:
        why = f"a program's calls are seen by seccomp's user notification: {seen.refused}"
        remedy = "run it on Linux 5.5 or newer, in no sandbox that supervises system calls itself"
        raise RequirementMissing([Missing("seccomp", why, remedy)])
    return seen.ran


def _life(command: str, timeout: float, ours: dict[str, str], rules: tuple[Rule, ...]) -> Seen:
    """The init's whole work."""
    seen = Seen()
    interposer = _Interposer(ours["HARNESS_VOLUME"], ours["HARNESS_PROMISE"], rules)
    with Supervisor(interposer.handle) as supervisor:
        interposer.waits = supervisor.waits
        try:
            seen.ran = ran_here(command, timeout, ours, supervisor.spawn)
        except OSError as error:
            if supervisor.watching:
                raise
            seen.refused = error.strerror or str(error)
    seen.calls, seen.notes = interposer.calls, sorted(interposer.notes)
    seen.trouble = interposer.trouble or supervisor.trouble
    return seen


class _Pending(NamedTuple):
    """A sync that follows a call, once that call has returned."""

    cause: Call
    rule: Rule
    path: str
    thread: int
    number: int


class _Interposer:
    """Follows the calls of one workload and carries out the rules."""

    def __init__(self, volume: str, promise: str, rules: tuple[Rule, ...]) -> None:
        self.calls: list[Call] = []
        self.notes: set[str] = set()
        self.trouble = ""
        self.waits: Callable[[Notification], bool] = lambda _: True
        self._volume = volume
        self._reader = CallReader(volume, promise)
        self._rules = rules
        self._unsynced = Unsynced()
        self._history = History()
        self._pending: list[_Pending] = []

    def handle(self, seen: Notification) -> Answer:
        """Called before each call; what it returns is the call's result, None lets it be made."""
        if seen.name in ("exit", "exit_group"):
            self._settle(seen, None)
            self._reader.forget(seen)
            return None
        if seen.name in (notify.FOREIGN, "io_uring_setup"):
            self._note_unseen(seen.name)
            return None
        call = self._read(seen)
        return None if call is None else self._attend(seen, call)

    def _note_unseen(self, name: str) -> None:
        if name == notify.FOREIGN:
            self.trouble = "it runs a program of another architecture, whose calls have other numbers"
        else:
            self.notes.add("the program uses io_uring: what it does through it was not seen, and not changed")

    def _read(self, seen: Notification) -> Call | None:
        try:
            call = self._reader.read(seen)
        except PermissionError as error:  # a security module that forbids even root to look (Yama, ptrace_scope 3)
            if self.waits(seen):
                self.trouble = f"{seen.name} cannot be looked into: {error}"
            return None
        except (OSError, IndexError):  # it has just been killed, or its call fails by itself
            return None
        return call if call and self.waits(seen) else None

    def _attend(self, seen: Notification, call: Call) -> Answer:
        shape, previous = Shape.of(call), self._history.previous(call)
        self._settle(seen, call)
        mine = [rule for rule in self._rules if rule.shape == shape and rule.previous in (None, previous)]
        for rule in mine:
            if rule.when == BEFORE and rule.action != REMOVE:
                for path in targets(rule, call, self._unsynced):
                    self._sync(call, rule, path)
        left_out = any(rule.action == REMOVE for rule in mine) and call.syncs
        call = self._keep(call, "left out" if left_out else "")
        self._history.note(call)
        self._unsynced.apply(call)
        for rule in mine:
            if rule.when in (AFTER, AFTER_RUN):
                for path in targets(rule, call, self._unsynced):
                    self._await(_Pending(call, rule, path, seen.thread, seen.number))
        return _NOTHING_DONE if left_out else None

    def _await(self, new: _Pending) -> None:
        """One sync is enough for all writes of a run."""
        key = (new.rule, new.path, new.thread)
        self._pending = [old for old in self._pending if (old.rule, old.path, old.thread) != key]
        self._pending.append(new)

    def _keep(self, call: Call, fate: str) -> Call:
        call = msgspec.structs.replace(call, number=len(self.calls), fate=fate)
        self.calls.append(call)
        return call

    def _settle(self, seen: Notification, call: Call | None) -> None:
        """Make the syncs that were to follow calls which have returned by now."""
        ending = self._reader.process_of(seen) if seen.name == "exit_group" else 0
        left = []
        for waiting in self._pending:
            same = waiting.thread == seen.thread or (ending and waiting.cause.process == ending)
            if (call is None and not same) or (call and _goes_on(waiting, call)):
                left.append(waiting)
                continue
            self._sync(waiting.cause, waiting.rule, waiting.path)
            if not same and _may_run(waiting):
                # It may have come too early: once more when the thread is surely past its call.
                left.append(waiting)
        self._pending = left

    def _sync(self, cause: Call, rule: Rule, path: str) -> None:
        """Open the file by its name on the volume and sync it, as the program could have done here."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(os.path.normpath(f"{self._volume}/{path}"), flags)
        except FileNotFoundError:  # removed meanwhile, or a call that failed
            return
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                return
            (os.fdatasync if rule.action == FDATASYNC else os.fsync)(fd)
        except OSError as error:
            self.trouble = self.trouble or f"{rule.action} of {path} failed: {error.strerror}"
            return
        finally:
            os.close(fd)
        name = FDATASYNC if rule.action == FDATASYNC else FSYNC
        added = Call(
            name=name,
            paths=(path,),
            directory=rule.action == DIRECTORY,
            inode=found.st_ino,
            process=cause.process,
            thread=cause.thread,
        )
        self._unsynced.apply(self._keep(added, "added"))


def _goes_on(waiting: _Pending, call: Call) -> bool:
    """A run of writes that is not over yet."""
    return waiting.rule.when == AFTER_RUN and call.name == "write" and call.paths == waiting.cause.paths


def _may_run(waiting: _Pending) -> bool:
    """Whether the thread may still be in the call that the sync is to follow (proc(5), /proc/PID/syscall)."""
    with contextlib.suppress(OSError), open(f"/proc/{waiting.thread}/syscall") as file:
        return file.read().split(maxsplit=1)[0] in ("running", str(waiting.number))
    return False

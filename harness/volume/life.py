"""A volume's life: created, attached, mounted, detaching, detached; and failed.

Every step goes into a journal, in an order that makes a SIGKILL between any two of them recoverable: what is intended,
then the act of the kernel, then that it is done. A volume is *detached* when the kernel has nothing of it any more:
no superblock in any mount namespace, no bound device; or, by force, none that has a capacity.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from harness.closing import Closing
from harness.errors import HarnessError, InternalError, Misuse, VolumeStuck
from harness.machine import loop, owners, syscalls
from harness.machine.hanging import Call
from harness.machine.holders import Holder, How, holders, own_mounts, own_pid
from harness.machine.syncing import sync_file_system
from harness.volume.disks import PlainDisk, ServedDisk
from harness.volume.journal import Journal
from harness.volume.recorded import mount_device
from harness.volume.states import Intent, Record, State, check, definite

DETACH_SECONDS = 10.0

_POLL_MIN = 0.002
_POLL_MAX = 1.0
_KERNEL_SECONDS = 5.0  # real ones: after so long a sync, an unmount or a removal counts as hanging
_REMOVAL_SECONDS = 1.0
_FENCED = 1  # a size limit below one sector: GONE leaves a sector, and the superblock of xfs may be no larger

T = TypeVar("T")


class Clock(Protocol):
    """Seconds from a beginning that all processes of this machine share; they may be virtual."""

    def now(self) -> float: ...

    def wait(self, seconds: float) -> None: ...


class RealClock:
    """CLOCK_BOOTTIME: every process sees the same, and nobody sets it."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class Volume(Closing):
    """A disk and its journal. What is done to the disk goes through here; close() ends that, and detaches nothing.

    An operation that the state does not allow raises Misuse. What the kernel refuses is raised as it came, and leaves
    the state `failed`. `step` is called between any two steps, with the name of the one that is over.
    """

    def __init__(
        self,
        name: str,
        disk: PlainDisk | ServedDisk,
        journal: str,
        *,
        clock: Clock | None = None,
        max_stop_duration: float | None = None,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the journal, or begin it, and recover. `max_stop_duration`, in seconds: see `detach`; None: off.

        Raises Misuse where the journal is open elsewhere or is another volume's, BadJournal where it is damaged.
        """
        self.name = name
        self.disk = disk
        self.max_stop_duration = max_stop_duration
        self._clock = clock or RealClock()
        self._step = step
        self._hanging: Call | None = None
        self._sync_error = ""
        self._journal = Journal(journal, Record)
        try:
            check(self._journal.records, name, self._journal.path)
            if not self._journal.records:
                self._append(Record(volume=name, state=State.CREATED))
            self.recover()
        except BaseException:
            self.close()
            raise

    @property
    def last(self) -> Record:
        """What the journal says last."""
        return self._journal.records[-1]

    @property
    def state(self) -> State:
        return self.last.state

    @property
    def history(self) -> list[Record]:
        """The whole journal."""
        return list(self._journal.records)

    def attach(self, where: str) -> str:
        """Make the disk a block device on `where`, a node or instance. Returns the path of the device.

        Raises VolumeStuck, naming the holders, while a device of the disk is bound that was not taken away.
        """
        if self.state not in (State.ATTACHED, State.MOUNTED) and any(not one.removed for one in self.disk.bound()):
            raise self._stuck("cannot be attached: it is still bound")
        self._expect(State.CREATED, State.DETACHED)
        gone = {"device": "", "target": "", "forced": False, "held_by": (), "sync_error": ""}
        self._write(intent=Intent.ATTACH, where=where, **gone)
        self._step("attach: intended")
        device = self._try(self.disk.attach)
        self._step("attach: bound")
        self._write(state=State.ATTACHED, device=device.path)
        self._step("attach: done")
        return device.path

    def mount(self, target: str) -> None:
        """Mount it on `target` in this process's mount namespace. Misuse: options that the kernel refuses."""
        self._expect(State.ATTACHED)
        self._write(intent=Intent.MOUNT, target=target)
        self._step("mount: intended")
        self._try(lambda: mount_device(self.disk.attached, target, self.disk.spec))
        self._step("mount: mounted")
        self._write(state=State.MOUNTED)
        self._step("mount: done")

    def detach(self, timeout: float = DETACH_SECONDS) -> Record:
        """In order: sync and unmount all our mounts of it, see the superblock gone, release the device, see it gone.

        Tried again and again, for `timeout` seconds of the clock; then VolumeStuck names who holds it, and the volume
        stays `detaching`: call it again to go on. Only with a `max_stop_duration`, and when that has passed since the
        volume began to detach, it is forced. The result's `sync_error` says so when not all could be written out.
        """
        self._expect(State.ATTACHED, State.MOUNTED, State.DETACHING, State.FAILED)
        if self.state is not State.DETACHING:
            self._write(state=State.DETACHING, detaching_since=self._clock.now())
        self._step("detach: begun")
        limit = math.inf if self.max_stop_duration is None else self.max_stop_duration
        force_at = self.last.detaching_since + limit
        give_up_at = self._clock.now() + timeout
        pause = _POLL_MIN
        while not self._let_go():
            now = self._clock.now()
            if now >= force_at:
                return self.force_detach(f"still held {limit:g} s after it began to detach")
            if now >= give_up_at:
                raise self._stuck(f"is not detached after {timeout:g} s")
            self._clock.wait(min(pause, give_up_at - now, force_at - now))
            pause = min(2 * pause, _POLL_MAX)
        self._write(state=State.DETACHED)
        self._step("detach: done")
        return self.last

    def force_detach(self, reason: str = "") -> Record:
        """Take the capacity away under whoever uses it, unmount lazily, let the device go.

        What was not durable is lost, and whoever still holds the old device gets nothing but errors, for good: so the
        volume may be attached again. `held_by` of the result says what force was needed for.
        Raises VolumeStuck where the kernel waits for requests in flight that nobody answers; it stays `detaching`.
        """
        self._expect(State.ATTACHED, State.MOUNTED, State.DETACHING, State.FAILED)
        since = self.last.detaching_since if self.state is State.DETACHING else self._clock.now()
        held_by = tuple(str(holder) for holder in self.holders())
        self._write(state=State.DETACHING, intent=Intent.FORCE, detaching_since=since, held_by=held_by, note=reason)
        self._step("force: intended")
        self._limit(loop.GONE)
        self._step("force: removed")
        return self._finish_force()

    def recover(self) -> Record:
        """Compare the journal with what the kernel has, and write down which state that is. Also at every opening.

        A force that had taken the capacity away is finished.
        """
        self._adopt()
        bound = self._bound()
        if self.last.intent is Intent.FORCE and all(status.removed for status in bound):
            return self._finish_force()
        mounted = [target for status in bound for target in own_mounts(status.path)]
        state, note = definite(self.last, bound, bool(mounted))
        if state is not self.state or (self.last.intent and state is not State.DETACHING):
            device = bound[0].path if bound else self.last.device
            self._write(state=state, device=device, target=[*mounted, self.last.target][0], note=note)
            self._step("recover: done")
        return self.last

    def holders(self) -> list[Holder]:
        """Who holds its devices, but for this process where it only has them open."""
        found: list[Holder] = []
        for status in self._bound():
            with contextlib.suppress(OSError):  # it went away
                found += holders(status.path)
        return [one for one in found if one.how is not How.OPENED or one.pid != own_pid()]

    def close(self) -> None:
        self._journal.close()

    def _expect(self, *states: State) -> None:
        if self.state not in states:
            raise Misuse(f"volume {self.name} is {self.state}", "this needs one that is " + " or ".join(states))

    def _write(self, **changes: object) -> None:
        plain = {"intent": None, "note": ""}
        self._append(msgspec.structs.replace(self.last, **(plain | changes)))

    def _append(self, record: Record) -> None:
        writer = str(owners.this_process())
        self._journal.append(msgspec.structs.replace(record, at=self._clock.now(), writer=writer))

    def _try(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except (OSError, HarnessError) as error:
            self._write(state=State.FAILED, note=str(error))
            raise

    def _bound(self) -> list[loop.Bound]:
        """The devices that are to be waited for: not those that force left to their holders."""
        return [status for status in self.disk.bound() if not status.removed or status.path == self.last.device]

    def _let_go(self) -> bool:
        """One attempt to detach in order, as far as it goes."""
        if self._hanging and not self._hanging.is_over(0):
            return False
        self._hanging = None
        for status in self._bound():
            if not self._unmount(status.path) or loop.held(status.path):
                return False
        self._step("detach: unmounted")
        # A device that does not let go ends its engine: first see that nobody else has it open.
        if isinstance(self.disk, ServedDisk) and self.holders():
            return False
        self.disk.detach()
        self._step("detach: released")
        return not self._bound()

    def _unmount(self, device: str) -> bool:
        """False when it is busy, or the kernel does not come back."""
        targets = own_mounts(device)
        if not targets:
            return True
        self._sync_error = ""
        self._hanging = Call(lambda: self._sync_and_unmount(targets))
        if not self._hanging.is_over(_KERNEL_SECONDS):
            return False
        self._hanging = None
        if self._sync_error:  # said once: the next sync would report success (fsync(2))
            self._write(sync_error=self._sync_error)
        return not own_mounts(device)

    def _sync_and_unmount(self, targets: Sequence[str]) -> None:
        try:
            sync_file_system(targets[0])
        except OSError as error:
            self._sync_error = f"{error.strerror} ({targets[0]})"
        for target in reversed(targets):
            if not _umount(target):
                return

    def _limit(self, size: int) -> None:
        """Behind an engine that answers nothing the kernel waits for ever: then the engine ends first."""
        for status in self.disk.bound():
            if 0 < status.size_limit <= size:
                continue
            call = Call(partial(_limit_at, self.disk, status.path, size))
            if not call.is_over(_REMOVAL_SECONDS):
                self._kill_engine()
                if not call.is_over(_KERNEL_SECONDS):
                    raise self._stuck("cannot be taken away: the kernel waits for requests that nobody answers")

    def _finish_force(self) -> Record:
        """From where the capacity is gone. Each step may have been done before."""
        if self._hanging:
            self._hanging.is_over(_KERNEL_SECONDS)
        targets = [target for status in self._bound() for target in own_mounts(status.path)]
        # ext4 without a journal waits in here until the capacity comes back: what hangs is out of sight, and fenced.
        Call(lambda: [_umount(target, syscalls.MNT_DETACH) for target in reversed(targets)]).is_over(_KERNEL_SECONDS)
        self._step("force: unmounted")
        if any(loop.held(status.path) for status in self._bound()):
            self._kill_engine()  # it would be waited for, and has nothing but errors for those who hold the device
        self.disk.detach()
        self._limit(_FENCED)
        self._step("force: released")
        self._write(state=State.DETACHED, forced=True, held_by=self.last.held_by, note=self.last.note)
        self._step("force: done")
        return self.last

    def _kill_engine(self) -> None:
        if isinstance(self.disk, ServedDisk):
            with contextlib.suppress(InternalError):  # it has none any more
                self.disk.kill_engine()

    def _adopt(self) -> None:
        """Hold what a process that died had attached: so it stays, and is known to be ours."""
        in_use = self.last.intent is Intent.ATTACH or self.state in (State.ATTACHED, State.MOUNTED)
        for status in self._bound() if in_use and self.disk.device is None else ():
            with contextlib.suppress(OSError):  # it went away
                self.disk.device = loop.adopt(status.path)
                return

    def _stuck(self, what: str) -> VolumeStuck:
        held_by = self.holders()
        bound = ", ".join(status.path for status in self._bound()) or "no device"
        lines = "".join(f"\n  held by {holder}" for holder in held_by) or "\n  nobody can be named who holds it"
        hanging = "\n  a sync or unmount of its own has not come back" if self._hanging else ""
        remedy = "end what holds it and detach it; or force_detach, which loses what is not durable"
        return VolumeStuck(f"volume {self.name} ({bound}) {what}{lines}{hanging}", remedy, held_by)


def _umount(target: str, flags: int = 0) -> bool:
    """False when it is busy. One that is not mounted any more (EINVAL) is unmounted."""
    try:
        syscalls.umount(target, flags)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EINVAL):
            raise
        return error.errno == errno.EINVAL
    return True


def _limit_at(disk: PlainDisk | ServedDisk, path: str, size: int) -> None:
    """Unless the device has gone meanwhile, and its number perhaps to somebody else. While it is open, it cannot."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if path in [bound.path for bound in disk.bound()]:
            loop.limit(fd, size)
    finally:
        os.close(fd)

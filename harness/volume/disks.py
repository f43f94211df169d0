"""Disks that are attached, taken away, and attached again while their content stays.

Two kinds, one interface. `PlainDisk` is a loop device over memory: it can be pulled out, and nothing more. `ServedDisk`
is a loop device over an engine: all that it is asked to do is recorded, the engine can be told to fail (Rule), killed,
and halted. Whatever ends the process that holds a disk, the kernel takes its device away.
"""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import Protocol

from harness.blocklog import BlockLog, Kind
from harness.closing import Closing
from harness.engine import Engine, start_engine
from harness.engine.rules import Rule
from harness.errors import EngineLost, InternalError
from harness.machine import loop, mounts
from harness.machine.image import Image
from harness.volume.spec import LYING, LYING_FLUSH, VolumeSpec

LOG_MAX = 1 << 30
_RELEASE_SECONDS = 10.0


class Disk(Protocol):
    """A disk that is attached, or not. Its content outlives an attachment."""

    label: str

    @property
    def device(self) -> loop.LoopDevice | None:
        """The block device while it is attached."""

    def attach(self) -> loop.LoopDevice:
        """Make it a block device. Raises InternalError if it is one, OSError for what the kernel refuses."""

    def detach(self) -> None:
        """Let the device go. Where somebody else holds it (a mount), it stays bound until the last of them is gone."""

    def bound(self) -> list[loop.Bound]:
        """The block devices that the kernel still has of this disk, those pulled out included."""

    def medium(self) -> Image:
        """A copy of what stands on the medium now: all that a write was answered for. The caller closes it."""

    def close(self) -> None: ...


class _Attachable(Closing):
    label: str
    device: loop.LoopDevice | None = None

    @property
    def attached(self) -> loop.LoopDevice:
        """The device. Raises InternalError where there is none."""
        if self.device is None:
            raise InternalError(f"the disk {self.label} is not attached", "attach it first")
        return self.device

    def _expect_detached(self) -> None:
        if self.device is not None:
            raise InternalError(f"the disk {self.label} is attached as {self.device.path}", "detach it first")

    def remove(self) -> None:
        """Pull the device out while it is in use: every request from here on fails. Undone by `restore`."""
        self.attached.limit(loop.GONE)

    def restore(self) -> None:
        """The device is back, its content untouched."""
        self.attached.limit(0)


class PlainDisk(_Attachable):
    """A disk in memory. `image` stays the caller's; nothing else may write to it while the disk is attached."""

    def __init__(self, spec: VolumeSpec, image: Image, label: str = "") -> None:
        self.spec = spec
        self.image = image
        self.label = label

    def attach(self) -> loop.LoopDevice:
        """See Disk."""
        self._expect_detached()
        self.device = loop.attach(self.image.fd, sector_size=self.spec.sector_size, label=self.label)
        return self.device

    def detach(self) -> None:
        """See Disk."""
        if self.device:
            self.device.release()
            self.device = None

    def bound(self) -> list[loop.Bound]:
        """See Disk."""
        return loop.over_fd(self.image.fd)

    def medium(self) -> Image:
        """See Disk. What lies in the page cache of the block device is not on the medium."""
        return self.image.copy("medium")

    def close(self) -> None:
        self.detach()


class ServedDisk(_Attachable):
    """A disk that an engine serves, from a folder of its own in this process's private mounts.

    `base`, the content at first, stays as it is. Each attachment has an engine and a log of its own: `logs` keeps those
    that are over. What the engine answered is on the medium, and is there at the next attachment.
    """

    process = 0
    """The process that keeps its blocks, where that is none of ours (ForeignDisk)."""

    def __init__(self, spec: VolumeSpec, base: Image | None, *, log_max: int = LOG_MAX, label: str = "") -> None:
        """`log_max` bounds the log of each attachment, in bytes of memory."""
        self.spec = spec
        self.label = label
        self.logs: list[BlockLog] = []
        self._files: list[str] = []
        self._engine: Engine | None = None
        self._base = base
        self._owns_base = False
        self._log_max = log_max
        self._folder = tempfile.mkdtemp(prefix="engine-", dir=mounts.enter_private_mounts().root)

    @property
    def engine(self) -> Engine:
        """The engine of this attachment. Raises InternalError where there is none."""
        if self._engine is None:
            raise InternalError(f"the disk {self.label} has no engine", "attach it first")
        return self._engine

    @property
    def base(self) -> Image:
        """What the disk held when it was attached: the log of this attachment begins there."""
        if self._base is None:
            self._base, self._owns_base = self.medium(), True
        return self._base

    def attach(self, rules: tuple[Rule, ...] = ()) -> loop.LoopDevice:
        """See Disk. `rules`: what is wrong with it from the start."""
        self._expect_detached()
        self._renew()
        if self.spec.fault == LYING_FLUSH:
            rules = (*rules, LYING)
        self._engine = self._started(rules)
        self._files.append(os.path.basename(self._engine.disk_path))
        try:
            self.device = self._bind()
        except BaseException:
            self._engine.close()
            self._engine = None
            raise
        return self.device

    def detach(self) -> None:
        """See Disk; the engine ends with the device. An engine that still serves others (a mount) is killed."""
        if self.device:
            self.device.close()  # it clears itself: LOOP_CLR_FD would wait for an engine that may not answer
            self.device = None
        if self._engine and self._engine.exit_status is None:
            self._heal()
            if self._engine.await_release(_RELEASE_SECONDS):
                self._engine.stop()
            else:
                self._engine.kill()

    def bound(self) -> list[loop.Bound]:
        """See Disk. By label: the file below lies in an engine that may be dead."""
        return loop.over(*self._files)

    def kill_engine(self) -> None:
        """SIGKILL to the engine: every request fails from here on, and the medium is what it had answered."""
        self.engine.kill()

    def slay_engine(self, seconds: float) -> bool:
        """SIGKILL, and wait for its death; False if it lives on. Nothing is cleared up: that is for detach."""
        return self.engine.slay(seconds)

    def halt_engine(self) -> None:
        """SIGSTOP: when this returns nothing is answered any more, until `wake_engine`."""
        self.engine.halt()

    def wake_engine(self) -> None:
        """SIGCONT, whoever is halted."""
        self.engine.go_on()

    def log(self) -> BlockLog:
        """What this attachment was asked to do, as far as it went."""
        return self.engine.parsed()

    def medium(self) -> Image:
        """See Disk. Discarded ranges read as zeros."""
        image = self.base.copy("medium")
        if self._engine:
            _apply(self._engine.parsed(), image)
        return image

    def close(self) -> None:
        """Detach, and give up the memory of content and log."""
        self.detach()
        if self._engine:
            self._engine.close()
            self._engine = None
        if self._owns_base:
            self.base.close()
            self._owns_base = False
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)

    def _started(self, rules: Sequence[Rule]) -> Engine:
        return start_engine(
            self.base,
            log_max=self._log_max,
            sector_size=self.spec.sector_size,
            mount_dir=self._folder,
            rules=rules,
        )

    def _renew(self) -> None:
        """What the last attachment left is what this one begins with."""
        if self._engine is None:
            return
        image = self.medium()
        self.logs.append(self._engine.parsed())
        self._engine.close()
        self._engine = None
        if self._owns_base:
            self.base.close()
        self._base, self._owns_base = image, True

    def _heal(self) -> None:
        """What a rule holds must be answered before the device can go. A halted engine is woken."""
        self.wake_engine()
        with contextlib.suppress(EngineLost):
            self.engine.heal()

    def _bind(self) -> loop.LoopDevice:
        fd = os.open(self.engine.disk_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return loop.attach(fd, sector_size=self.spec.sector_size, direct_io=True, label=self.label)
        finally:
            os.close(fd)


def _apply(log: BlockLog, image: Image) -> None:
    """Make `image`, the disk before `log`, the disk after it."""
    for event in log.events:
        if event.kind is Kind.WRITE:
            image.map[event.offset : event.offset + event.length] = log.data(event)
        elif event.kind is Kind.DISCARD:
            image.map[event.offset : event.offset + event.length] = bytes(event.length)

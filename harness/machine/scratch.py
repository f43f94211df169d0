"""Scratch disks: the device on which the kernel recovers a crash state.

Each state gets a disk that holds its bytes and nothing of the state before. Two kinds, chosen by what the machine has:

- zram (fast): the device stays, and is put back to the wanted bytes: what the builder changed, and what the kernel
  wrote since (WriteTrace). Without that trace, or when it may have lost an event, all is discarded and written anew.
- loop: a fresh memfd on a fresh loop device for each state.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from harness.errors import InternalError
from harness.extents import Extent, merge
from harness.machine import loop, zram
from harness.machine.image import Image
from harness.machine.tracing import Tracepoint, WriteTrace

_BLKDISCARD = 0x1277
_BLOCK = 4096
_STEP = 1 << 20
_AUDIT_REMEDY = "use --scratch loop, and report this"


class Scratch(Protocol):
    """A disk that can be made to hold any crash state, again and again."""

    @property
    def name(self) -> str:
        """As the kernel log spells the device that holds the current state."""

    def put(self, changed: Sequence[Extent]) -> str:
        """Make the device hold the image, given what changed in the image since the last put. Returns its path."""

    def audit(self) -> None:
        """Read the device back before anyone mounts it. Raises InternalError if it does not hold the image."""

    def cover(self, footprint: Sequence[Extent]) -> None:
        """From now on the image may hold something other than zeros in these extents too."""

    def close(self) -> None: ...


class ZramScratch:
    """`image` is the worker's own copy of the volume, mutated by the builder; `footprint` covers all non-zero bytes."""

    def __init__(
        self, device: zram.ZramDevice, image: mmap.mmap, footprint: Sequence[Extent], tracepoint: Tracepoint | None
    ) -> None:
        self.name = device.name
        self._path = device.path
        self._image = memoryview(image)
        self._footprint = merge(footprint, _BLOCK, len(self._image))
        self._fresh = True
        self._ever: set[Extent] = set()  # all that the kernel was ever seen to write
        self._trace: WriteTrace | None = None
        if tracepoint:
            with suppress(OSError):
                self._trace = WriteTrace(tracepoint, os.stat(device.path).st_rdev)

    def put(self, changed: Sequence[Extent]) -> str:
        """Write what changed, and what the kernel wrote since the last put; the first time, everything."""
        written = self._trace.drain() if self._trace else None
        # Opened anew each time: the last close of a block device drops its page cache, so no stale block is ever read.
        fd = os.open(self._path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            if self._fresh or written is None:
                fcntl.ioctl(fd, _BLKDISCARD, struct.pack("QQ", 0, len(self._image)))
                self._write(fd, self._footprint)
                self._fresh = False
            else:
                self._write(fd, merge([*changed, *written], _BLOCK, len(self._image)))
                self._ever.update(written)
        finally:
            os.close(fd)
        if self._trace:
            self._trace.drain()
        return self._path

    def cover(self, footprint: Sequence[Extent]) -> None:
        self._footprint = merge([*self._footprint, *footprint], _BLOCK, len(self._image))

    def _write(self, fd: int, extents: Iterable[Extent]) -> None:
        for offset, length in extents:
            done = os.pwrite(fd, self._image[offset : offset + length], offset)
            while done < length:
                done += os.pwrite(fd, self._image[offset + done : offset + length], offset + done)

    def audit(self) -> None:
        """All that we or the kernel ever wrote is compared; that there is nothing else is zram's own count of pages."""
        known = merge([*self._footprint, *self._ever], _BLOCK, len(self._image))
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            _compare(fd, self._image, known, self.name)
        finally:
            os.close(fd)
        stored = zram.stored_bytes(self.name)
        if stored > sum(length for _, length in known):
            raise InternalError(f"{self.name} holds {stored} bytes, more than was written", _AUDIT_REMEDY)

    def close(self) -> None:
        if self._trace:
            self._trace.close()
        self._image.release()


class LoopScratch:
    """A new memfd and a new loop device for each state. Needs nothing but loop devices; takes any sector size."""

    def __init__(self, image: mmap.mmap, footprint: Sequence[Extent], sector_size: int) -> None:
        self._image = memoryview(image)
        self._footprint = merge(footprint, _BLOCK, len(self._image))
        self._sector_size = sector_size
        self._disk: Image | None = None
        self._device: loop.LoopDevice | None = None

    @property
    def name(self) -> str:
        return self._device.name if self._device else "loop"

    def put(self, changed: Sequence[Extent]) -> str:  # noqa: ARG002 (a fresh disk is written whole)
        """Write everything to a new disk."""
        self._drop()
        self._disk = Image.create(len(self._image), "scratch")
        for offset, length in self._footprint:
            os.pwrite(self._disk.fd, self._image[offset : offset + length], offset)
        self._device = loop.attach(self._disk.fd, sector_size=self._sector_size)
        return self._device.path

    def cover(self, footprint: Sequence[Extent]) -> None:
        self._footprint = merge([*self._footprint, *footprint], _BLOCK, len(self._image))

    def audit(self) -> None:
        assert self._disk is not None
        _compare(self._disk.fd, self._image, self._footprint, self.name)

    def _drop(self) -> None:
        if self._device:
            self._device.close()
            self._device = None
        if self._disk:
            self._disk.close()
            self._disk = None

    def close(self) -> None:
        self._drop()
        self._image.release()


def _compare(fd: int, image: memoryview, extents: Iterable[Extent], name: str) -> None:
    with mmap.mmap(-1, _STEP) as buffer, memoryview(buffer) as view:
        for offset, length in extents:
            for at in range(offset, offset + length, _STEP):
                size = min(_STEP, offset + length - at)
                os.preadv(fd, [view[:size]], at)
                if view[:size] != image[at : at + size]:
                    raise InternalError(
                        f"{name} does not hold the state that was put there (near byte {at})", _AUDIT_REMEDY
                    )

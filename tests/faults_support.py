"""A writer on a volume, a fault, and what became of both: each run in a process namespace of its own."""

import contextlib
import errno
import functools
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from harness.blocklog import BlockLog, Kind
from harness.closing import Closing
from harness.engine import Engine
from harness.engine.messages import Frames
from harness.faults import Fault, Target, missed, parse_fault
from harness.faults.health import after
from harness.machine import mounts, syscalls
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.machine.process import wait_readable
from harness.machine.sandbox import spawn_init
from harness.machine.syncing import sync_file_system
from harness.settings import Settings
from harness.verdict import Verdict
from harness.volume import VolumeSpec, make_base, mounted_plain
from harness.volume.disks import PlainDisk, ServedDisk
from harness.volume.recorded import mount_device

T = TypeVar("T")

BLOCK = 4096
SECONDS = 10.0
"""A deadline, never a time that is waited for."""

HELD_SECONDS = 0.3
"""So long a writer must be held to count as held. One that is not ends at once: a loaded machine fails no test."""


def apart(run: Callable[[], T]) -> T:
    """What `run` returns, run as pid 1 of a namespace with mounts of its own; what it raises fails the test."""
    told, tell = Pipe(duplex=False)

    def life() -> int:
        told.close()
        try:
            tell.send_bytes(pickle.dumps((run(), "")))
        except BaseException:
            tell.send_bytes(pickle.dumps((None, traceback.format_exc())))
        return 0

    with told, spawn_init(life, name="harness-test") as init:
        tell.close()
        assert told.poll(2 * SECONDS), f"no end (process {init.pid})"
        value, error = pickle.loads(told.recv_bytes())
    assert not error, error
    return value  # type: ignore[no-any-return]


@functools.cache
def base_of(fs: str, mkfs_options: str = "") -> tuple[VolumeSpec, Image]:
    """A volume with `data.bin`, four blocks of `o`; made once in each test process."""
    spec = VolumeSpec.of(Settings(fs=fs, mkfs_options=mkfs_options))
    base = make_base(spec)

    def fill() -> None:
        with mounted_plain(base, spec) as root, open(f"{root}/data.bin", "wb") as file:
            file.write(b"o" * 4 * BLOCK)

    apart(fill)
    return spec, base


class Writer(Closing):
    """A child that does one thing after the other, each with its mark, and tells how each ended."""

    def __init__(self, steps: "Sequence[Step]", root: str, mark_path: str = "") -> None:
        self.told, tell = Pipe(duplex=False)
        go, self._go = Pipe(duplex=False)
        self.results: list[str] = []
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                self.told.close()
                self._go.close()
                go.recv_bytes()
                _write(steps, root, mark_path, tell)
            os._exit(0)
        tell.close()
        go.close()
        self.pidfd = os.pidfd_open(self.pid)

    def go(self) -> None:
        self._go.send_bytes(b"go")

    def wait(self, seconds: float = SECONDS) -> bool:
        """Whether it ended in time; its results are then here."""
        ended = wait_readable(self.pidfd, seconds)
        with contextlib.suppress(EOFError):
            while self.told.poll(0):
                self.results.append(self.told.recv_bytes().decode())
        return ended

    def close(self) -> None:
        """SIGKILL if it still runs."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.pidfd)
            self.pidfd = -1


class Hand(Closing):
    """What a step works with: open files."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.fds: dict[str, int] = {}

    def open(self, name: str) -> int:
        if name not in self.fds:
            self.fds[name] = os.open(f"{self.root}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
        return self.fds[name]

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.popitem()[1])


Step = Callable[[Hand], object]


def _write(steps: Sequence[Step], root: str, mark_path: str, tell: Connection) -> None:
    hand = Hand(root)
    mark_fd = os.open(mark_path, os.O_WRONLY) if mark_path else -1
    for number, step in enumerate(steps):
        try:
            if mark_fd >= 0:
                os.pwrite(mark_fd, Frames.pack(b"op:begin %d" % number), 0)
            step(hand)
            tell.send_bytes(b"ok")
        except OSError as error:
            tell.send_bytes(errno.errorcode[error.errno or 0].encode())


def overwrite(name: str = "data.bin", letter: bytes = b"n", blocks: int = 4) -> Step:
    """Without an fsync."""
    return lambda hand: os.pwrite(hand.open(name), letter * blocks * BLOCK, 0)


def fsync(name: str = "data.bin") -> Step:
    return lambda hand: os.fsync(hand.open(name))


def durable(name: str = "data.bin", letter: bytes = b"n", blocks: int = 4) -> Step:
    def write(hand: Hand) -> None:
        overwrite(name, letter, blocks)(hand)
        fsync(name)(hand)

    return write


class Outcome(NamedTuple):
    """What the writer saw, and what the volume holds afterwards: `nnnn`, `oooo`, blocks by their letter."""

    results: tuple[str, ...]
    files: dict[str, str]
    ended: bool
    """Whether the writer ended by itself, before the heal."""


class Run(NamedTuple):
    """All about one run."""

    outcome: Outcome
    hits: int
    missed: str
    unwell: str
    kernel: list[str]
    seconds: float
    """What the writer took."""


def run(
    steps: Sequence[Step],
    fault: str | Fault = "",
    *,
    fs: str = "ext4",
    plain: bool = False,
    cut: bool = False,
    held: bool = False,
) -> Run:
    """`cut`: the power fails as the writer ends, and only what a flush covered is there. `held`: the fault keeps it."""
    spec, base = base_of(fs)
    wanted = parse_fault(fault) if isinstance(fault, str) and fault else fault or None
    assert not isinstance(wanted, str)
    return apart(lambda: _run(spec, base, steps, wanted, plain=plain, cut=cut, held=held))


def _run(
    spec: VolumeSpec, base: Image, steps: Sequence[Step], fault: Fault | None, *, plain: bool, cut: bool, held: bool
) -> Run:
    with Rig(spec, base, plain=plain) as rig, rig.writer(steps) as writer:
        if fault:
            fault.inject(rig.target)
        began = time.monotonic()
        writer.go()
        if fault and held:
            assert fault.await_hit(rig.target, SECONDS)
        ended = writer.wait(HELD_SECONDS if fault and held else SECONDS)
        seconds = time.monotonic() - began
        cut_at = len(rig.disk.log().events) if cut and isinstance(rig.disk, ServedDisk) else None
        hits, never, unwell = 0, "", ""
        if fault:
            fault.heal(rig.target)
            assert writer.wait(), "hangs after the heal"
            hits = fault.hits(rig.target)
            never = missed_of(fault, rig.target)
            unwell = getattr(after(fault, rig.target), "summary", "")
        said = rig.said()
        return Run(Outcome(tuple(writer.results), rig.recovered(cut_at), ended), hits, never, unwell, said, seconds)


def missed_of(fault: Fault, target: Target) -> str:
    """What is said of a fault that did not strike; nothing if it did."""
    found = missed(fault, target)
    assert found is None or found.verdict is Verdict.UNKNOWN
    return found.summary if found else ""


class Rig(Closing):
    """A disk with a mounted volume, in a process of its own (apart)."""

    def __init__(self, spec: VolumeSpec, base: Image, *, plain: bool = False) -> None:
        self.spec = spec
        self.root = mounts.enter_private_mounts().volume
        self.disk: PlainDisk | ServedDisk
        self.disk = PlainDisk(spec, base.copy(), "test") if plain else ServedDisk(spec, base, label="test")
        self.device = self.disk.attach()
        self._kernel = KernelLog()
        mount_device(self.device, self.root, spec)
        self.target = Target(disk=self.disk, mount=self.root)

    @property
    def engine(self) -> Engine:
        assert isinstance(self.disk, ServedDisk)
        return self.disk.engine

    def said(self) -> list[str]:
        """What the kernel said of the device since the last call."""
        return self._kernel.lines(self.device.name)

    def writer(self, steps: Sequence[Step]) -> Writer:
        """It waits for its go."""
        writer = Writer(steps, self.root, f"{self.engine.mount_dir}/mark" if isinstance(self.disk, ServedDisk) else "")
        self.target.writer = writer.pid
        return writer

    def do(self, step: Step) -> None:
        """One step, by this process itself."""
        with Hand(self.root) as hand:
            step(hand)

    def recovered(self, cut_at: int | None = None) -> dict[str, str]:
        """Take the volume away, and see what the medium has, mounted again; `cut_at`: after so many events."""
        self.unmount()
        self.disk.detach()
        if cut_at is None:
            image = self.disk.medium()
        else:
            assert isinstance(self.disk, ServedDisk)
            image = _flushed(self.disk.base, self.disk.log(), cut_at)
        with mounted_plain(image, self.spec) as root:
            return {name: letters(f"{root}/{name}") for name in os.listdir(root) if os.path.isfile(f"{root}/{name}")}

    def unmount(self) -> None:
        with contextlib.suppress(OSError):
            sync_file_system(self.root)
        with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there (any more)
            while True:
                syscalls.umount(self.root, syscalls.MNT_DETACH)

    def close(self) -> None:
        self.unmount()
        self.disk.close()


def _flushed(base: Image, log: BlockLog, cut_at: int) -> Image:
    """The disk on which only what the last flush covers has stayed."""
    events = list(log.events)[:cut_at]
    last = max((n for n, event in enumerate(events) if event.kind is Kind.FLUSH), default=-1)
    image = base.copy()
    for event in events[: last + 1]:
        if event.kind is Kind.WRITE:
            image.map[event.offset : event.offset + event.length] = log.data(event)
    return image


def letters(path: str) -> str:
    """The blocks of a file: each by its letter, `?` where it is not one letter throughout."""
    with open(path, "rb") as file:
        data = file.read()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return "".join(chr(block[0] or ord("0")) if len(set(block)) == 1 else "?" for block in blocks)

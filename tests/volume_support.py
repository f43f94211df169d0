"""Volumes for tests, and processes that hold them: each ends with the test, and with the tests' own process."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from harness.machine import loop, mounts, syscalls
from harness.machine.image import Image
from harness.machine.process import wait_readable
from harness.machine.sandbox import spawn_init
from harness.settings import Settings
from harness.volume import VolumeSpec, make_base
from harness.volume.disks import PlainDisk
from harness.volume.life import Volume

EXT4 = VolumeSpec.of(Settings(fs="ext4", size=8 << 20))
SECONDS = 10.0
DATA = b"fsynced" * 1000

_bases: dict[VolumeSpec, Image] = {}


def fresh(spec: VolumeSpec = EXT4) -> Image:
    """A new file system; mkfs runs once."""
    if spec not in _bases:
        _bases[spec] = make_base(spec)
    return _bases[spec].copy("volume")


@contextlib.contextmanager
def plain_disk(label: str, spec: VolumeSpec = EXT4) -> Iterator[PlainDisk]:
    """A disk of which nothing may be bound at the end."""
    with fresh(spec) as image, PlainDisk(spec, image, label) as disk:
        yield disk
        disk.detach()
        eventually(lambda: not disk.bound(), f"{label} is still bound")


def place(name: str) -> str:
    """An empty folder of this process's private mounts."""
    path = mounts.enter_private_mounts().path(name)
    os.makedirs(path, exist_ok=True)
    return path


@contextlib.contextmanager
def mount_point(name: str) -> Iterator[str]:
    """Such a folder, on which nothing is mounted in the end."""
    path = place(name)
    yield path
    while os.path.ismount(path):
        syscalls.umount(path, syscalls.MNT_DETACH)


def begun(volume: Volume, target: str) -> str:
    """Attached and mounted; the path of its device."""
    device = volume.attach("node-1")
    volume.mount(target)
    return device


def write(path: str, data: bytes = DATA, *, sync: bool = True) -> None:
    """A new file; durable with its name, or not at all yet."""
    with open(path, "wb") as file:
        file.write(data)
        if sync:
            os.fsync(file.fileno())


def eventually(condition: Callable[[], bool], otherwise: str) -> None:
    give_up_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, otherwise
        time.sleep(0.002)


@contextlib.contextmanager
def process(act: Callable[[], object], *, private: bool = False) -> Iterator[int]:
    """A child that has done `act`, and then waits until it is killed. Its pid; `private`: in mounts of its own."""
    ready, announce = os.pipe()

    def life() -> int:
        os.close(ready)
        act()
        os.write(announce, b"1")
        os.close(announce)
        syscalls.die_with_parent()
        while True:
            time.sleep(60)

    with spawn_init(life, name="holder", mounts=private) as init:
        os.close(announce)
        assert wait_readable(ready, SECONDS) and os.read(ready, 1) == b"1", "the process failed"
        os.close(ready)
        yield init.pid


def bound(label: str) -> list[loop.Status]:
    return [status for status in loop.bound() if status.label == label]


class VirtualClock:
    """Time passes only while somebody waits."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds

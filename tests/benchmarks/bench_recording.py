"""How much recording costs, side by side in one run: python tests/benchmarks/bench_recording.py [--gigabyte]

Volumes in turn, several rounds: ext4 on a loop device over memory (nothing recorded: the ceiling), over a file on disk
with direct I/O, and recorded by the engine. Prints medians and ratios; decides nothing. `--gigabyte` records
1 GiB besides and says what memory that took.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from harness.machine import latency, loop, mounts, syscalls
from harness.machine.image import Image
from harness.settings import Settings
from harness.volume import RecordedVolume, VolumeSpec, make_base, mounted_plain

_ROUNDS = 5
_SECONDS = 1.0
_SEQUENTIAL = 64 << 20
_SPEC = VolumeSpec.of(Settings(size=512 << 20, mount_options="noatime"))
_LOG_MAX = 3 << 30

Volume = Callable[[Image], AbstractContextManager[str]]


def in_memory(base: Image) -> AbstractContextManager[str]:
    return mounted_plain(base, _SPEC)


@contextlib.contextmanager
def in_memory_awake(base: Image) -> Iterator[str]:
    """The ceiling once more, with what the engine has: processors that are kept from falling asleep."""
    fd = latency.stay_awake()
    try:
        with in_memory(base) as path:
            yield path
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def on_disk(base: Image) -> Iterator[str]:
    target = mounts.enter_private_mounts().volume
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.truncate(base.size)
        for offset, length in base.nonzero_extents():
            os.pwrite(file.fileno(), base.read(offset, length), offset)
        os.fsync(file.fileno())
        with loop.attach(file.fileno(), direct_io=True) as device:
            mounts.mount_volume(device.path, target, "ext4", _SPEC.mount_options)
    try:
        yield target
    finally:
        syscalls.umount(target)


@contextlib.contextmanager
def recorded(base: Image) -> Iterator[str]:
    with RecordedVolume(_SPEC, base, log_max=_LOG_MAX) as volume:
        yield volume.path
        volume.finish()
        assert volume.error is None


def creates_per_second(path: str) -> float:
    data = os.urandom(4096)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        fd = os.open(f"{path}/{count}", os.O_CREAT | os.O_WRONLY)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        count += 1
    return count / (time.perf_counter() - start)


def megabytes_per_second(path: str, total: int = _SEQUENTIAL) -> float:
    data = os.urandom(1 << 20)
    start = time.perf_counter()
    fd = os.open(f"{path}/sequential", os.O_CREAT | os.O_WRONLY)
    for _ in range(total >> 20):
        os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    return total / 1e6 / (time.perf_counter() - start)


def measure() -> dict[str, tuple[float, float]]:
    volumes: dict[str, Volume] = {
        "loop over memory": in_memory,
        "same, awake": in_memory_awake,
        "loop over disk, direct": on_disk,
        "recorded": recorded,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in volumes}
    for _ in range(_ROUNDS):
        for name, volume in volumes.items():
            with make_base(_SPEC) as base, volume(base) as path:
                found[name].append((creates_per_second(path), megabytes_per_second(path)))
    return {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in found.items()}


def show(found: dict[str, tuple[float, float]]) -> None:
    creates, rate = found["recorded"]
    print(f"{'':24}{'create+4K+fsync/s':>20}{'recorded is':>13}{'64 MiB, MB/s':>15}{'recorded is':>13}")
    for name, (their_creates, their_rate) in found.items():
        first, second = f"{creates / their_creates:.2f} x", f"{rate / their_rate:.2f} x"
        print(f"{name:24}{their_creates:20.0f}{first:>13}{their_rate:15.0f}{second:>13}")


def record_a_gigabyte() -> None:
    spec = VolumeSpec.of(Settings(size=1536 << 20, mount_options="noatime"))
    with make_base(spec) as base, RecordedVolume(spec, base, log_max=_LOG_MAX) as volume:
        before = shared_memory()
        rate = megabytes_per_second(volume.path, 1 << 30)
        pid = volume.engine.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            private = next(line.split()[1] for line in status if line.startswith("RssAnon"))
        log = volume.finish()
        after = shared_memory()
        assert volume.error is None
        start = time.perf_counter()
        volume.engine.parsed()
        parsing = time.perf_counter() - start
    print(
        f"1 GiB recorded at {rate:.0f} MB/s: log {log.size >> 20} MiB in {log.entries} entries (parsed in "
        f"{parsing * 1e3:.0f} ms), shared memory grew by {(after - before) >> 20} MiB, "
        f"the engine's own memory {int(private) >> 10} MiB"
    )


def shared_memory() -> int:
    """Bytes in tmpfs and memfds, of the whole machine."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Shmem:"))


if __name__ == "__main__":
    if "--gigabyte" in sys.argv:
        record_a_gigabyte()
    show(measure())

"""What three replicas cost, beside the recording engine alone: python tests/benchmarks/bench_replicated.py [--rounds N]

Both below a loop device on this machine, in turns of a fifth of a second: writes of 4 KiB with an fsync after each
(O_DIRECT: a write and a flush) and sequential writes of 1 MiB. The replicated volume stands behind the front, so
that its figures hold the front too: what the front alone costs, over an engine that keeps an image, is shown between.
Asked for: at least a quarter of the plain engine's rate, replicated.
"""

import argparse
import contextlib
import mmap
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator

from fixtures.systems.replicated_volume import control, engine, replica
from fixtures.systems.replicated_volume.remote import Address
from harness.engine.nbd_server import serve_nbd
from harness.machine import fileops, mounts, syscalls
from harness.machine.image import Image
from harness.machine.sandbox import spawn_init
from harness.settings import Settings
from harness.volume import VolumeSpec
from harness.volume.disks import ServedDisk
from harness.volume.doors import NbdSocket
from harness.volume.foreign import ForeignDisk

_SIZE = 16 << 20
_SPEC = VolumeSpec.of(Settings(size=_SIZE))
_SECONDS = 0.2
_REPLICAS = 3
_NAMES = tuple(f"r{number}" for number in range(_REPLICAS))


def process(name: str, main: Callable[[], None]) -> None:
    """Run it in a child that dies with us, and leads a session, as the recording engine does: no scheduler's group."""
    if os.fork() == 0:
        try:
            syscalls.die_with_parent()
            syscalls.set_process_name(name)
            os.setsid()
            main()
        finally:
            os._exit(0)


@contextlib.contextmanager
def plain(_folder: str) -> Iterator[str]:
    """The recording engine, over memory."""
    with Image.create(_SIZE, "base") as base, ServedDisk(_SPEC, base) as disk:
        yield disk.attach().path


@contextlib.contextmanager
def front_alone(folder: str) -> Iterator[str]:
    """The front, and behind it an engine that keeps an image: the NBD hop, and nothing else."""
    path = f"{folder}/alone"
    with Image.create(_SIZE, "kept") as image, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process("nbd", lambda: serve_nbd(listener, Kept(image)))
        with ForeignDisk(_SPEC, NbdSocket(path)) as disk:
            yield disk.attach().path


class Kept:
    """A backend over an image."""

    def __init__(self, image: Image) -> None:
        self.size = image.size
        self._image = image

    def read(self, offset: int, length: int) -> bytes:
        return self._image.read(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        os.pwrite(self._image.fd, data, offset)

    def flush(self) -> None: ...

    def discard(self, offset: int, length: int) -> None:
        fileops.fallocate(self._image.fd, fileops.FALLOC_PUNCH_HOLE | fileops.FALLOC_KEEP_SIZE, offset, length)

    def close(self) -> None: ...


@contextlib.contextmanager
def replicated(folder: str) -> Iterator[str]:
    """Three replicas on tmpfs, over loopback TCP, behind their engine and the front."""
    endpoint = f"{folder}/engine"
    addresses = [started_replica(f"{folder}/{name}", name) for name in _NAMES]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process("engine", lambda: be_engine(endpoint, addresses, theirs))
        while not isinstance(control.next_reply(ours), control.Listening):
            pass
        with ForeignDisk(_SPEC, NbdSocket(endpoint)) as disk:
            yield disk.attach().path


def started_replica(path: str, name: str) -> Address:
    """A new replica's process; where it listens."""
    replica.create(path, _SIZE, None, name, _NAMES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process(name, lambda: replica.serve(listener, path, variant="fixed", step=lambda _: None))
        address: Address = listener.getsockname()
    return address


def be_engine(endpoint: str, addresses: list[Address], line: socket.socket) -> None:
    engine.serve(
        endpoint,
        list(zip(_NAMES, addresses, strict=True)),
        epoch=1,
        engine_id="bench",
        variant="fixed",
        step=lambda _: None,
        control=line,
        answer_seconds=5.0,
    )


def synchronous(path: str) -> float:
    """Writes of 4 KiB a second, each durable before the next."""
    data = mmap.mmap(-1, 4096)
    data.write(os.urandom(4096))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        os.pwrite(fd, data, count * 37 % (_SIZE >> 12) << 12)
        os.fsync(fd)
        count += 1
    took = time.perf_counter() - began
    os.close(fd)
    return count / took


def sequential(path: str) -> float:
    """MB a second, in writes of 1 MiB over the whole volume, and a flush."""
    data = mmap.mmap(-1, 1 << 20)
    data.write(os.urandom(1 << 20))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    began = time.perf_counter()
    for at in range(0, _SIZE, 1 << 20):
        os.pwrite(fd, data, at)
    os.fsync(fd)
    took = time.perf_counter() - began
    os.close(fd)
    return _SIZE / 1e6 / took


VOLUMES = {"recording engine": plain, "front and one NBD engine": front_alone, "front and 3 replicas": replicated}
Row = tuple[float, float]


def measured(rounds: int) -> dict[str, list[Row]]:
    """All volumes stand at once, and take turns: what else this machine does strikes all alike."""
    found: dict[str, list[Row]] = {kind: [] for kind in VOLUMES}
    folder = mounts.own_folder(mounts.enter_anew())
    with contextlib.ExitStack() as stack:
        paths = {kind: stack.enter_context(volume(folder)) for kind, volume in VOLUMES.items()}
        for path in paths.values():
            sequential(path)  # memory and files are allocated by then, of all alike
        for _ in range(rounds):
            for kind, path in paths.items():
                found[kind].append((synchronous(path), sequential(path)))
    return found


def show(title: str, found: dict[str, Row]) -> None:
    """Rates, and as shares of the first."""
    first, second = next(iter(found.values()))
    print(f"{title:26}{'sync 4 KiB/s':>14}{'ratio':>8}{'1 MiB, MB/s':>14}{'ratio':>8}")
    for kind, (writes, rate) in found.items():
        print(f"{kind:26}{writes:14.0f}{writes / first:8.2f}{rate:14.0f}{rate / second:8.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds

    def life() -> int:
        found = measured(rounds)
        for title, pick in (("median", statistics.median), ("least disturbed round", max)):
            show(
                title,
                {kind: (pick(one for one, _ in rows), pick(two for _, two in rows)) for kind, rows in found.items()},
            )
        return 0

    with spawn_init(life, name="bench") as init:  # all processes end with it
        raise SystemExit(init.wait())


if __name__ == "__main__":
    main()

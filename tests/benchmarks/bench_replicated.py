"""What three replicas cost, beside the recording engine alone: python tests/benchmarks/bench_replicated.py [--rounds N]

All below a loop device on this machine, in turns of a fifth of a second: on ext4, files made, each of 4 KiB and
fsynced; on the device, sequential writes of 1 MiB, and blocks of 4 KiB, each with a flush. Each replica is in a network
namespace of its own. The replicated volume stands behind the front, so that its figures hold the front too: what that
alone costs, over an engine that keeps an image, is shown between.
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
from fixtures.systems.thin_store.memory import MemoryPool
from harness.engine.nbd_server import serve_nbd
from harness.machine import mounts, syscalls
from harness.machine.image import Image
from harness.machine.network import Host, Network
from harness.machine.sandbox import spawn_init
from harness.settings import Settings
from harness.volume import VolumeSpec, make_base
from harness.volume.disks import ServedDisk
from harness.volume.doors import NbdSocket
from harness.volume.foreign import ForeignDisk

_SIZE = 64 << 20
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
def plain(_folder: str, _network: Network) -> Iterator[str]:
    """The recording engine, over memory."""
    with Image.create(_SIZE, "base") as base, ServedDisk(_SPEC, base) as disk:
        yield disk.attach().path


@contextlib.contextmanager
def front_alone(folder: str, _network: Network) -> Iterator[str]:
    """The front, and behind it an engine that keeps an image: the NBD hop, and nothing else."""
    path = f"{folder}/alone"
    with Image.create(_SIZE, "kept") as image, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process("nbd", lambda: serve_nbd(listener, MemoryPool(memoryview(image.map))))
        with ForeignDisk(_SPEC, NbdSocket(path)) as disk:
            yield disk.attach().path


@contextlib.contextmanager
def replicated(folder: str, network: Network) -> Iterator[str]:
    """Three replicas on tmpfs, each on a host of its own, behind their engine and the front."""
    endpoint = f"{folder}/engine"
    addresses = [started_replica(f"{folder}/{name}", name, network.hosts[at]) for at, name in enumerate(_NAMES)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process("engine", lambda: be_engine(endpoint, addresses, theirs))
        while not isinstance(control.next_reply(ours), control.Listening):
            pass
        with ForeignDisk(_SPEC, NbdSocket(endpoint)) as disk:
            yield disk.attach().path


def started_replica(path: str, name: str, host: Host) -> Address:
    """A new replica's process; where it listens."""
    replica.create(path, _SIZE, None, name, _NAMES)
    with host.entered(), socket.create_server((host.address, 0)) as listener:
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


def files(path: str) -> float:
    """Files made, each of 4 KiB and fsynced, a second; on ext4, which is made first and found there later."""
    target = f"{mounts.enter_private_mounts().root}/files-{os.path.basename(path)}"
    os.makedirs(target, exist_ok=True)
    mounts.mount_volume(path, target, "ext4", "noatime")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        with open(f"{target}/{count}", "wb", buffering=0) as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())
        count += 1
    took = time.perf_counter() - began
    for number in range(count):
        os.unlink(f"{target}/{number}")
    syscalls.umount(target)
    return count / took


def format_ext4(path: str, base: Image) -> None:
    """Put a new file system on the device."""
    with open(path, "r+b") as device:
        for offset, length in base.extents():
            device.seek(offset)
            device.write(base.read(offset, length))
        device.flush()
        os.fsync(device.fileno())


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
WORK = {"files/s": files, "1 MiB, MB/s": sequential, "4 KiB + flush/s": synchronous}
Row = tuple[float, ...]


def measured(rounds: int) -> dict[str, list[Row]]:
    """All volumes stand at once, and take turns: what else this machine does strikes all alike."""
    found: dict[str, list[Row]] = {kind: [] for kind in VOLUMES}
    folder = mounts.own_folder(mounts.enter_anew())
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(hosts=_REPLICAS))
        paths = {kind: stack.enter_context(volume(folder, network)) for kind, volume in VOLUMES.items()}
        base = stack.enter_context(make_base(_SPEC))
        for path in paths.values():
            sequential(path)  # memory and files are allocated by then, of all alike
        for _ in range(rounds):
            for kind, path in paths.items():
                format_ext4(path, base)
                found[kind].append(tuple(work(path) for work in WORK.values()))
    return found


def show(title: str, found: dict[str, Row]) -> None:
    """Rates, and as shares of the first."""
    first = next(iter(found.values()))
    print(f"{title:26}" + "".join(f"{what:>16}{'ratio':>7}" for what in WORK))
    for kind, row in found.items():
        print(f"{kind:26}" + "".join(f"{rate:16.0f}{rate / of:7.2f}" for rate, of in zip(row, first, strict=True)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds

    def life() -> int:
        found = measured(rounds)
        for title, pick in (("median", statistics.median), ("least disturbed round", max)):
            show(title, {kind: tuple(map(pick, zip(*rows, strict=True))) for kind, rows in found.items()})
        return 0

    with spawn_init(life, name="bench") as init:  # all processes end with it
        raise SystemExit(init.wait())


if __name__ == "__main__":
    main()

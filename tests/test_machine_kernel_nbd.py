"""The kernel's NBD client: used where this kernel has it; where it has not, that is said, with its remedy.

The machine decides which of the two classes is run. What cannot be tested here is not collected: it passes nowhere.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from kill_support import eventually, none_with

from harness.engine import nbd_protocol
from harness.engine.nbd_server import serve_nbd
from harness.errors import RequirementMissing
from harness.machine import kernel_nbd, requirements
from harness.machine.kernel_nbd import KernelNbd
from harness.machine.requirements import Row, State

pytestmark = pytest.mark.root

SIZE = 16 << 20
BLOCK = 4096
FLAGS = nbd_protocol.HAS_FLAGS | nbd_protocol.SEND_FLUSH | nbd_protocol.SEND_FUA | nbd_protocol.SEND_TRIM
TOKEN = "HARNESS_NBD_TEST"
HAS_NBD = os.path.isdir("/sys/block/nbd0")


class Memory:
    """Blocks in memory that count how often they were flushed."""

    size = SIZE

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.flushes = 0

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data)[offset : offset + length]

    def write(self, offset: int, data: memoryview) -> None:
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushes += 1

    def discard(self, offset: int, length: int) -> None:
        self.data[offset : offset + length] = bytes(length)

    def close(self) -> None: ...


def bound() -> set[str]:
    return {name for name in os.listdir("/sys/block") if os.path.exists(f"/sys/block/{name}/pid")}


@contextlib.contextmanager
def served(blocks: Memory, folder: Path) -> Iterator[socket.socket]:
    """A connection to a server of these blocks, after the handshake."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "nbd"))
        listener.listen()
        server = threading.Thread(target=serve_nbd, args=(listener, blocks))
        server.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "nbd"))
            assert nbd_protocol.greet_server(client)[0] == SIZE
            yield client
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def row() -> Row:
    return next(row for row in requirements.doctor() if row.name == "kernel NBD")


class TestWithoutNbd:
    """What a kernel without it says, and that nothing is pretended."""

    __test__ = not HAS_NBD

    def test_doctor_says_so_with_the_remedy(self) -> None:
        assert row().state is State.OPTIONAL_MISSING
        assert row().detail == "this kernel has no nbd, or its module is not loaded"
        assert "modprobe nbd" in row().remedy

    def test_nothing_is_attached(self) -> None:
        ours, other = socket.socketpair()
        with ours, other:
            fds = set(os.listdir("/proc/self/fd"))
            with pytest.raises(RequirementMissing, match="modprobe nbd"):
                kernel_nbd.attach(ours, SIZE, FLAGS)
            assert set(os.listdir("/proc/self/fd")) == fds


def _use(device: KernelNbd, blocks: Memory) -> None:
    assert os.lseek(device.fd, 0, os.SEEK_END) == SIZE
    assert Path(f"/sys/block/{device.name}/queue/logical_block_size").read_text().strip() == str(BLOCK)
    os.pwrite(device.fd, b"w" * BLOCK, 2 * BLOCK)
    flushes = blocks.flushes
    os.fsync(device.fd)
    assert blocks.data[2 * BLOCK : 3 * BLOCK] == b"w" * BLOCK
    assert blocks.flushes > flushes
    with open(device.path, "rb", buffering=0) as again:
        assert again.read(3 * BLOCK)[2 * BLOCK :] == b"w" * BLOCK


HOLD = """
import socket, sys, threading, time
sys.path.insert(0, "tests")
from test_machine_kernel_nbd import FLAGS, SIZE, Memory
from harness.engine import nbd_protocol
from harness.engine.nbd_server import serve_nbd
from harness.machine import kernel_nbd
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve_nbd, args=(listener, Memory()), daemon=True).start()
client = socket.create_connection(listener.getsockname())
nbd_protocol.greet_server(client)
with kernel_nbd.attach(client, SIZE, FLAGS) as device:
    print(device.name, flush=True)
    time.sleep(60)
"""


class TestWithNbd:
    """The real device."""

    __test__ = HAS_NBD

    def test_doctor_says_so(self) -> None:
        assert (row().state, row().detail) == (State.OK, "")

    def test_what_is_written_to_the_device_reaches_the_server(self, tmp_path: Path) -> None:
        blocks, before = Memory(), bound()
        with served(blocks, tmp_path) as client, kernel_nbd.attach(client, SIZE, FLAGS, block_size=BLOCK) as device:
            assert bound() - before == {device.name}
            _use(device, blocks)
        assert bound() == before

    def test_two_devices_at_once_are_two(self, tmp_path: Path) -> None:
        one, other = Memory(), Memory()
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        with (
            served(one, tmp_path / "one") as first,
            kernel_nbd.attach(first, SIZE, FLAGS) as device,
            served(other, tmp_path / "other") as second,
            kernel_nbd.attach(second, SIZE, FLAGS) as second_device,
        ):
            assert device.path != second_device.path
            os.pwrite(second_device.fd, b"2" * BLOCK, 0)
            os.fsync(second_device.fd)
            assert (one.data[0], other.data[0]) == (0, ord("2"))

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
    def test_a_killed_process_leaves_no_device(self, end: signal.Signals) -> None:
        before, value = bound(), f"{end.name}-{os.getpid()}"
        with subprocess.Popen(
            [sys.executable, "-c", HOLD],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, TOKEN: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as victim:
            assert victim.stdout
            name = victim.stdout.readline().decode().strip()
            assert bound() - before == {name}
            victim.send_signal(end)
        assert eventually(partial(none_with, f"{TOKEN}={value}"))
        assert eventually(lambda: name not in bound())
        assert Path(f"/sys/block/{name}/size").read_text().strip() == "0"

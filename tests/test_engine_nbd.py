"""Our NBD, held against programs that nobody here wrote: QEMU's client and QEMU's server."""

import contextlib
import errno
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from door_support import Store, nbd_engine
from volume_support import SECONDS, eventually, place

from harness.engine import nbd_protocol as nbd
from harness.engine.nbd_client import NbdBackend
from harness.machine import process
from harness.machine.image import Image

pytestmark = pytest.mark.root

SIZE = 4 << 20
PAUSE_SECONDS = 0.06  # longer than the client waits at one go


@pytest.fixture
def image() -> Iterator[Image]:
    with Image.create(SIZE, "nbd") as made:
        made.map[:] = random.Random(0).randbytes(SIZE)
        yield made


@pytest.fixture
def path() -> str:
    return f"{place('nbd')}/socket"


@contextlib.contextmanager
def qemu_nbd(path: str, file: str, *options: str) -> Iterator[None]:
    argv = [*process.leash(), "qemu-nbd", "--persistent", "--format=raw", f"--socket={path}", *options, file]
    server = subprocess.Popen(argv)
    try:
        eventually(lambda: os.path.exists(path), "qemu-nbd does not serve")
        yield
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait(SECONDS)
        os.unlink(path)


def test_qemu_reads_and_writes_what_we_serve(path: str, image: Image, tmp_path: Path) -> None:
    url = f"nbd+unix:///?socket={path}"
    copy = tmp_path / "copy"
    with nbd_engine(path, Store(image)):
        process.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", url, str(copy)])
        assert copy.read_bytes() == image.map[:]
        new = random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2)
        copy.write_bytes(new)
        process.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(copy), url])
        assert image.map[:] == new
        process.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", str(copy), url])


def test_we_read_and_write_what_qemu_serves(path: str, image: Image, tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(image.map[:])
    with qemu_nbd(path, str(file)):
        backend = NbdBackend(path)
        assert backend.size == SIZE
        assert bytes(backend.read(4096, 1 << 20)) == image.read(4096, 1 << 20)
        backend.write(8192, memoryview(b"x" * 4096))
        backend.flush()
        backend.discard(1 << 20, 1 << 20)
        backend.close()
    found = file.read_bytes()
    assert found[8192:12288] == b"x" * 4096 and found[1 << 20 : 2 << 20] == bytes(1 << 20)


def test_an_export_that_can_only_be_read_or_is_not_there_is_refused(path: str, tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(SIZE))
    with qemu_nbd(path, str(file), "--read-only"), pytest.raises(OSError) as caught:
        NbdBackend(path)
    assert caught.value.errno == errno.EROFS
    with qemu_nbd(path, str(file), "--export-name=one"):
        with pytest.raises(OSError, match="no export 'other'"):
            NbdBackend(path, export="other")
        NbdBackend(path, export="one").close()


def test_an_error_of_the_engine_is_told_and_the_connection_goes_on(path: str, image: Image) -> None:
    refusing = Store(image, lambda request, offset: errno.ENOSPC if (request, offset) == ("write", 0) else 0)
    with nbd_engine(path, refusing):
        backend = NbdBackend(path)
        with pytest.raises(OSError) as caught:
            backend.write(0, memoryview(bytes(4096)))
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as caught:
            backend.read(SIZE, 4096)
        assert caught.value.errno == errno.EINVAL
        assert bytes(backend.read(0, 4096)) == image.read(0, 4096)
        backend.close()


def test_fua_is_a_flush_before_the_answer(path: str, image: Image) -> None:
    refusing = Store(image, lambda request, _: errno.EIO if request == "flush" else 0)
    with nbd_engine(path, refusing), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert nbd.greet_server(client) == (SIZE, nbd.OFFERED)
        for flags, wanted in ((0, 0), (nbd.FLAG_FUA, errno.EIO)):
            head = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, nbd.WRITE, 7, 0, 512)
            client.sendall(head + bytes(512))
            assert nbd.SIMPLE_REPLY.unpack(client.recv(16)) == (nbd.REPLY_MAGIC, wanted, 7)


def test_garbage_costs_the_connection_and_nothing_else(path: str, image: Image) -> None:
    chance = random.Random(7)
    option = struct.pack(">8sII", b"IHAVEOPT", 7, 1 << 31)
    openings = [b"", b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 3) + option, struct.pack(">I", 3) + bytes(16)]
    with nbd_engine(path, Store(image)):
        for opening in [*openings, *(chance.randbytes(chance.randrange(200)) for _ in range(50))]:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(opening)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(SECONDS)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(4096):
                        pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            nbd.greet_server(client)
            client.sendall(bytes(nbd.REQUEST.size))
            assert client.recv(1) == b""
        backend = NbdBackend(path)
        assert bytes(backend.read(0, 4096)) == image.read(0, 4096)
        backend.close()


def test_a_slow_engine_is_given_up(path: str, image: Image) -> None:
    with nbd_engine(path, Store(image)) as pid:
        backend = NbdBackend(path, answer_seconds=0.05)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(OSError) as caught:
            backend.read(0, 4096)
        assert caught.value.errno == errno.EIO
        os.kill(pid, signal.SIGCONT)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return bytes(backend.read(0, 4096)) == image.read(0, 4096)
            return False

        eventually(answers, "the engine is back, and not asked again")
        backend.close()


def test_an_answer_that_comes_piece_by_piece_is_taken_whole(path: str) -> None:
    """An engine that is not given a processor for a while has not ended."""
    data = random.Random(2).randbytes(1 << 16)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def speak() -> None:
            client, _ = listener.accept()
            nbd.greet_client(client, SIZE)
            *_, cookie, _, _ = nbd.REQUEST.unpack(client.recv(nbd.REQUEST.size))
            answer = nbd.SIMPLE_REPLY.pack(nbd.REPLY_MAGIC, 0, cookie) + data
            for at, end in ((0, 7), (7, 20), (20, 4000), (4000, len(answer))):
                time.sleep(PAUSE_SECONDS)
                client.sendall(answer[at:end])
            client.close()

        talker = threading.Thread(target=speak)
        talker.start()
        backend = NbdBackend(path, answer_seconds=SECONDS)
        assert bytes(backend.read(0, len(data))) == data
        backend.close()
        talker.join(SECONDS)
    os.unlink(path)

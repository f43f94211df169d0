"""SIGKILL of the engine at any instant: the writer gets EIO, and the log holds all that was ever acknowledged."""

import contextlib
import errno
import mmap
import os
import random
import signal
import threading
import time

import pytest

from harness.blocklog import Kind
from harness.engine import Engine, start_engine
from harness.errors import EngineLost
from harness.machine import loop, mounts
from harness.machine.image import Image
from harness.machine.process import wait_readable

pytestmark = pytest.mark.root

_BLOCK = 4096
_SIZE = 4 << 20


class Writer(threading.Thread):
    """Writes numbered blocks, promises each after its fsync, and keeps count of what was acknowledged."""

    def __init__(self, engine: Engine, fd: int) -> None:
        super().__init__()
        self.promises = os.open(engine.promise_path, os.O_WRONLY)
        self.fd = fd
        self.written = self.promised = 0
        self.error: OSError | None = None

    def run(self) -> None:
        block = mmap.mmap(-1, _BLOCK)
        number = 0
        try:
            while True:
                block[:8] = number.to_bytes(8, "little")
                os.pwritev(self.fd, [block], number * _BLOCK % _SIZE)
                self.written = number + 1
                os.fsync(self.fd)
                os.write(self.promises, b"%d\n" % number)
                self.promised = number + 1
                number += 1
        except OSError as error:
            self.error = error


@pytest.mark.parametrize("seed", range(10))
def test_sigkill_at_any_instant_leaves_a_readable_log_with_all_that_was_acknowledged(seed: int) -> None:
    workspace = mounts.enter_private_mounts()
    with (
        Image.create(_SIZE, "base") as base,
        start_engine(base, log_max=64 << 20, sector_size=_BLOCK, mount_dir=workspace.engine) as engine,
    ):
        disk = os.open(engine.disk_path, os.O_RDWR)
        with loop.attach(disk, sector_size=_BLOCK, direct_io=True) as device:
            os.close(disk)
            fd = os.open(device.path, os.O_RDWR | os.O_DIRECT)
        writer = Writer(engine, fd)
        writer.start()
        time.sleep(random.Random(seed).uniform(0.0, 0.05))  # an instant of the workload, not a wait for anything
        os.kill(engine.pid, signal.SIGKILL)
        writer.join(10)
        assert not writer.is_alive()
        assert writer.error is not None
        assert writer.error.errno in (errno.EIO, errno.ECONNABORTED, errno.ENOTCONN)
        assert isinstance(engine.trouble(), EngineLost)
        with pytest.raises(EngineLost):
            engine.mark(b"end")
        os.close(fd)
        with contextlib.suppress(OSError):  # close(2) says that the engine is gone, and closes it
            os.close(writer.promises)
        engine.kill()
        assert "SIGKILL" in str(engine.trouble())
        assert not os.path.exists(engine.promise_path)
        log = engine.parsed()
        blocks = [bytes(log.data(event)[:8]) for event in log.events if event.kind is Kind.WRITE]
        assert blocks == [number.to_bytes(8, "little") for number in range(len(blocks))]
        assert writer.written <= len(blocks) <= writer.written + 1
        lines = [made.line for made in log.promises()]
        assert lines == [b"%d" % number for number in range(len(lines))]
        assert writer.promised <= len(lines) <= writer.promised + 1


def test_an_engine_ends_with_the_process_that_started_it() -> None:
    workspace = mounts.enter_private_mounts()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        mounts.unshare_again()
        with Image.create(_SIZE, "base") as base:
            engine = start_engine(base, log_max=1 << 20, sector_size=_BLOCK, mount_dir=workspace.engine)
            os.write(tell, engine.pid.to_bytes(4, "little"))
            signal.pause()
    engine_pid = int.from_bytes(os.read(told, 4), "little")
    gone = os.pidfd_open(engine_pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert wait_readable(gone, 10.0)
    for fd in (gone, told, tell):
        os.close(fd)

"""The log holds exactly what the device was asked to do, in the order in which it was asked."""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import random
import re
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from harness.blocklog import BlockLog, Event, Kind
from harness.engine import Engine, start_engine
from harness.errors import BoundExceeded, EngineLost
from harness.machine import loop, mounts
from harness.machine.image import Image

pytestmark = pytest.mark.root

_MIB = 1 << 20
_BLKDISCARD = 0x1277
_RELEASE_SECONDS = 10.0

Token = tuple[object, ...]


class Rig(NamedTuple):
    """An engine with a loop device on its disk; `fd` is the device, open for direct I/O."""

    base: Image
    engine: Engine
    fd: int


@contextlib.contextmanager
def rig(*, size: int = 8 * _MIB, log_max: int = 64 * _MIB, sector: int = 4096, fill: bytes = b"") -> Iterator[Rig]:
    with Image.create(size, "base") as base, contextlib.ExitStack() as stack:
        base.map[: len(fill)] = fill
        workspace = mounts.enter_private_mounts()
        engine = stack.enter_context(
            start_engine(base, log_max=log_max, sector_size=sector, mount_dir=workspace.engine)
        )
        disk = os.open(engine.disk_path, os.O_RDWR)
        device = loop.attach(disk, sector_size=sector, direct_io=True)
        os.close(disk)
        fd = os.open(device.path, os.O_RDWR | os.O_DIRECT)
        device.close()
        try:
            yield Rig(base, engine, fd)
        finally:
            os.close(fd)
            assert engine.await_release(_RELEASE_SECONDS) or not engine.alive or engine.status.full


def aligned(data: bytes) -> mmap.mmap:
    """Page-aligned memory, which O_DIRECT wants."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


def put(fd: int, offset: int, data: bytes) -> None:
    assert os.pwritev(fd, [aligned(data)], offset) == len(data)


def get(fd: int, offset: int, length: int) -> bytes:
    memory = mmap.mmap(-1, length)
    assert os.preadv(fd, [memory], offset) == length
    return memory[:]


def discard(fd: int, offset: int, length: int) -> None:
    fcntl.ioctl(fd, _BLKDISCARD, struct.pack("<QQ", offset, length))


def promise(engine: Engine, data: bytes) -> None:
    fd = os.open(engine.promise_path, os.O_WRONLY)
    try:
        assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def replay(base: Image, log: BlockLog, events: list[Event]) -> bytes:
    disk = bytearray(base.read(0, base.size))
    for event in events:
        if event.kind is Kind.WRITE:
            disk[event.offset : event.offset + event.length] = log.data(event)
        elif event.kind is Kind.DISCARD:
            disk[event.offset : event.offset + event.length] = bytes(event.length)
    return bytes(disk)


def tokens_of(log: BlockLog, sector: int) -> list[Token]:
    """The events between the marks begin and end, in units of one sector: the block layer may cut requests."""
    texts = {mark.at: mark.text for mark in log.marks}
    first, last = log.find(b"begin"), log.find(b"end")
    assert first is not None and last is not None
    found: list[Token] = []
    for at in range(first + 1, last):
        event = log.events[at]
        steps = range(event.offset, event.offset + event.length, sector)
        if event.kind is Kind.WRITE:
            data = bytes(log.data(event))
            found += [("write", step, data[step - event.offset :][:sector]) for step in steps]
        elif event.kind is Kind.DISCARD:
            found += [("discard", step) for step in steps]
        else:
            found.append(("flush",) if event.kind is Kind.FLUSH else ("mark", texts[at]))
    return found


def do_one(random_: random.Random, at: Rig, model: bytearray, sector: int) -> list[Token]:
    """One random request, and the tokens that it must leave."""
    length = random_.choice([1, 1, 2, 7, 64]) * sector
    offset = random_.randrange(0, len(model) - length, sector)
    steps = range(offset, offset + length, sector)
    match random_.choice(["write", "write", "write", "flush", "discard", "promise", "mark"]):
        case "write":
            data = random_.randbytes(length)
            put(at.fd, offset, data)
            model[offset : offset + length] = data
            return [("write", step, data[step - offset :][:sector]) for step in steps]
        case "discard":
            discard(at.fd, offset, length)
            model[offset : offset + length] = bytes(length)
            return [("discard", step) for step in steps]
        case "flush":
            os.fsync(at.fd)
            return [("flush",)]
        case "promise":
            text = random_.randbytes(9).replace(b"\n", b"-")
            promise(at.engine, text + b"\n")
            return [("mark", b"promise:" + text)]
        case _:
            at.engine.mark(b"json:1")
            return [("mark", b"json:1")]


@pytest.mark.parametrize("sector", [512, 4096])
def test_every_request_is_logged_in_the_order_in_which_it_was_made(sector: int) -> None:
    random_ = random.Random(sector)
    fill = random_.randbytes(_MIB)
    with rig(sector=sector, fill=fill) as at:
        model = bytearray(at.base.read(0, at.base.size))
        at.engine.mark(b"begin")
        expected = [do_one(random_, at, model, sector) for _ in range(400)]
        at.engine.mark(b"end")
        log = at.engine.parsed()
        found = tokens_of(log, sector)
        for tokens in expected:  # the cuts of one large request may be in flight together
            assert sorted(found[: len(tokens)], key=repr) == sorted(tokens, key=repr)
            del found[: len(tokens)]
        assert found == []
        assert get(at.fd, 0, len(model)) == bytes(model) == replay(at.base, log, log.events)
        assert at.base.read(0, _MIB) == fill
        assert at.base.extents() == [(0, _MIB)], "reading must not fill the holes of the base"
        assert at.engine.status.bytes == log.size and at.engine.status.entries == log.entries


def test_no_page_cache_stands_between_the_disk_file_and_the_engine() -> None:
    with rig() as at, open(at.engine.disk_path, "r+b", buffering=0) as file:
        assert file.read(4096) == bytes(4096)
        put(at.fd, 0, b"a" * 4096)
        assert os.pread(file.fileno(), 4096, 0) == b"a" * 4096
        os.pwrite(file.fileno(), b"b" * 4096, 0)
        log = at.engine.parsed()
        assert [bytes(log.data(event)[:1]) for event in log.events if event.kind is Kind.WRITE] == [b"a", b"b"]
        assert get(at.fd, 0, 4096) == b"b" * 4096
        with pytest.raises(OSError):
            os.pwrite(file.fileno(), b"not a whole block", 0)


def test_promises_are_bytes_of_any_kind_and_length() -> None:
    lines = [b"", b"a\0b", b"\xff\xfe", random.Random(1).randbytes(3 * _MIB).replace(b"\n", b" "), b"last"]
    with rig() as at:
        promise(at.engine, b"\n".join(lines))  # the last one has no newline: closing the file completes it
        assert [found.raw for found in at.engine.parsed().promises()] == lines


def test_an_unfinished_line_waits_for_its_own_handle() -> None:
    with rig() as at:
        one, two = (os.open(at.engine.promise_path, os.O_WRONLY | os.O_APPEND) for _ in range(2))
        os.write(one, b"one ")
        os.write(two, b"two\n")
        os.write(one, b"more\nrest")
        os.close(two)
        os.close(one)
        command = f"echo done-1 > {at.engine.promise_path}; printf 'x\\ny' >> {at.engine.promise_path}"
        subprocess.run(["sh", "-c", command], check=True)
        found = [made.line for made in at.engine.parsed().promises()]
        assert found == [b"two", b"one more", b"rest", b"done-1", b"x", b"y"]


def test_any_user_may_promise_and_only_root_sees_the_disk() -> None:
    with rig() as at:
        as_nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        shell = ["sh", "-c", f"echo mine > {at.engine.promise_path}"]
        subprocess.run(shell, check=True, **as_nobody)  # type: ignore[call-overload]
        shell = ["sh", "-c", f"cat {at.engine.disk_path} || echo > {at.engine.mount_dir}/mark"]
        denied = subprocess.run(shell, capture_output=True, **as_nobody)  # type: ignore[call-overload]
        assert denied.returncode and denied.stderr.count(b"ermission denied") == 2
        with open(at.engine.promise_path, "rb") as file:
            assert file.read() == b""
        with pytest.raises(FileNotFoundError):
            os.stat(f"{at.engine.mount_dir}/other")
        with pytest.raises(OSError):
            os.open(f"{at.engine.mount_dir}/other", os.O_CREAT | os.O_WRONLY)
        assert [made.line for made in at.engine.parsed().promises()] == [b"mine"]


def test_marks_from_threads_arrive_whole() -> None:
    texts = [json.dumps({"n": n, "text": "x\n" * (n * 50_000)}).encode() for n in range(12)]
    with rig() as at:
        threads = [threading.Thread(target=at.engine.mark, args=(b"json:" + text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made.raw for made in at.engine.parsed().promises()) == sorted(texts)


def test_a_full_log_refuses_this_write_and_everything_after_it() -> None:
    with rig(log_max=_MIB) as at:
        with pytest.raises(OSError) as refused:
            for number in range(16):
                put(at.fd, number * 4096, bytes([number]) * (300 << 10))
        assert refused.value.errno == errno.EIO
        size = at.engine.parsed().size
        for length in (4096, 512 << 10):
            with pytest.raises(OSError):
                put(at.fd, 0, bytes(length))
        with pytest.raises(OSError):
            os.fsync(at.fd)
        with pytest.raises(BoundExceeded, match="1M"):
            at.engine.mark(b"end")
        with pytest.raises(OSError) as refused:
            promise(at.engine, b"x\n")
        assert refused.value.errno == errno.ENOSPC
        log = at.engine.parsed()
        assert log.size == size < _MIB - 8192, "what would still fit is refused too: nothing may follow a gap"
        assert isinstance(at.engine.trouble(), BoundExceeded)
        assert replay(at.base, log, log.events) == get(at.fd, 0, at.base.size)


def test_signals_for_the_harness_do_not_stop_the_engine_and_it_holds_nothing_of_ours() -> None:
    with rig() as at:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(at.engine.pid, number)
        put(at.fd, 0, b"x" * 4096)
        fds = {os.readlink(f"/proc/{at.engine.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{at.engine.pid}/fd")}
        wanted = {"/dev/null", "/dev/fuse", "/memfd:crash-harness:base", "pipe"}
        fds = {re.sub(r":\[\d+\]|:[0-9a-f]{8} \(deleted\)", "", fd) for fd in fds}  # a pipe, for news of faults
        assert fds - {"/dev/cpu_dma_latency"} == wanted  # the request to stay awake, where the kernel takes it
        with open(f"/proc/{at.engine.pid}/comm", encoding="ascii") as comm:
            assert comm.read() == "harness-engine\n"
    assert at.engine.exit_status == 0 and at.engine.trouble() is None


def test_an_engine_that_cannot_start_says_why() -> None:
    with Image.create(_MIB, "base") as base, pytest.raises(EngineLost, match="No such file"):
        start_engine(base, log_max=_MIB, sector_size=4096, mount_dir="/nonexistent")

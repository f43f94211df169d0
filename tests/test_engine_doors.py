"""The doors for engines: who serves a volume over NBD, as a file, or in Python, behind our recording engine."""

import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest
from door_support import Store, nbd_engine
from volume_support import DATA, EXT4, SECONDS, bound, eventually, fresh, mount_point, place, write

from harness.blocklog import Kind
from harness.engine.rules import Rule
from harness.errors import EngineLost, Misuse
from harness.faults import At, Eio, EngineKill, EngineStop, Target, injected
from harness.machine import fileops, syscalls
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.volume.doors import Blocks, Door, ExportedFile, NbdSocket
from harness.volume.foreign import ForeignDisk
from harness.volume.recorded import mount_device

pytestmark = pytest.mark.root

LABEL = "door"


@pytest.fixture
def target() -> Iterator[str]:
    with mount_point("door") as path:
        yield path
    eventually(lambda: not bound(LABEL), "the device is still bound")


def sockets() -> str:
    return place("sockets")


def disk_of(door: Door, process: int = 0) -> ForeignDisk:
    return ForeignDisk(EXT4, door, process=process, log_max=64 << 20, label=LABEL)


def mounted(disk: ForeignDisk, target: str) -> None:
    disk.attach()
    mount_device(disk.attached, target, EXT4)


def kept(door: Door, target: str) -> list[Kind]:
    """What a mount, a file and an unmount came to, through this door; the file is there at the next attachment."""
    with disk_of(door) as disk:
        mounted(disk, target)
        write(f"{target}/file")
        disk.engine.mark(b"written")
        syscalls.umount(target)
        disk.detach()
        mounted(disk, target)
        with open(f"{target}/file", "rb") as file:
            assert file.read() == DATA
        syscalls.umount(target)
        disk.detach()
        return [event.kind for event in disk.logs[0].events]


def test_a_volume_lives_behind_each_door(target: str) -> None:
    with fresh() as image:
        with nbd_engine(f"{sockets()}/one", Store(image)):
            recorded = kept(NbdSocket(f"{sockets()}/one"), target)
        assert {Kind.WRITE, Kind.FLUSH, Kind.MARK} <= set(recorded)
    with fresh() as image:
        assert kept(Blocks(lambda: Store(image), frozenset({image.fd})), target)
    path = f"{place('files')}/export"
    with fresh() as image, open(path, "wb") as file:
        file.write(image.map[:])
    assert kept(ExportedFile(path), target)
    os.unlink(path)


def test_what_a_backend_refuses_is_the_answer_and_is_not_recorded() -> None:
    def refuses(request: str, offset: int) -> int:
        return {"write": errno.ENOSPC, "read": errno.EIO}.get(request, 0) if offset == 4096 else 0

    with Image.create(1 << 20, "store") as image:
        door = Blocks(lambda: Store(image, refuses), frozenset({image.fd}))
        with disk_of(door) as disk:
            fd = os.open(disk.attach().path, os.O_RDWR | os.O_DIRECT)
            memory = memoryview(bytearray(b"x" * 4096))
            with Image.create(4096, "aligned") as aligned:
                aligned.map[:] = memory
                assert os.pwritev(fd, [aligned.map], 8192) == 4096
                with pytest.raises(OSError) as caught:
                    os.pwritev(fd, [aligned.map], 4096)
                assert caught.value.errno == errno.ENOSPC
                with pytest.raises(OSError) as caught:
                    os.preadv(fd, [aligned.map], 4096)
                assert caught.value.errno == errno.EIO
            os.close(fd)
            writes = [event.offset for event in disk.log().events if event.kind is Kind.WRITE]
            assert writes == [8192] and image.read(8192, 4096) == bytes(memory)


def test_discards_and_unaligned_reads_go_through() -> None:
    with Image.create(4 << 20, "store") as image, disk_of(NbdSocket(f"{sockets()}/one")) as disk:
        image.map[:] = os.urandom(4096) * 1024
        wanted = bytes(image.map)
        with nbd_engine(f"{sockets()}/one", Store(image)):
            disk.attach()
            assert bytes(disk.medium().map) == wanted
            fd = os.open(disk.engine.disk_path, os.O_RDWR)
            assert os.pread(fd, 5000, 700) == wanted[700:5700]
            assert os.pread(fd, 1 << 20, 512) == wanted[512 : (1 << 20) + 512]
            os.close(fd)
            fd = os.open(disk.attached.path, os.O_RDWR)
            fileops.fallocate(fd, fileops.FALLOC_PUNCH_HOLE | fileops.FALLOC_KEEP_SIZE, 1 << 20, 1 << 20)
            os.close(fd)
            assert image.read(1 << 20, 1 << 20) == bytes(1 << 20)
            assert Kind.DISCARD in [event.kind for event in disk.log().events]
            disk.detach()


def test_an_engine_that_is_killed_is_told_from_a_front_that_is(target: str) -> None:
    with fresh() as image, nbd_engine(f"{sockets()}/one", Store(image)) as pid, KernelLog() as kernel:
        with disk_of(NbdSocket(f"{sockets()}/one"), pid) as disk:
            mounted(disk, target)
            write(f"{target}/file")
            disk.kill_engine()
            with pytest.raises(OSError) as caught:
                write(f"{target}/more")
            assert caught.value.errno in (errno.EIO, errno.EROFS)
            assert disk.engine.alive, "the front goes on, and says EIO"
            syscalls.umount(target, syscalls.MNT_DETACH)
            name = disk.attached.name
            disk.detach()
        assert any("I/O error" in line for line in kernel.lines(name))


def test_a_request_waits_for_the_engine_that_comes_back(target: str) -> None:
    path = f"{sockets()}/one"
    with fresh() as image, disk_of(NbdSocket(path, grace_seconds=SECONDS)) as disk:
        with nbd_engine(path, Store(image)) as pid:
            disk.process = pid
            mounted(disk, target)
            disk.kill_engine()
            writer = threading.Thread(target=write, args=(f"{target}/file",))
            writer.start()
        with nbd_engine(path, Store(image)):
            writer.join(SECONDS)
            assert not writer.is_alive()
            with open(f"{target}/file", "rb") as file:
                assert file.read() == DATA
            syscalls.umount(target)
            disk.detach()


def test_a_live_upgrade_is_seen_by_nobody(target: str) -> None:
    old, new = f"{sockets()}/old", f"{sockets()}/new"
    with (
        fresh() as image,
        nbd_engine(old, Store(image)) as first,
        nbd_engine(new, Store(image)) as second,
        disk_of(NbdSocket(old), first) as disk,
    ):
        mounted(disk, target)
        write(f"{target}/before")
        with pytest.raises(EngineLost):
            disk.switch(f"{sockets()}/nobody", 0)
        write(f"{target}/still")
        disk.switch(new, second)
        os.kill(first, signal.SIGKILL)
        write(f"{target}/after")
        syscalls.umount(target)
        disk.detach()


def test_an_engine_that_hangs_is_left_in_the_middle_of_a_request(target: str) -> None:
    old, new = f"{sockets()}/old", f"{sockets()}/new"
    with (
        fresh() as image,
        nbd_engine(old, Store(image)) as first,
        nbd_engine(new, Store(image)) as second,
        disk_of(NbdSocket(old), first) as disk,
    ):
        mounted(disk, target)
        disk.halt_engine()
        writer = threading.Thread(target=write, args=(f"{target}/file",))
        writer.start()
        disk.switch(new, second)
        writer.join(SECONDS)
        assert not writer.is_alive()
        os.kill(first, signal.SIGCONT)
        syscalls.umount(target)
        disk.detach()


def test_faults_go_through_the_door(target: str) -> None:
    with (
        fresh() as image,
        nbd_engine(f"{sockets()}/one", Store(image)) as pid,
        disk_of(NbdSocket(f"{sockets()}/one"), pid) as disk,
    ):
        mounted(disk, target)
        at = Target(disk=disk, mount=target)
        with injected(Eio(at=At.write(1)), at) as unknown, pytest.raises(OSError):
            write(f"{target}/file")
        assert not [finding for finding in unknown if "never" in finding.summary]
        syscalls.umount(target, syscalls.MNT_DETACH)
        disk.detach()
        mounted(disk, target)
        at = Target(disk=disk, mount=target)
        stop = EngineStop()
        stop.inject(at)
        writer = threading.Thread(target=write, args=(f"{target}/late",))
        writer.start()
        assert stop.await_hit(at, SECONDS)
        stop.heal(at)
        writer.join(SECONDS)
        assert not writer.is_alive()
        with pytest.raises(Misuse, match="not ours to see"):
            EngineKill(at=At.write(1), done=True).inject(Target(disk=disk, mount=target))
        kill = EngineKill(at=At.write(2))
        at = Target(disk=disk, mount=target)
        kill.inject(at)
        with pytest.raises(OSError):
            write(f"{target}/lost")
        assert kill.hits(at) == 1 and disk.engine.alive
        kill.heal(at)
        syscalls.umount(target, syscalls.MNT_DETACH)
        disk.detach()


def test_rules_of_the_front_hold_before_the_engine_is_asked() -> None:
    with Image.create(1 << 20, "store") as image, disk_of(Blocks(lambda: Store(image), frozenset({image.fd}))) as disk:
        disk.attach((Rule(action="drop", on="write"),))
        fd = os.open(disk.engine.disk_path, os.O_RDWR)
        os.pwrite(fd, b"x" * 4096, 0)
        os.pwrite(fd, b"y" * 4096, 4096)
        os.close(fd)
        assert image.read(0, 8192) == bytes(4096) + b"y" * 4096


def test_a_door_behind_which_nobody_is_says_so() -> None:
    for door in (NbdSocket(f"{sockets()}/nobody"), ExportedFile(f"{sockets()}/nobody")):
        with disk_of(door) as disk, pytest.raises(EngineLost, match=r"cannot be reached: .*No such file"):
            disk.attach()


def test_an_engine_that_speaks_something_else_is_refused() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{sockets()}/other")
    listener.listen()

    def speak() -> None:
        client, _ = listener.accept()
        client.sendall(b"HTTP/1.1 200 OK and so on\r\n")
        with contextlib.suppress(ConnectionResetError):
            client.recv(100)
        client.close()

    talker = threading.Thread(target=speak, daemon=True)
    talker.start()
    with disk_of(NbdSocket(f"{sockets()}/other")) as disk, pytest.raises(EngineLost, match="not an NBD server"):
        disk.attach()
    talker.join(SECONDS)
    listener.close()
    os.unlink(f"{sockets()}/other")

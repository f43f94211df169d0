"""A replica whose disk is full or fails, or whose process is killed between the data and the counter."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from replica_support import A, B, made, opened, refused
from volume_support import EXT4, fresh, mount_point

from fixtures.systems.replicated_volume import history, wire
from fixtures.systems.replicated_volume.chain import flatten
from fixtures.systems.replicated_volume.history import Delete, Discard, Operation, Snapshot, Write
from fixtures.systems.replicated_volume.meta import read_meta
from fixtures.systems.replicated_volume.solo import Client, Kill, ReplicaProcess
from fixtures.systems.replicated_volume.volume import read_counter
from fixtures.systems.replicated_volume.wire import BLOCK
from harness.engine.rules import Rule
from harness.machine import syscalls
from harness.volume.disks import ServedDisk
from harness.volume.recorded import mount_device

pytestmark = pytest.mark.root

MS_REMOUNT = 32


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[str]:
    """A tmpfs, with the options that the test gives."""
    with mount_point("replica") as path:
        syscalls.mount("replica", path, "tmpfs", options=request.param)
        yield path


@pytest.fixture
def served() -> Iterator[tuple[str, ServedDisk]]:
    """ext4 on a disk that can be told to fail."""
    with fresh() as base, ServedDisk(EXT4, base, log_max=64 << 20, label="replica") as disk:
        device = disk.attach()
        with mount_point("replica-served") as path:
            mount_device(device, path, EXT4)
            yield path, disk


@pytest.mark.parametrize("disk", ["size=256k"], indirect=True)
def test_a_full_disk_is_answered_and_remembered(disk: str) -> None:
    folder = made(disk)
    with opened(folder) as (_, client):
        client.write(0, A)
        with open(f"{disk}/ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(bytes(BLOCK)):
                pass
        with refused(errno.ENOSPC):
            client.write(40 * BLOCK, B)
        state = client.state()
        assert (state.mode, state.reason) == ("ERR", "ENOSPC: No space left on device")
        for request in (lambda: client.write(0, B), lambda: client.read(0, BLOCK), client.flush):
            with refused(errno.EIO, "the replica failed: ENOSPC"):
                request()
        os.unlink(f"{disk}/ballast")
        client.call(wire.SetMode("WO"))
        assert client.read(0, BLOCK) == A and client.read(40 * BLOCK, BLOCK) == bytes(BLOCK)
        client.write(40 * BLOCK, B)
        client.call(wire.SetMode("RW"))
    meta = read_meta(folder)
    assert (meta.mode, meta.reason) == ("RW", "")


OPERATIONS: tuple[Operation, ...] = (Write(0, 20, 2), Snapshot("a"), Write(3, 4, 3), Discard(5, 3), Delete("a"))


@pytest.mark.parametrize("disk", [f"nr_inodes={count}" for count in (7, 8)], indirect=True)
def test_a_snapshot_that_fails_half_way_costs_nothing(disk: str) -> None:
    folder = made(disk)
    with opened(folder) as (_, client):
        history.tell(client, OPERATIONS[0])
        with refused(errno.ENOSPC):
            history.tell(client, OPERATIONS[1])
        history.verify(folder, OPERATIONS, 1, 1, 2)
        syscalls.mount("replica", disk, "tmpfs", MS_REMOUNT, "nr_inodes=100")
        client.call(wire.SetMode("RW"))
        for operation in OPERATIONS[1:]:
            history.tell(client, operation)
        history.verify(folder, OPERATIONS, *[len(OPERATIONS)] * 3)
        assert len(os.listdir(folder)) == 3


@pytest.mark.parametrize("disk", ["size=512k"], indirect=True)
def test_a_deletion_that_cannot_go_on_at_the_start_goes_on_later(disk: str) -> None:
    folder = made(disk)
    with opened(folder, kill=Kill("delete:meta-durable")) as (process, client):
        for operation in OPERATIONS[:-1]:
            history.tell(client, operation)
        with pytest.raises(ConnectionError):
            client.delete("a")
        process.wait()
    with open(f"{disk}/ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(BLOCK)):
            pass
    with ReplicaProcess(folder) as process, Client(process.address) as client:
        assert client.state().reason.startswith("ENOSPC")
        history.verify(folder, OPERATIONS, *[len(OPERATIONS)] * 3)
        os.unlink(f"{disk}/ballast")
        client.open(2, "e2")
        client.call(wire.SetMode("RW"))
        history.verify(folder, OPERATIONS, *[len(OPERATIONS)] * 3)
        assert len(read_meta(folder).chain) == 1


@pytest.mark.parametrize("again", ["told to go on", "killed and started again"])
def test_after_a_failed_flush_what_is_read_is_what_the_medium_has(served: tuple[str, ServedDisk], again: str) -> None:
    """The kernel marks a page clean whose writeback failed: fsync(2) says so once, and the cache is wrong since."""
    path, disk = served
    folder = made(path)
    with opened(folder) as (process, client):
        client.write(30 * BLOCK, A)
        client.flush()
        client.write(30 * BLOCK, B)
        disk.engine.arm([Rule(action="error", on="write")])
        with refused(errno.EIO):
            client.flush()
        assert client.state().mode == "ERR"
        if again == "told to go on":
            client.call(wire.SetMode("WO"))
            assert client.read(30 * BLOCK, BLOCK) == A
            return
        process.kill()
    assert read_meta(folder).mode == "ERR"
    with opened(folder, epoch=2) as (_, client):
        assert client.state().reason.startswith("EIO")
        with refused(errno.EIO):
            client.read(30 * BLOCK, BLOCK)
        client.call(wire.SetMode("WO"))
        assert client.read(30 * BLOCK, BLOCK) == A


def test_a_read_that_fails_is_answered_and_remembered(served: tuple[str, ServedDisk]) -> None:
    path, disk = served
    folder = made(path)
    with opened(folder) as (process, client):
        client.write(30 * BLOCK, A)
        client.flush()
        assert process.stop() == 0
    with opened(folder) as (_, client):
        disk.engine.arm([Rule(action="error", on="read", count=0)])
        with refused(errno.EIO):
            client.call(wire.Hashes((30 * BLOCK,)))
        assert client.state().mode == "ERR"
        disk.engine.heal()
        client.call(wire.SetMode("RW"))
        assert client.read(30 * BLOCK, BLOCK) == A


@pytest.mark.parametrize(
    ("counter_first", "step", "data", "counter"),
    [pytest.param(True, "R3", A, 2, id="R3"), pytest.param(False, "R2", B, 1, id="R2")],
)
def test_a_kill_between_data_and_counter(
    tmp_path: Path, counter_first: bool, step: str, data: bytes, counter: int
) -> None:
    folder = made(tmp_path)
    with opened(folder, kill=Kill(step, 2), counter_first=counter_first) as (process, client):
        client.write(0, A)
        with pytest.raises(ConnectionError):
            client.write(0, B)
        process.wait()
    assert flatten(folder)[:BLOCK] == data
    assert read_counter(folder) == counter
    assert read_meta(folder).dirty, "nobody may trust the counter alone"


def test_the_epoch_is_durable_before_it_is_answered(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for epoch, (step, durable) in enumerate((("written", 0), ("renamed", 2), ("durable", 3)), 1):
        with pytest.raises(ConnectionError), opened(folder, epoch=epoch, kill=Kill(f"open:meta-{step}")):
            pytest.fail("it was answered")
        assert read_meta(folder).epoch == durable


def test_without_metadata_there_is_no_replica(tmp_path: Path) -> None:
    folder = made(tmp_path)
    Path(f"{folder}/volume.meta").write_bytes(b"")
    with ReplicaProcess(folder) as process:
        assert process.wait() > 0
        assert "BadMetadata: volume.meta is empty" in process.said

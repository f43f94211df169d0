"""A chain of snapshots keeps its content through create, delete, coalesce and a crash at any of their steps.

Faults: the replica's process gets SIGKILL at each named step, and again at each step of its recovery; the power of its
host is cut at every point of a history of writes, discards, snapshots and deletions.
What was answered, no kill takes away; no power cut takes a snapshot that was made, brings back one that was deleted, or
undoes what was written before a flush or a snapshot. A snapshot reads as the volume did when it was made, always.
Guards report 3, Longhorn's snapshot chains: a hole asks the parent, and a deletion moves data between files. Rests on
rename(2) and fsync(2), for the metadata and for what they name.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import count
from tempfile import TemporaryDirectory

import pytest

from fixtures.systems.replicated_volume import history
from fixtures.systems.replicated_volume.history import Delete, Discard, Flush, Operation, Snapshot, Write
from fixtures.systems.replicated_volume.meta import META, read_meta
from fixtures.systems.replicated_volume.replica import create
from fixtures.systems.replicated_volume.snapshots import CREATE_STEPS, DELETE_STEPS
from fixtures.systems.replicated_volume.solo import Client, Kill, ReplicaProcess
from fixtures.systems.replicated_volume.volume import COUNTER, ReplicaVolume
from harness.machine import mounts
from harness.oracle.checks import RecoveredState
from harness.plugin.volume import CrashVolume

pytestmark = pytest.mark.system("longhorn")

OPERATIONS: tuple[Operation, ...] = (
    Write(4, 8, stamp=2),
    Snapshot("a"),
    Write(6, 3, stamp=3),
    Discard(8, 6),
    Snapshot("b"),
    Write(11, 2, stamp=4),
    Discard(2, 3),
    Write(30, 6, stamp=5),
    Delete("a"),
    Snapshot("c"),
    Write(31, 2, stamp=6),
    Delete("c"),
    Discard(33, 2),
    Flush(),
    Write(5, 4, stamp=7),
    Delete("b"),
    Write(40, 2, stamp=8),
)
"""The deletions coalesce into a snapshot, and into the head, with zeros that hide what lies below."""


def replica_in(path: str) -> str:
    """A folder with an empty replica over a base."""
    os.makedirs(path, exist_ok=True)
    history.make_base(f"{path}/base")
    create(f"{path}/replica", history.SIZE, f"{path}/base", "r1", ("r1",))
    return f"{path}/replica"


def answered(process: ReplicaProcess, epoch: int, operations: tuple[Operation, ...]) -> int:
    """How many of these the replica answered before it was gone. One that was done before the kill is no mistake."""
    with Client(process.address) as client:
        client.open(epoch, f"engine-{epoch}")
        for number, operation in enumerate(operations):
            try:
                history.tell(client, operation)
            except (FileExistsError, FileNotFoundError):
                assert not number
            except ConnectionError:
                return number
    return len(operations)


def verify_recovered(folder: str, operations: Sequence[Operation], safe: int, done: int, begun_too: int) -> None:
    """The same is there once the replica has gone on with what was cut short, and nothing is left half-made."""
    history.verify(folder, operations, safe, done, begun_too)
    ReplicaVolume(folder, "fixed", lambda _: None).close()
    history.verify(folder, operations, safe, done, begun_too)
    chain = read_meta(folder).chain
    assert not any(disk.removed for disk in chain)
    assert set(os.listdir(folder)) == {META, COUNTER, *(disk.file for disk in chain)}


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder on tmpfs: the page cache, which a kill of a process leaves alone."""
    with TemporaryDirectory(dir=mounts.enter_private_mounts().root) as path:
        yield path


@pytest.mark.parametrize("step", [*CREATE_STEPS, *DELETE_STEPS])
def test_a_kill_at_any_step_takes_nothing(memory: str, step: str) -> None:
    for time in count(1):
        folder = replica_in(f"{memory}/{time}")
        with ReplicaProcess(folder, kill=Kill(step, time)) as process:
            done = answered(process, 1, OPERATIONS)
        if done == len(OPERATIONS):
            break
        verify_recovered(folder, OPERATIONS, done, done, done + 1)
        with ReplicaProcess(folder) as process:
            assert answered(process, 2, OPERATIONS[done:]) == len(OPERATIONS) - done
            assert process.stop() == 0
        verify_recovered(folder, OPERATIONS, *[len(OPERATIONS)] * 3)
    assert time > 3, f"{step} was passed {time - 1} times only"


@pytest.mark.parametrize("step", [step for step in DELETE_STEPS if step.startswith("coalesce:")])
def test_a_kill_in_the_recovery_takes_nothing(memory: str, step: str) -> None:
    for time in range(1, 4):
        folder = replica_in(f"{memory}/{time}")
        with ReplicaProcess(folder, kill=Kill("delete:meta-durable", time)) as process:
            done = answered(process, 1, OPERATIONS)
        assert isinstance(OPERATIONS[done], Delete)
        with ReplicaProcess(folder, kill=Kill(step)) as process:
            assert process.wait() < 0, process.said
        verify_recovered(folder, OPERATIONS, done, done, done + 1)


def record(crash_volume: CrashVolume, variant: str, operations: Sequence[Operation]) -> None:
    """The whole history on a recorded volume; promised is how many operations are durable."""
    with (
        crash_volume.record(setup=replica_in) as volume,
        ReplicaProcess(f"{volume.path}/replica", variant=variant) as process,
    ):
        with Client(process.address) as client:
            client.open(1, "engine-1")
            for number, operation in enumerate(operations, 1):
                history.tell(client, operation)
                if isinstance(operation, history.DURABLE):
                    volume.promise(number)
        assert process.stop() == 0, process.said


def verify_state(state: RecoveredState, operations: Sequence[Operation]) -> None:
    """A promise can be late, and what comes before the next is under way."""
    done = int(state.promises[-1]) if state.promises else 0
    under_way = (end for end in history.durable_ends(operations) if end > done)
    begun_too = next(under_way, len(operations))
    verify_recovered(f"{state.path}/replica", operations, history.synced(operations, done), done, begun_too)


@pytest.mark.crash_volume(fs="ext4", max_states=900)
def test_a_power_cut_of_its_host_takes_nothing(crash_volume: CrashVolume) -> None:
    record(crash_volume, "fixed", OPERATIONS)
    crash_volume.verify(lambda state: verify_state(state, OPERATIONS))


@pytest.mark.crash_volume(fs="ext4", model="torn", max_states=500)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_power_cut_in_a_drawn_history_takes_nothing(crash_volume: CrashVolume, seed: int) -> None:
    operations = history.drawn(seed, length=50)
    record(crash_volume, "fixed", operations)
    crash_volume.verify(lambda state: verify_state(state, operations))


@pytest.mark.crash_volume(fs="xfs", max_states=300)
def test_a_power_cut_on_xfs_takes_nothing(crash_volume: CrashVolume) -> None:
    record(crash_volume, "fixed", OPERATIONS)
    crash_volume.verify(lambda state: verify_state(state, OPERATIONS))


@pytest.mark.crash_volume(fs="ext4", max_states=300)
def test_metadata_without_fsync_lose_a_snapshot(crash_volume: CrashVolume) -> None:
    """Or an empty volume.meta is left, which another scenario asks for."""
    record(crash_volume, "metadata-without-fsync", OPERATIONS)
    crash_volume.convict(lambda state: verify_state(state, OPERATIONS), contains="snapshot")

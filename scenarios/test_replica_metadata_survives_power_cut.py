"""The metadata of a replica are those that it answered for last, or the next ones, after a power cut of its host.

Fault: the power is cut at every point of the life of a replica, from the making of its folder on: epochs opened and
raised, members and mode changed, first writes that make it dirty, an orderly close. Its counter is there as well.
Once an epoch is answered for, no older one comes back: it fences the engines before it. And volume.meta is never empty.
Guards report 3, Longhorn issue 4846: an empty volume.meta after a power cut. Rests on fsync(2), of the file for its
data and of the directory for its name, and on Documentation/admin-guide/ext4.rst, auto_da_alloc, for what ext4 does
where they are missing.
"""

from typing import NamedTuple

import pytest

from fixtures.systems.replicated_volume import wire
from fixtures.systems.replicated_volume.history import Violation
from fixtures.systems.replicated_volume.meta import BadMetadata, read_meta
from fixtures.systems.replicated_volume.replica import create
from fixtures.systems.replicated_volume.solo import Client, ReplicaProcess
from fixtures.systems.replicated_volume.volume import ReplicaVolume, read_counter
from fixtures.systems.replicated_volume.wire import BLOCK
from harness.oracle.checks import RecoveredState
from harness.plugin.volume import CrashVolume

pytestmark = pytest.mark.system("longhorn")

MEMBERS = ("r1", "r2", "r3")
SIZE = 16 * BLOCK
LIVES = 3
"""Engines, one after the other."""


class Metadata(NamedTuple):
    """What an engine relies on."""

    epoch: int = 0
    engine: str = ""
    members: tuple[str, ...] = MEMBERS
    mode: wire.Mode = "RW"
    dirty: bool = False


def told() -> list[Metadata]:
    """All metadata of the replica, one after the other: each step below makes them durable, and is promised."""
    each = [Metadata()]
    for life in range(1, LIVES + 1):
        each.append(each[-1]._replace(epoch=10 * life, engine=f"e{life}"))
        each.append(each[-1]._replace(dirty=True))
        each.append(each[-1]._replace(epoch=10 * life + 1, members=("r1", "r3")))
        each.append(each[-1]._replace(mode="WO"))
        each.append(each[-1]._replace(mode="RW"))
        each.append(each[-1]._replace(epoch=10 * life + 2, members=MEMBERS))
        each.append(each[-1]._replace(dirty=False))
    return each


TOLD = told()


def record(crash_volume: CrashVolume, variant: str) -> None:
    """The promises are numbers of TOLD."""
    with crash_volume.record() as volume:
        folder, step = f"{volume.path}/replica", iter(range(len(TOLD)))
        create(folder, SIZE, None, "r1", MEMBERS, variant=variant)
        volume.promise(next(step))
        with ReplicaProcess(folder, variant=variant) as process:
            for life in range(1, LIVES + 1):
                with Client(process.address) as client:
                    client.open(10 * life, f"e{life}")
                    volume.promise(next(step))
                    client.write(life * BLOCK, bytes(BLOCK))
                    volume.promise(next(step))
                    for call in (
                        wire.SetEpoch(10 * life + 1, ("r1", "r3")),
                        wire.SetMode("WO"),
                        wire.SetMode("RW"),
                        wire.SetEpoch(10 * life + 2, MEMBERS),
                        wire.CloseClean(),
                    ):
                        client.call(call)
                        volume.promise(next(step))
            assert process.stop() == 0, process.said
        assert next(step, None) is None


def verify(state: RecoveredState) -> None:
    """Raises Violation. Before the first promise nothing need be there; what is there must make sense."""
    folder = f"{state.path}/replica"
    done = int(state.promises[-1]) if state.promises else -1
    try:
        meta = read_meta(folder)
        counter = read_counter(folder)
    except BadMetadata as bad:
        if done < 0 and "missing" in str(bad):
            return
        raise Violation(f"UNAVAILABLE nobody knows what the replica holds: {bad}") from None
    found = Metadata(meta.epoch, meta.engine, meta.members, meta.mode, meta.dirty)
    if found not in TOLD[max(done, 0) : done + 2]:
        kind = "STALE" if found in TOLD else "FOREIGN"
        raise Violation(f"{kind} the metadata are {found}, and were {TOLD[max(done, 0)]}")
    if counter > LIVES:
        raise Violation(f"FOREIGN the counter is {counter}; there were {LIVES} writes")
    ReplicaVolume(folder, "fixed", lambda _: None).close()


@pytest.mark.crash_volume(fs="ext4", max_states=1500)
@pytest.mark.parametrize("options", ["", "noauto_da_alloc"])
def test_metadata_are_there_on_ext4(crash_volume: CrashVolume, options: str) -> None:
    on = crash_volume.using(mount_options=options)
    record(on, "fixed")
    on.verify(verify)


@pytest.mark.crash_volume(fs="xfs", max_states=300)
def test_metadata_are_there_on_xfs(crash_volume: CrashVolume) -> None:
    record(crash_volume, "fixed")
    crash_volume.verify(verify)


@pytest.mark.crash_volume(fs="ext4", mount_options="noauto_da_alloc", max_states=300)
def test_without_fsync_they_are_empty_on_ext4(crash_volume: CrashVolume) -> None:
    record(crash_volume, "metadata-without-fsync")
    crash_volume.convict(verify, contains="UNAVAILABLE nobody knows what the replica holds: volume.meta is")


@pytest.mark.crash_volume(fs="xfs", max_states=100)
def test_without_fsync_they_are_empty_on_xfs(crash_volume: CrashVolume) -> None:
    record(crash_volume, "metadata-without-fsync")
    crash_volume.convict(verify, contains="UNAVAILABLE nobody knows what the replica holds: volume.meta is")


@pytest.mark.crash_volume(fs="ext4", max_states=300)
def test_without_fsync_an_old_epoch_comes_back(crash_volume: CrashVolume) -> None:
    """As ext4 is mounted by default, the rename waits for the data, and nobody waits for the rename."""
    record(crash_volume, "metadata-without-fsync")
    crash_volume.convict(verify, contains="STALE the metadata are")

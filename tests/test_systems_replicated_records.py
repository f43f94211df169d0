"""The records of the replicated volume: changes that hold under contention, across processes, and across a kill."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.systems.replicated_volume.records import (
    EPOCHS,
    Attached,
    Attachment,
    Deleted,
    EngineRecord,
    Gone,
    Records,
    VolumeRecord,
    Wanted,
)

VOLUME = "v"
PROCESSES = 4
ROUNDS = 40


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "records")


def together(work: Callable[[int], int]) -> list[int]:
    """Exit statuses of so many processes that do `work` with their number, all let go at once."""
    gate, go = os.pipe()
    pids = []
    for number in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                os.close(go)
                os.read(gate, 1)
                status = work(number)
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(gate)
    os.close(go)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_one_of_many_gets_the_volume_each_time_and_generations_grow(path: str) -> None:
    def attach_and_delete(number: int) -> int:
        with Records(path) as records:
            got = 0
            while got < ROUNDS:
                attachment = records.attach(VOLUME, f"pod-{number}")
                if attachment:
                    assert records.delete(attachment, f"pod-{number}")
                    got += 1
        return 0

    assert together(attach_and_delete) == [0] * PROCESSES
    with Records(path) as records:
        changes = [entry.change for entry in records.history()]
    attached = [change.attachment for change in changes if isinstance(change, Attached)]
    assert [each.generation for each in attached] == list(range(1, PROCESSES * ROUNDS + 1))
    assert changes == [kind for each in attached for kind in (Attached(each), Deleted(each, each.owner))]


def test_one_of_many_deletes_an_attachment(path: str) -> None:
    with Records(path) as records:
        attachment = records.attach(VOLUME, "pod")
        assert attachment

        def delete(number: int) -> int:
            with Records(path) as mine:
                return int(mine.delete(attachment, str(number)))

        assert sorted(together(delete)) == [0] * (PROCESSES - 1) + [1]
        assert records.known().attachments == {}


def test_what_is_deleted_is_what_was_seen(path: str) -> None:
    with Records(path) as records:
        old = records.attach(VOLUME, "pod-1")
        assert old and records.delete(old, "cleanup")
        new = records.attach(VOLUME, "pod-1")
        assert new and new.generation == 2
        assert not records.delete(old, "a late cleanup")
        assert not records.delete(Attachment(VOLUME, "pod-2", 2), "of another")
        assert records.known().attachments == {VOLUME: new}
        assert records.delete_by_name(VOLUME, "a careless cleanup"), "by name, whatever is there goes"
        assert not records.delete_by_name(VOLUME, "once more")


def test_every_swap_of_many_counts_once(path: str) -> None:
    with Records(path) as records:
        records.create(VolumeRecord(name=VOLUME))

    def count(_: int) -> int:
        with Records(path) as mine:
            done = 0
            while done < ROUNDS:
                seen = mine.volume(VOLUME)
                changed = VolumeRecord(name=VOLUME, engines=seen.engines + 1)
                done += mine.swap(seen, changed) is not None
        return 0

    assert together(count) == [0] * PROCESSES
    with Records(path) as records:
        assert records.volume(VOLUME).engines == PROCESSES * ROUNDS
        assert records.volume(VOLUME).version == PROCESSES * ROUNDS


def test_a_line_that_was_never_finished_is_no_change(path: str) -> None:
    with Records(path) as records:
        records.want(VOLUME, "pod-1")
        with open(path, "ab") as file:
            file.write(b'{"at":1.0,"change":{"type":"Gone","ow')
        records.gone("pod-2")
        with Records(path) as other:
            assert other.known().gone == {"pod-2"}
            assert [entry.change for entry in other.history()] == [Wanted(VOLUME, "pod-1"), Gone("pod-2")]


def test_a_lock_dies_with_its_holder(path: str) -> None:
    def die_with_it(_: int) -> int:
        records = Records(path)
        with records._locked():
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert together(die_with_it) == [-signal.SIGKILL] * PROCESSES
    with Records(path) as records:
        assert records.attach(VOLUME, "pod")


def test_whoever_waits_is_known_until_it_has_the_volume(path: str) -> None:
    with Records(path) as records:
        records.want(VOLUME, "pod-1")
        assert records.known().waiting == {VOLUME: "pod-1"}
        assert records.attach(VOLUME, "pod-1")
        assert records.known().waiting == {}


def test_epochs_of_a_later_engine_are_higher_than_all_of_an_earlier_one() -> None:
    first, second = (EngineRecord(number=number, node=0, endpoint="") for number in (1, 2))
    assert first.epoch + EPOCHS - 1 < second.epoch

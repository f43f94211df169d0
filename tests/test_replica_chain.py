"""The chain of a replica: what it reads as, through snapshots and their deletion; and a judge of it that sees."""

import errno
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replica_support import A, B, in_memory, made, opened, refused

from fixtures.systems.replicated_volume import history, wire
from fixtures.systems.replicated_volume.chain import flatten
from fixtures.systems.replicated_volume.history import Delete, Discard, Flush, Operation, Snapshot, Violation, Write
from fixtures.systems.replicated_volume.meta import BadMetadata, read_meta
from fixtures.systems.replicated_volume.replica import create
from fixtures.systems.replicated_volume.volume import Holder, ReplicaVolume
from fixtures.systems.replicated_volume.wire import BLOCK, Digests, Extents


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return made(tmp_path)


class Direct:
    """Told without a process between."""

    def __init__(self, folder: str) -> None:
        self.volume = ReplicaVolume(folder, "fixed", lambda _: None)
        self.holder = Holder()
        self.volume.open(self.holder, wire.Open(1, "e"))

    def write(self, offset: int, data: bytes) -> None:
        self.volume.write(self.holder, offset, memoryview(data))

    def discard(self, offset: int, length: int) -> None:
        self.volume.discard(self.holder, offset, length)

    def flush(self) -> None:
        self.volume.flush(self.holder)

    def snapshot(self, name: str) -> None:
        self.volume.create_snapshot(self.holder, name)

    def delete(self, name: str) -> None:
        self.volume.delete_snapshot(self.holder, name)


Drawn = tuple[str, int, int]


def operations_of(drawn: list[Drawn]) -> list[Operation]:
    """What can be done of it: a deletion needs a snapshot."""
    operations: list[Operation] = []
    names: list[str] = []
    for number, (kind, first, blocks) in enumerate(drawn):
        blocks = min(blocks, history.BLOCKS - first)
        if kind == "snapshot":
            names.append(f"s{number}")
            operations.append(Snapshot(names[-1]))
        elif kind == "delete" and names:
            operations.append(Delete(names.pop(first % len(names))))
        elif kind == "discard":
            operations.append(Discard(first, blocks))
        else:
            operations.append(Write(first, blocks, stamp=number + 2))
    return operations


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from(["write", "discard", "snapshot", "delete"]),
            st.integers(0, history.BLOCKS - 1),
            st.integers(1, 8),
        ),
        min_size=1,
        max_size=40,
    ),
    reopen=st.integers(1, 40),
)
def test_a_drawn_history_reads_as_the_model_says(drawn: list[Drawn], reopen: int) -> None:
    operations = operations_of(drawn)
    with in_memory() as path:
        folder = made(path)
        told = Direct(folder)
        for number, operation in enumerate(operations, 1):
            history.tell(told, operation)
            if number == reopen:
                told.volume.close()
                told = Direct(folder)
            if number in (len(operations) // 2, len(operations)):
                history.verify(folder, operations, number, number, number)
        state = told.volume.state(sessions=0, flatten=True)
        told.volume.close()
        assert state.flatten == xxhash.xxh3_128_hexdigest(flatten(folder))
        assert state.counter == sum(isinstance(operation, Write | Discard) for operation in operations)


def test_a_history_is_the_same_through_the_process(folder: str) -> None:
    operations = history.drawn(5, 60)
    assert {type(operation) for operation in operations} == {Write, Discard, Flush, Snapshot, Delete}
    with opened(folder) as (_, client):
        for operation in operations:
            history.tell(client, operation)
        history.verify(folder, operations, *[len(operations)] * 3)
        content = flatten(folder)
        assert client.read(0, history.SIZE) == content
        every = tuple(range(0, history.SIZE, BLOCK))
        digests = client.call(wire.Hashes(every))
        assert digests == Digests(b"".join(xxhash.xxh3_128_digest(content[at : at + BLOCK]) for at in every))


def test_a_snapshot_keeps_what_was_written_before_it(folder: str) -> None:
    with opened(folder) as (_, client):
        client.write(0, A)
        client.snapshot("one")
        client.write(0, B)
        assert client.read(0, BLOCK) == B
        state = client.state()
        assert state.head == "volume-head-001.img"
        assert state.chain[:2] == (state.head, "volume-snap-one.img") and state.snapshots == ("one",)
    assert flatten(folder, "one")[:BLOCK] == A and flatten(folder)[:BLOCK] == B
    with pytest.raises(KeyError):
        flatten(folder, "two")


def test_a_deleted_snapshot_leaves_its_blocks_and_its_name(folder: str) -> None:
    with opened(folder) as (_, client):
        client.write(0, A)
        client.snapshot("one")
        client.delete("one")
        assert client.read(0, BLOCK) == A
        with refused(errno.ENOENT):
            client.delete("one")
        client.snapshot("one")
        with refused(errno.EEXIST):
            client.snapshot("one")
        for name in ("", "a/b", "../up", "x" * 100, ".hidden"):
            with refused(errno.EINVAL):
                client.snapshot(name)
        assert client.state().snapshots == ("one",)
    assert not [name for name in os.listdir(folder) if "snap" in name and "one" not in name]


def test_a_discard_hides_what_lies_below_and_gives_back_the_rest(folder: str) -> None:
    with opened(folder) as (_, client):
        client.discard(0, history.SIZE)
        assert client.read(0, history.SIZE) == bytes(history.SIZE)
        below = len(history.BASE_BLOCKS) * BLOCK
        kept = client.call(wire.Allocated())
        assert isinstance(kept, Extents)
        assert sum(length for _, length in kept.extents) == below, "zeros where the base has data, holes elsewhere"
        client.write(30 * BLOCK, A * 8)
        client.discard(30 * BLOCK, 8 * BLOCK)
        assert client.call(wire.Allocated()) == kept
        assert client.state().allocated <= below + BLOCK


def test_what_is_allocated_is_what_stands_above_the_base(folder: str) -> None:
    with opened(folder) as (_, client):
        assert client.call(wire.Allocated()) == Extents(())
        client.write(2 * BLOCK, A * 2)
        client.snapshot("s")
        client.write(4 * BLOCK, A)
        client.write(47 * BLOCK, A)
        assert client.call(wire.Allocated()) == Extents(((2 * BLOCK, 3 * BLOCK), (47 * BLOCK, BLOCK)))


def test_the_first_write_makes_it_dirty_and_an_orderly_close_ends_that(folder: str) -> None:
    with opened(folder) as (process, client):
        client.flush()
        client.read(0, BLOCK)
        assert not read_meta(folder).dirty
        client.discard(0, BLOCK)
        assert read_meta(folder).dirty, "durable when it is answered"
        client.call(wire.CloseClean())
        assert not read_meta(folder).dirty
        client.write(0, A)
        process.kill()
    assert read_meta(folder).dirty


def test_no_replica_is_made_that_makes_no_sense(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(3 * BLOCK))
    for size in (0, BLOCK + 1, -BLOCK, 2 * BLOCK):
        with pytest.raises(ValueError):
            create(str(tmp_path / "r"), size, str(base), "r", ())
    create(str(tmp_path / "r"), 3 * BLOCK, str(base), "r", ("r",))
    with pytest.raises(FileExistsError):
        create(str(tmp_path / "r"), 3 * BLOCK, str(base), "r", ("r",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "volume.meta is empty"),
        (bytes(200), "200 bytes of zeros"),
        (b'{"name": "r1", ', "volume.meta"),
        (b'{"name":"r1","size":5,"chain":[{"file":"h"}]}', "makes no sense"),
        (None, "missing"),
    ],
)
def test_metadata_that_say_nothing_are_told_of(folder: str, text: bytes | None, why: str) -> None:
    if text is None:
        os.unlink(f"{folder}/volume.meta")
    else:
        Path(f"{folder}/volume.meta").write_bytes(text)
    for reading in (read_meta, flatten, lambda each: ReplicaVolume(each, "fixed", lambda _: None)):
        with pytest.raises(BadMetadata, match=why):
            reading(folder)


OPERATIONS: tuple[Operation, ...] = (Write(0, 2, 2), Snapshot("s"), Write(0, 1, 3), Discard(1, 1), Write(30, 1, 4))


@pytest.fixture
def judged(folder: str) -> str:
    told = Direct(folder)
    for operation in OPERATIONS:
        history.tell(told, operation)
    told.volume.close()
    return folder


def overwrite(folder: str, file: str, block: int, data: bytes) -> None:
    with open(f"{folder}/{file}", "r+b") as image:
        image.seek(block * BLOCK)
        image.write(data)


@pytest.mark.parametrize(
    ("file", "block", "data", "what"),
    [
        pytest.param("volume-head-001.img", 0, history.block_of(0, 2), "STALE block 0 of the head", id="older"),
        pytest.param("volume-head-001.img", 30, bytes(BLOCK), "STALE block 30 of the head", id="gone"),
        pytest.param("volume-head-001.img", 0, bytes(BLOCK), "ZEROED block 0 of the head", id="zeros"),
        pytest.param("volume-head-001.img", 0, history.block_of(9, 3), "FOREIGN block 0 of the head", id="misdirected"),
        pytest.param("volume-head-001.img", 0, b"\xff", "FOREIGN block 0 of the head", id="rot"),
        pytest.param("volume-head-001.img", 0, history.block_of(0, 2)[:2048], "TORN block 0 of the head", id="torn"),
        pytest.param("volume-snap-s.img", 1, history.block_of(1, 1), "STALE block 1 of snapshot s", id="snapshot"),
    ],
)
def test_the_judge_names_what_is_planted(judged: str, file: str, block: int, data: bytes, what: str) -> None:
    done = len(OPERATIONS)
    history.verify(judged, OPERATIONS, done, done, done)
    overwrite(judged, file, block, data)
    with pytest.raises(Violation, match=what):
        history.verify(judged, OPERATIONS, done, done, done)


def test_the_judge_lets_pass_what_a_crash_may_leave_and_nothing_else(judged: str) -> None:
    history.verify(judged, OPERATIONS, 2, 2, 5)
    history.verify(judged, OPERATIONS, 4, 4, 5)
    overwrite(judged, "volume-head-001.img", 0, history.block_of(0, 2))
    history.verify(judged, OPERATIONS, 2, 2, 5)
    with pytest.raises(Violation, match="STALE block 0"):
        history.verify(judged, OPERATIONS, 3, 3, 5)


def test_the_judge_misses_a_snapshot_that_is_gone_and_sees_one_that_is_back(judged: str) -> None:
    gone = (*OPERATIONS, Delete("s"))
    history.verify(judged, gone, 5, 5, 6)
    with pytest.raises(Violation, match="STALE snapshot s was deleted"):
        history.verify(judged, gone, 6, 6, 6)
    with pytest.raises(Violation, match="LOST_ACKED snapshot t is gone"):
        history.verify(judged, (*OPERATIONS, Snapshot("t")), 6, 6, 6)
    os.unlink(f"{judged}/volume-snap-s.img")
    with pytest.raises(Violation, match=r"UNAVAILABLE .*volume-snap-s.img is missing"):
        history.verify(judged, OPERATIONS, 5, 5, 5)

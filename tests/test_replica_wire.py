"""A replica as its connections see it: requests and errors, several engines, garbage, and who vanishes."""

import contextlib
import errno
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_support import eventually
from replica_support import A, B, made, opened, refused

from fixtures.systems.replicated_volume import history, wire
from fixtures.systems.replicated_volume.meta import read_meta
from fixtures.systems.replicated_volume.solo import Client, Kill, ReplicaProcess
from fixtures.systems.replicated_volume.wire import BLOCK, PAYLOAD_MAX

END = history.SIZE


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return made(tmp_path)


def test_what_is_written_is_read(folder: str) -> None:
    with opened(folder) as (process, client):
        client.write(BLOCK, A + B)
        client.flush()
        assert client.read(BLOCK, 2 * BLOCK) == A + B
        assert client.read(0, BLOCK) == history.block_of(0, history.BASE)
        client.discard(2 * BLOCK, BLOCK)
        assert client.read(BLOCK, 2 * BLOCK) == A + bytes(BLOCK)
        assert process.stop() == 0
    with opened(folder) as (_, client):
        assert client.read(BLOCK, 2 * BLOCK) == A + bytes(BLOCK)
        assert client.state().counter == 2


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(1, BLOCK, id="unaligned-offset"),
        pytest.param(0, BLOCK - 1, id="unaligned-length"),
        pytest.param(0, 0, id="nothing"),
        pytest.param(END, BLOCK, id="behind-the-end"),
        pytest.param(END - BLOCK, 2 * BLOCK, id="over-the-end"),
        pytest.param(2**64 - BLOCK, BLOCK, id="far-behind"),
    ],
)
def test_what_are_no_whole_blocks_of_the_volume_is_refused(folder: str, offset: int, length: int) -> None:
    with opened(folder) as (_, client):
        with refused(errno.EINVAL):
            client.write(offset, bytes(length))
        with refused(errno.EINVAL):
            client.read(offset, length)
        with refused(errno.EINVAL):
            client.discard(offset, length)
        state = client.state()
        assert (state.counter, state.dirty, state.mode) == (0, False, "RW")


def test_a_read_of_more_than_an_answer_holds_is_refused(tmp_path: Path) -> None:
    with opened(made(tmp_path, base=False, size=2 * PAYLOAD_MAX)) as (_, client):
        with refused(errno.EINVAL):
            client.read(0, PAYLOAD_MAX + BLOCK)
        assert client.read(BLOCK, PAYLOAD_MAX) == bytes(PAYLOAD_MAX)
        client.write(BLOCK, b"x" * PAYLOAD_MAX)
        assert client.read(PAYLOAD_MAX, 2 * BLOCK) == b"x" * BLOCK + bytes(BLOCK)


def test_nothing_is_changed_before_an_epoch_is_opened(folder: str) -> None:
    with ReplicaProcess(folder) as process, Client(process.address) as client:
        assert set(changes(client).values()) == {errno.ENOTCONN}
        assert client.read(0, BLOCK) == history.block_of(0, history.BASE)
        assert client.state().epoch == 0


def changes(client: Client) -> dict[str, int]:
    """The errno of everything that an engine may do; 0: it was done."""
    tried: dict[str, Callable[[], object]] = {
        "write": lambda: client.write(0, B),
        "discard": lambda: client.discard(0, BLOCK),
        "flush": client.flush,
        "snapshot": lambda: client.snapshot("late"),
        "delete": lambda: client.delete("s"),
        "epoch": lambda: client.call(wire.SetEpoch(9, ("r1",))),
        "mode": lambda: client.call(wire.SetMode("WO")),
        "clean": lambda: client.call(wire.CloseClean()),
    }
    found = {}
    for name, change in tried.items():
        try:
            change()
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or -1
    return found


def test_an_old_engine_changes_nothing_once_a_new_one_has_opened(folder: str) -> None:
    with opened(folder, epoch=4) as (process, old), Client(process.address) as new:
        old.write(0, A)
        old.snapshot("s")
        new.open(5, "new")
        before = new.state(flatten=True)
        assert set(changes(old).values()) == {errno.ESTALE}
        assert new.state(flatten=True) == before
        assert old.read(0, BLOCK) == A
        new.write(0, B)


def test_without_fencing_it_does(folder: str) -> None:
    with opened(folder, epoch=4, variant="no-fencing") as (process, old), Client(process.address) as new:
        old.snapshot("s")
        new.open(5, "new")
        new.write(0, A)
        assert set(changes(old).values()) == {0}
        assert new.read(0, BLOCK) == bytes(BLOCK)


def test_an_epoch_that_is_over_is_not_opened_again_after_a_restart_either(folder: str) -> None:
    with opened(folder, epoch=7) as (process, _):
        process.kill()
    assert read_meta(folder).epoch == 7, "durable before it was answered"
    with ReplicaProcess(folder) as process, Client(process.address) as client:
        with refused(errno.ESTALE, "epoch 7 is held by e7"):
            client.open(6, "e6")
        with refused(errno.ENOTCONN):
            client.write(0, A)
        with refused(errno.ESTALE):
            client.open(7, "another")
        client.open(7, "e7")
        client.write(0, A)


def test_a_raised_epoch_goes_on_and_fences_its_elders(folder: str) -> None:
    with opened(folder, epoch=1) as (process, client), Client(process.address) as other:
        other.open(1, "e1")
        client.call(wire.SetEpoch(3, ("r1", "r3")))
        client.write(0, A)
        with refused(errno.ESTALE):
            other.write(0, B)
        with refused(errno.ESTALE):
            client.call(wire.SetEpoch(2, ()))
        state = client.state()
        assert (state.epoch, state.engine, state.members) == (3, "e1", ("r1", "r3"))
        process.kill()
    meta = read_meta(folder)
    assert (meta.epoch, meta.members) == (3, ("r1", "r3"))


def test_old_sessions_are_closed_when_asked(folder: str) -> None:
    with opened(folder, epoch=1) as (process, old), Client(process.address) as new:
        new.open(2, "new")
        assert new.state().sessions == 2
        new.call(wire.DropOldSessions(2))
        assert new.state().sessions == 1
        with pytest.raises(ConnectionError):
            old.read(0, BLOCK)
        new.write(0, A)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: replica\r\nAccept: */*\r\n\r\n", id="http"),
        pytest.param(b"\0" * 64, id="zeros"),
        pytest.param(b"\xff" * 64, id="ones"),
        pytest.param(wire.request(wire.OPEN, 1, payload=b"\xc1"), id="no-msgpack"),
        pytest.param(wire.request(wire.CALL, 1, payload=wire.encode({"type": "Format"})), id="no-such-call"),
        pytest.param(wire.request(wire.WRITE, 1, 0, 2 * BLOCK, bytes(BLOCK)), id="lengths-differ"),
        pytest.param(wire.REQUEST.pack(wire.WRITE, PAYLOAD_MAX + BLOCK, 1, 0, PAYLOAD_MAX + BLOCK), id="too-long"),
        pytest.param(wire.request(wire.READ, 1, 0, BLOCK, b"payload"), id="payload-of-a-read"),
    ],
)
def test_garbage_ends_its_connection_and_no_other(folder: str, garbage: bytes) -> None:
    with opened(folder) as (process, client):
        with socket.create_connection(process.address, 10) as sock:
            sock.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                assert not sock.recv(64)
        client.write(0, A)
        assert client.state().sessions == 1


def test_clients_that_stall_or_vanish_hold_up_nobody(folder: str) -> None:
    with opened(folder) as (process, client):
        half = wire.request(wire.WRITE, 1, 0, BLOCK, B)[: BLOCK // 2]
        stalled = [socket.create_connection(process.address) for _ in range(4)]
        for number, sock in enumerate(stalled):
            sock.sendall(half[: (1, 31, 32, len(half))[number]])
        client.write(0, A)
        assert eventually(lambda: client.state().sessions == 5)
        for sock in stalled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert eventually(lambda: client.state().sessions == 1)
        assert client.read(0, BLOCK) == A


def test_requests_are_answered_in_order_however_they_are_cut(folder: str) -> None:
    with opened(folder) as (_, client):
        numbers = range(40)
        stream = b"".join(wire.request(wire.WRITE, n, n * BLOCK, BLOCK, bytes([n]) * BLOCK) for n in numbers)
        stream += b"".join(wire.request(wire.READ, n, n * BLOCK, BLOCK) for n in numbers)
        for at in range(0, len(stream), 1777):
            client.sock.sendall(stream[at : at + 1777])
        with client.sock.makefile("rb") as answers:
            for n in numbers:
                assert wire.REPLY.unpack(answers.read(wire.REPLY.size)) == (0, 0, n)
            for n in numbers:
                assert wire.REPLY.unpack(answers.read(wire.REPLY.size)) == (0, BLOCK, n)
                assert answers.read(BLOCK) == bytes([n]) * BLOCK


def test_requests_that_do_not_fit_behind_each_other_are_answered_too(tmp_path: Path) -> None:
    long, short, pairs = PAYLOAD_MAX, 128 << 10, 6
    with opened(made(tmp_path, base=False, size=2 * long)) as (_, client):
        for n in range(pairs):
            pair = wire.request(wire.WRITE, n, 0, long, bytes([n]) * long)
            pair += wire.request(wire.WRITE, n, long, short, bytes([n + pairs]) * short)
            client.sock.sendall(pair)
        with client.sock.makefile("rb") as answers:
            for n in range(pairs):
                assert answers.read(2 * wire.REPLY.size) == wire.REPLY.pack(0, 0, n) * 2
        assert client.read(0, long) == bytes([pairs - 1]) * long
        assert client.read(long, short) == bytes([2 * pairs - 1]) * short


def test_who_does_not_read_its_answers_gets_them_later_and_holds_up_nobody(tmp_path: Path) -> None:
    mib, rounds = 1 << 20, 64
    with opened(made(tmp_path, base=False, size=2 * mib)) as (process, client), Client(process.address) as lazy:
        for block in range(0, 2 * mib, BLOCK):
            client.write(block, block.to_bytes(8, "little") * (BLOCK // 8))
        content = client.read(0, 2 * mib)
        lazy.sock.sendall(b"".join(wire.request(wire.READ, n, n % 2 * mib, mib) for n in range(rounds)))
        client.write(0, A)
        client.write(0, content[:BLOCK])
        with lazy.sock.makefile("rb") as answers:
            for n in range(rounds):
                assert wire.REPLY.unpack(answers.read(wire.REPLY.size)) == (0, mib, n)
                data = answers.read(mib)
                assert data[BLOCK:] == content[n % 2 * mib + BLOCK : (n % 2 + 1) * mib]


def test_sigterm_ends_it_in_order_and_what_it_holds_is_durable(folder: str) -> None:
    with opened(folder) as (process, client):
        client.write(0, A)
        assert process.stop() == 0, process.said
        with pytest.raises(ConnectionError):
            client.read(0, BLOCK)
    assert read_meta(folder).dirty, "no engine closed it"


def test_a_step_kills_it_where_it_stands(folder: str) -> None:
    with opened(folder, kill=Kill("R3", 3)) as (process, client):
        client.write(0, A)
        client.write(0, A)
        with pytest.raises(ConnectionError):
            client.write(0, B)
        assert process.wait() == -signal.SIGKILL

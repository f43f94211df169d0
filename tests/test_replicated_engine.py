"""The replicated volume's engine, in real processes: mirroring, replicas that fail, fencing, recovery."""

import errno
import itertools
import os
import signal
from collections.abc import Callable

import pytest
from replicated_engine_support import BLOCK, SIZE, Engine, Stage, alone, block
from volume_support import eventually

from fixtures.systems.replicated_volume import control as say
from fixtures.systems.replicated_volume.remote import Remote
from fixtures.systems.replicated_volume.wire import CloseClean, Open
from harness.engine.nbd_client import NbdBackend

pytestmark = pytest.mark.root

SOON = 0.2


def write(client: NbdBackend, number: int, version: int = 1) -> None:
    client.write(number * BLOCK, memoryview(block(number, version)))


def read(client: NbdBackend, number: int) -> bytes:
    return bytes(client.read(number * BLOCK, BLOCK))


def killed_at(place: str, time: int = 1) -> Callable[[str], None]:
    """A step that is the end of whoever passes the place so many times."""
    passed = itertools.count(1)

    def step(name: str) -> None:
        if name == place and next(passed) == time:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def refusal(act: Callable[[], object]) -> int:
    """The errno that a request is answered with."""
    with pytest.raises(OSError) as caught:
        act()
    return caught.value.errno or 0


def rejoined(stage: Stage, engine: Engine, number: int) -> None:
    """Add the replica, and wait until it is in sync."""
    host, port = stage.addresses[number]
    reply = engine.order(lambda id: say.Add(id, stage.names[number], host, port))  # noqa: A006
    assert isinstance(reply, say.Done), reply
    eventually(lambda: stage.names[number] in engine.replicas().in_sync, f"{engine.replicas()}")


@alone
def test_what_is_written_is_on_all_replicas_and_is_read_from_each() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        assert client.size == SIZE
        for number in range(8):
            write(client, number)
        client.flush()
        for _ in stage.names:
            assert bytes(client.read(0, 8 * BLOCK)) == b"".join(map(block, range(8)))
        client.discard(BLOCK, 2 * BLOCK)
        for _ in stage.names:
            assert bytes(client.read(0, 4 * BLOCK)) == block(0) + bytes(2 * BLOCK) + block(3)
        large = memoryview(os.urandom(1 << 20))
        client.write(1 << 20, large)
        for _ in stage.names:
            assert client.read(1 << 20, 1 << 20) == large
        engine.stop()
        assert stage.content(0) == stage.content(1) == stage.content(2)
        assert not any(stage.state(number).dirty for number in range(3))


@alone
def test_nonsense_is_refused_and_costs_no_replica() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        for offset, length in ((1, BLOCK), (0, 512), (SIZE, BLOCK)):
            assert refusal(lambda at=offset, size=length: client.read(at, size)) == errno.EINVAL  # type: ignore[misc]
        write(client, 0)
        assert engine.replicas().in_sync == stage.names


@alone
def test_a_replica_that_dies_is_out_before_the_next_write_is_answered() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        write(client, 0)
        stage.kill(1)
        write(client, 1)
        for number in (0, 2):
            state = stage.state(number)
            assert state.members == ("r0", "r2") and state.epoch == engine.replicas().epoch > stage.epoch(1)
        assert [read(client, 1) for _ in range(4)] == [block(1)] * 4
        assert "r1 is left out: " in engine.replicas().history[-1]


@alone
def test_a_replica_that_says_nothing_is_out_when_its_time_is_over() -> None:
    with Stage() as stage:
        engine = stage.engine(answer_seconds=SOON)
        client = engine.client()
        stage.life(2).halt()
        write(client, 0)
        assert engine.replicas().in_sync == ("r0", "r1")
        assert stage.state(0).members == ("r0", "r1")
        stage.life(2).go_on()
        assert stage.state(2).members == stage.names


@alone
def test_the_last_replica_is_waited_for_though_it_is_late() -> None:
    with Stage(count=1) as stage:
        engine = stage.engine(answer_seconds=SOON)
        client = engine.client()
        stage.life(0).halt()
        waker = os.fork()
        if waker == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            signal.setitimer(signal.ITIMER_REAL, 3 * SOON)
            signal.sigwait({signal.SIGALRM})
            stage.life(0).go_on()
            os._exit(0)
        write(client, 0)
        assert engine.replicas().in_sync == ("r0",)


@alone
def test_without_any_replica_every_request_gets_an_error() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        write(client, 0)
        stage.kill(0, 1, 2)
        assert refusal(lambda: write(client, 1)) == errno.EIO
        assert refusal(lambda: client.read(0, BLOCK)) == errno.EIO
        assert refusal(client.flush) == errno.EIO
        assert engine.replicas().in_sync == ()


@alone
def test_an_engine_that_is_passed_over_gets_an_error_and_ends() -> None:
    with Stage() as stage:
        old = stage.engine(1)
        late = old.client()
        write(late, 0)
        new = stage.engine(5)
        client = new.client()
        write(client, 0, 2)
        assert refusal(lambda: write(late, 0, 3)) == errno.EIO
        assert old.told(say.Ended).fenced
        assert old.life.wait() == 0
        assert [read(client, 0) for _ in stage.names] == [block(0, 2)] * 3


@alone
def test_without_fencing_an_engine_that_is_passed_over_still_writes() -> None:
    with Stage(variant="no-fencing") as stage:
        old = stage.engine(1)
        late = old.client()
        new = stage.engine(5)
        client = new.client()
        write(client, 0, 2)
        write(late, 0, 3)
        assert [read(client, 0) for _ in stage.names] == [block(0, 3)] * 3


@alone
def test_an_epoch_is_higher_than_all_that_the_replicas_know() -> None:
    with Stage() as stage:
        first = stage.engine(40)
        assert first.replicas().epoch == 40
        second = stage.engine(7)
        assert second.replicas().epoch == 41
        second.client()
        assert refusal(lambda: write(first.client(), 0)) == errno.EIO


@alone
@pytest.mark.parametrize("place", ["R2", "R3"])
def test_after_an_unclean_end_what_one_replica_has_alone_is_on_all_or_on_none(place: str) -> None:
    with Stage() as stage:
        stage.kill(0)
        stage.start(0, killed_at(place, 2))
        engine = stage.engine(counter_first=place == "R3")
        client = engine.client()
        write(client, 0)
        engine.life.kill()  # before the second write: whoever has it, the others do not
        second = stage.engine(2, counter_first=place == "R3")
        write(second.client(), 0, 2)
        stage.start(0)
        second.life.kill()
        third = stage.engine(3)
        client = third.client()
        assert [read(client, 0) for _ in stage.names] == [block(0, 2)] * 3
        eventually(lambda: third.replicas().in_sync == ("r1", "r2", "r0"), "r0 was not rebuilt")
        third.stop()
        assert stage.content(0) == stage.content(1) == stage.content(2)


@alone
def test_a_write_that_was_on_the_first_replica_alone_is_on_all_after_the_next_start() -> None:
    with Stage() as stage:
        engine = stage.engine(step=killed_at("R1", 2), step_after_first=True)
        client = engine.client()
        write(client, 0)
        client.flush()
        assert refusal(lambda: write(client, 0, 2)) == errno.EIO
        engine.life.wait()
        assert stage.content(0)[:BLOCK] == block(0, 2)
        assert stage.content(1)[:BLOCK] == stage.content(2)[:BLOCK] == block(0)
        second = stage.engine(2)
        client = second.client()
        assert [read(client, 0) for _ in stage.names] == [block(0, 2)] * 3
        assert "2 blocks copied" in second.replicas().history[0]
        second.stop()
        assert stage.content(0) == stage.content(1) == stage.content(2)


@alone
def test_acknowledged_before_all_replicas_have_it_is_on_one_alone() -> None:
    with Stage(variant="ack-before-all-replicas") as stage:
        engine = stage.engine(step=killed_at("R1"))
        client = engine.client()
        write(client, 0)
        engine.life.wait()
        assert stage.content(0)[:BLOCK] == block(0)
        assert stage.content(1)[:BLOCK] == stage.content(2)[:BLOCK] == bytes(BLOCK)


@alone
def test_an_orderly_end_needs_no_comparison() -> None:
    with Stage() as stage:
        engine = stage.engine()
        write(engine.client(), 0)
        engine.stop()
        assert "(closed clean)" in stage.engine(2).replicas().history[0]


@alone
def test_who_was_left_out_is_not_enough_to_start_from() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        write(client, 0)
        stage.kill(2)
        write(client, 0, 2)
        engine.life.kill()
        stage.kill(0, 1)
        stage.start(2)
        refused = stage.engine(2, refused=True)
        ended = refused.told(say.Ended)
        assert "names r0, r1" in ended.why and not ended.fenced
        stage.start(0)
        stage.start(1)
        client = stage.engine(3).client()
        assert [read(client, 0) for _ in range(4)] == [block(0, 2)] * 4


@alone
def test_salvage_that_picks_the_first_gives_an_older_version() -> None:
    with Stage(variant="salvage-picks-first") as stage:
        engine = stage.engine()
        client = engine.client()
        write(client, 0)
        stage.kill(0)
        write(client, 0, 2)
        engine.life.kill()
        stage.start(0)
        assert read(stage.engine(2).client(), 0) == block(0)


@alone
def test_an_old_engine_that_stops_does_not_say_that_the_new_ones_replicas_are_clean() -> None:
    with Stage() as stage:
        old = stage.engine()
        new = stage.engine(2)
        write(new.client(), 0)
        old.stop()
        assert all(stage.state(number).dirty for number in range(3))
        with Remote("r0", stage.addresses[0], 1.0) as remote:
            assert refusal(lambda: remote.ask(Open(1, "engine-1"))) == errno.ESTALE
            assert refusal(lambda: remote.ask(CloseClean())) == errno.ENOTCONN

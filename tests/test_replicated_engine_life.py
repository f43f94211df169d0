"""The replicated volume's engine while it serves: rebuilding, snapshots, hand-over, full disks, clients that leave."""

import errno
import os

import pytest
from replicated_engine_support import ANSWER_SECONDS, BLOCK, Stage, alone, block
from test_replicated_engine import read, refusal, rejoined, write
from volume_support import eventually

from fixtures.systems.replicated_volume import control as say
from harness.engine.nbd_client import NbdBackend

pytestmark = pytest.mark.root


@alone
def test_a_replica_is_rebuilt_while_writes_go_on() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        for number in range(0, 900, 3):
            write(client, number)
        stage.kill(1)
        for number in range(0, 900, 2):
            write(client, number, 2)
        client.discard(0, 4 * BLOCK)
        stage.start(1)
        host, port = stage.addresses[1]
        assert isinstance(engine.order(lambda number: say.Add(number, "r1", host, port)), say.Done)
        written = 0
        while "r1" in engine.replicas().rebuilding:
            write(client, written % 900, 3)
            written += 1
        assert written and engine.replicas().in_sync == ("r0", "r2", "r1")
        assert stage.state(1).mode == "RW" and stage.state(1).members == ("r0", "r2", "r1")
        engine.stop()
        assert stage.content(0) == stage.content(1) == stage.content(2)


@alone
def test_a_replica_that_joins_without_rebuild_is_read_at_once() -> None:
    with Stage(variant="rejoin-without-rebuild") as stage:
        engine = stage.engine()
        client = engine.client()
        write(client, 0)
        stage.kill(1)
        write(client, 0, 2)
        stage.start(1)
        rejoined(stage, engine, 1)
        assert {read(client, 0) for _ in stage.names} == {block(0), block(0, 2)}


@alone
def test_a_rebuild_whose_replica_dies_costs_nothing_and_can_begin_anew() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        stage.kill(1)
        for number in range(600):
            write(client, number)
        before = engine.replicas().epoch
        stage.start(1)
        host, port = stage.addresses[1]
        engine.order(lambda number: say.Add(number, "r1", host, port))
        stage.life(1).halt()
        stage.kill(1)
        eventually(lambda: not engine.replicas().rebuilding, "the rebuild goes on without its replica")
        state = engine.replicas()
        if "r1" not in state.in_sync:  # it may have been done before the kill
            assert state.epoch == before
        write(client, 0, 2)
        stage.start(1)
        rejoined(stage, engine, 1)
        engine.stop()
        assert stage.content(0) == stage.content(1) == stage.content(2)


@alone
def test_a_lazy_engine_takes_over_when_its_client_comes() -> None:
    with Stage() as stage:
        old = stage.engine()
        client = old.client()
        new = stage.engine(2, lazy=True)
        for number in range(8):
            write(client, number)
        assert new.replicas().in_sync == ()
        client.switch(new.endpoint)
        assert new.told(say.Serving).in_sync == stage.names
        write(client, 0, 2)
        assert [read(client, 0) for _ in stage.names] == [block(0, 2)] * 3
        assert refusal(lambda: write(old.client(), 1, 3)) == errno.EIO
        assert old.told(say.Ended).fenced
        assert bytes(client.read(BLOCK, 7 * BLOCK)) == b"".join(map(block, range(1, 8)))
        new.stop()


@alone
def test_a_lazy_engine_that_can_not_take_over_ends_and_the_old_one_serves_on() -> None:
    with Stage() as stage:
        old = stage.engine()
        client = old.client()
        new = stage.engine(2, lazy=True)
        stage.life(2).halt()
        assert refusal(lambda: client.switch(new.endpoint)) in (errno.EPROTO, errno.ECONNRESET)
        assert "names r2" in new.told(say.Ended).why
        stage.life(2).go_on()
        write(client, 0)
        assert old.replicas().in_sync == stage.names


@alone
def test_snapshots_are_made_and_deleted_on_all_replicas() -> None:
    with Stage() as stage:
        engine = stage.engine()
        client = engine.client()
        write(client, 0)
        assert isinstance(engine.order(lambda number: say.Snapshot(number, "one")), say.Done)
        write(client, 0, 2)
        assert all(stage.state(number).snapshots == ("one",) for number in range(3))
        again = engine.order(lambda number: say.Snapshot(number, "one"))
        assert isinstance(again, say.Failed)
        assert engine.replicas().in_sync == stage.names
        assert isinstance(engine.order(lambda number: say.Forget(number, "one")), say.Done)
        assert isinstance(engine.order(lambda number: say.Forget(number, "one")), say.Done)
        assert all(stage.state(number).snapshots == () for number in range(3))
        assert [read(client, 0) for _ in stage.names] == [block(0, 2)] * 3


@alone
def test_a_replica_whose_disk_is_full_is_out_and_the_others_go_on() -> None:
    with Stage(small=1) as stage:
        engine = stage.engine()
        client = engine.client()
        for number in range(64):
            write(client, number, 2)
        state = engine.replicas()
        assert state.in_sync == ("r0", "r2")
        assert "No space left on device" in state.history[-1]
        assert stage.state(0).members == ("r0", "r2")
        assert bytes(client.read(0, BLOCK)) == block(0, 2)


@alone
def test_early_answers_hide_that_a_replica_failed() -> None:
    with Stage(variant="ack-before-all-replicas", small=1) as stage:
        engine = stage.engine()
        client = engine.client()
        for number in range(64):
            write(client, number, 2)
        assert "r1" in engine.replicas().in_sync
        assert stage.content(0) != stage.content(1)


@alone
def test_clients_come_and_go_and_an_engine_without_a_supervisor_ends() -> None:
    with Stage() as stage:
        engine = stage.engine()
        for version in range(1, 4):
            with_one = engine.client()
            write(with_one, 0, version)
            with_one.close()
        second = NbdBackend(engine.endpoint, answer_seconds=ANSWER_SECONDS)
        assert read(second, 0) == block(0, 3)
        engine.hang_up()
        assert engine.life.wait() == 0


@alone
def test_an_endpoint_that_a_killed_engine_left_is_taken() -> None:
    with Stage() as stage:
        first = stage.engine()
        first.life.kill()
        os.rename(first.endpoint, f"{stage.folder}/engine-2")
        second = stage.engine(2)
        assert second.endpoint == f"{stage.folder}/engine-2"
        write(second.client(), 0)

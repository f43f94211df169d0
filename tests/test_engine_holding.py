"""Requests and marks that an engine holds, rules that sleep, processes that it kills, its own end."""

import os
import signal

import pytest
from rules_support import BLOCK, SECONDS, SIZE, Held, disk

from harness.blocklog import Kind
from harness.engine import start_engine
from harness.engine.rules import Rule
from harness.errors import EngineLost
from harness.machine import mounts
from harness.machine.image import Image
from harness.machine.process import wait_readable

pytestmark = pytest.mark.root


def test_a_held_request_is_done_when_the_rules_are_replaced_and_others_are_served_meanwhile() -> None:
    with disk([Rule(action="hang", on="write", nth=2)]) as at:
        assert at.write(0, b"a") == "ok"
        held = Held(lambda: at.write(1, b"b"))
        assert at.engine.await_hit(SECONDS)
        assert at.write(2, b"c") == "ok"
        assert at.read(0, 3) == "a.c" and held.waits
        at.engine.arm([Rule(action="drop", on="write")])
        assert held.end() == "ok"
        assert at.read(0, 3) == "abc"
        assert at.counts() == [(0, 0)], "what was held is not counted again"


def test_a_released_rule_holds_nothing_more_and_another_one_does() -> None:
    rules = [Rule(action="hang", on="write", nth=1, count=0, extents=((0, BLOCK),)), Rule(action="hang", on="read")]
    with disk(rules) as at:
        reading = Held(lambda: at.read(5))
        assert at.engine.await_hit(SECONDS)
        writing = Held(lambda: at.write(0, b"a"))
        assert at.engine.await_hit(SECONDS)
        at.engine.release(0)
        assert writing.end() == "ok" and Held(lambda: at.write(0, b"b")).end() == "ok"
        assert reading.waits
        assert at.read(0) == "b"
        at.engine.release(1)
        assert reading.end() == "."


def test_what_was_held_is_refused_where_a_rule_refuses_everything_by_then() -> None:
    """As a device that is pulled out does: the request that was the address never reaches the medium."""
    rules = [
        Rule(action="error", on="write", count=0, since="gone", extents=((0, 4 * BLOCK),)),
        Rule(action="hang", on="write", nth=2, count=0),
    ]
    with disk(rules) as at:
        assert at.write(0, b"a") == "ok"
        inside, beyond = Held(lambda: at.write(1, b"b")), None
        assert at.engine.await_hit(SECONDS)
        beyond = Held(lambda: at.write(9, b"c"))
        assert at.engine.await_hit(SECONDS)
        at.engine.wake("gone")
        at.engine.release(1)
        assert (inside.end(), beyond.end()) == ("EIO", "ok")
        assert [Held(lambda: at.write(2, b"d")).end(), Held(lambda: at.write(8, b"e")).end()] == ["EIO", "ok"]
        assert at.read(0, 10) == "a.......ec"


def test_a_mark_can_be_held_and_whoever_said_it_waits() -> None:
    with disk([Rule(action="hang", on="mark", text="op:begin 7")]) as at:

        def say(text: bytes) -> str:
            at.engine.mark(text)
            return "said"

        assert [Held(lambda: say(b"op:begin 70")).end(), Held(lambda: say(b"op:end 7")).end()] == ["said"] * 2
        held = Held(lambda: say(b"op:begin 7"))
        assert at.engine.await_hit(SECONDS)
        assert held.waits and at.marks() == ["op:begin 70", "op:end 7"]
        at.engine.wake("a word of the harness")  # the mark file itself is busy
        at.engine.release(0)
        assert held.end() == "said"
        assert at.marks()[2:] == ["a word of the harness", "op:begin 7"]


def test_a_rule_sleeps_until_its_mark() -> None:
    with disk([Rule(action="drop", on="write", since="op:begin 7", nth=2)]) as at:
        at.write(0, b"a")
        at.engine.mark(b"op:begin 71")
        at.write(1, b"b")
        assert at.counts() == [(0, 0)]
        at.engine.mark(b"op:begin 7")
        at.write(2, b"c")
        at.engine.mark(b"op:begin 7")
        at.write(3, b"d")
        assert at.read(0, 4) == "abc."
        assert at.counts() == [(2, 1)]


def test_a_process_is_killed_before_anybody_is_answered_and_one_that_is_gone_is_no_hit() -> None:
    with disk() as at:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        at.engine.arm([Rule(action="signal", on="write", nth=2, count=2, pid=pid)])
        at.write(0, b"a")
        assert at.counts() == [(1, 0)]
        at.write(1, b"b")
        pidfd = os.pidfd_open(pid)
        assert wait_readable(pidfd, SECONDS)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(pidfd)
        at.write(2, b"c")
        assert at.counts() == [(3, 1)]
        assert at.read(0, 3) == "abc"


@pytest.mark.parametrize(("after", "content"), [(False, "a."), (True, "ab")])
def test_an_engine_dies_before_the_request_is_done_or_after_it(after: bool, content: str) -> None:
    with disk([Rule(action="die", on="write", nth=2, after=after)]) as at:
        assert at.write(0, b"a") == "ok"
        assert at.write(1, b"b") != "ok"
        assert at.engine.wait(SECONDS) and at.counts() == [(2, 1)]
        log = at.engine.parsed()
        letters = {event.offset // BLOCK: chr(log.data(event)[0]) for event in log.events if event.kind is Kind.WRITE}
        assert "".join(letters.get(block, ".") for block in range(2)) == content


def test_a_hit_is_told_once_and_not_to_whoever_arms_next() -> None:
    with disk([Rule(action="drop", on="write", count=2)]) as at:
        assert not at.engine.await_hit(0)
        at.write(0, b"a")
        at.write(0, b"a")
        assert at.engine.await_hit(0)
        at.engine.arm([Rule(action="drop", on="write", nth=2)])
        at.write(0, b"a")
        assert not at.engine.await_hit(0)
        at.write(0, b"a")
        assert at.engine.await_hit(0)
        at.engine.slay(SECONDS)
        assert at.engine.await_hit(0), "nothing more can come"
        with pytest.raises(EngineLost):
            at.engine.arm([Rule(action="drop", on="write")])


def test_a_halted_engine_answers_when_it_goes_on() -> None:
    with disk() as at:
        for _ in range(20):
            at.engine.halt()
            with open(f"/proc/{at.engine.pid}/stat", encoding="ascii") as stat:
                state = stat.read().split()[2]
            held = Held(lambda: at.write(0, b"a"))
            waited = held.waits
            at.engine.go_on()  # before anything is asserted: the disk cannot be closed under a halted engine
            assert (state, waited) == ("T", True)
            assert held.end() == "ok" and at.read(0) == "a"


def test_a_halted_engine_can_be_stopped() -> None:
    with Image.create(SIZE, "base") as base:
        where = mounts.enter_private_mounts().engine
        with start_engine(base, log_max=1 << 20, sector_size=BLOCK, mount_dir=where) as engine:
            engine.halt()
        assert engine.exit_status == 0


def test_what_was_held_gets_an_answer_though_the_log_is_full_by_then() -> None:
    with disk([Rule(action="hang", on="write")], log_max=8 * BLOCK) as at:
        held = Held(lambda: at.write(0, b"a", 4))
        assert at.engine.await_hit(SECONDS)
        assert at.write(5, b"b", 5) == "ok"
        at.engine.heal()
        assert held.end() == "EIO"
        assert at.engine.status.full

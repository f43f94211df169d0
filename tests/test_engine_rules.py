"""What an engine can be told to do wrong, at its own file, without a loop device or a file system in between."""

import errno
import os

import msgspec
import pytest
from rules_support import BLOCK, SECONDS, SIZE, disk

from harness.blocklog import Kind
from harness.blocklog.format import LIED
from harness.engine.rules import POSSIBLE, RULES_MAX, Armed, Count, Order, Rule, checked
from harness.errors import Misuse

on_a_kernel = pytest.mark.root


@on_a_kernel
@pytest.mark.parametrize(
    ("rule", "writes", "content"),
    [
        (Rule(action="error", on="write", nth=2), ["ok", "EIO", "ok"], "a.c"),
        (Rule(action="error", on="write", nth=2, errno=errno.ENOSPC), ["ok", "ENOSPC", "ok"], "a.c"),
        (Rule(action="error", on="write", nth=2, count=2), ["ok", "EIO", "EIO"], "a.."),
        (Rule(action="error", on="write", nth=2, count=0), ["ok", "EIO", "EIO"], "a.."),
        (Rule(action="error", on="write", extents=((BLOCK, 1),)), ["ok", "EIO", "ok"], "a.c"),
        (Rule(action="error", on="write", nth=2, extents=((0, 2 * BLOCK),)), ["ok", "EIO", "ok"], "a.c"),
        (Rule(action="drop", on="write", nth=2), ["ok", "ok", "ok"], "a.c"),
        (Rule(action="flip", on="write", nth=2, shift=BLOCK + 1), ["ok", "ok", "ok"], "a?c"),
        (Rule(action="misdirect", on="write", nth=1, shift=2 * BLOCK), ["ok", "ok", "ok"], ".bc"),
        (Rule(action="late", on="write", nth=2), ["ok", "ok", "ok"], "a.c"),
        (Rule(action="short", on="write", nth=2), ["ok", "EIO", "ok"], "a.c"),
        (Rule(action="delay", on="write", nth=2, seconds=0.01), ["ok", "ok", "ok"], "abc"),
        (Rule(action="error", on="read", nth=9), ["ok", "ok", "ok"], "abc"),
    ],
    ids=lambda rule: f"{rule.action}-{rule.nth}" if isinstance(rule, Rule) else "",
)
def test_a_write_meets_its_rule_and_others_do_not(rule: Rule, writes: list[str], content: str) -> None:
    with disk([rule]) as at:
        assert [at.write(block, letter) for block, letter in enumerate((b"a", b"b", b"c"))] == writes
        at.engine.heal()
        assert at.read(0, 3) == content


@on_a_kernel
def test_what_a_fault_kept_from_the_medium_is_not_in_the_log_and_a_mark_says_why() -> None:
    rules = [
        Rule(action="drop", on="write", nth=1),
        Rule(action="short", on="write", nth=2),
        Rule(action="drop", on="discard", nth=1),
    ]
    with disk(rules) as at:
        assert at.write(0, b"a") == "ok"
        assert at.write(2, b"b", 5) == "EIO"
        assert at.discard(3) == "ok"
        assert at.read(0, 7) == "..bb..."
        assert at.kinds() == "w"
        (half,) = [event for event in at.engine.parsed().events if event.kind is Kind.WRITE]
        assert (half.offset, half.length) == (2 * BLOCK, 2 * BLOCK)
        assert at.marks() == [
            "fault: drop: write of 4096 at 0",
            "fault: short: write of 20480 at 8192",
            "fault: drop: discard of 4096 at 12288",
        ]


@on_a_kernel
def test_a_misdirected_write_that_would_leave_the_disk_goes_back_instead() -> None:
    with disk([Rule(action="misdirect", on="write", count=0, shift=4 * BLOCK)]) as at:
        assert at.write(62, b"a", 2) == "ok"
        assert at.read(58, 6) == "aa...."


@on_a_kernel
@pytest.mark.parametrize(
    ("rule", "results", "log"),
    [
        (Rule(action="error", on="flush", nth=2), ["ok", "EIO", "ok"], "wff"),
        (Rule(action="error", on="flush", nth=1, count=0), ["EIO", "EIO", "EIO"], "w"),
        (Rule(action="lie", on="flush", nth=2), ["ok", "ok", "ok"], "wff"),
        (Rule(action="late", on="write", errno=errno.ENOSPC), ["ENOSPC", "ok", "ok"], "ff"),
    ],
    ids=["error", "error-for-ever", "lie", "late"],
)
def test_a_flush_meets_its_rule(rule: Rule, results: list[str], log: str) -> None:
    with disk([rule]) as at:
        assert at.write(0, b"a") == "ok"
        assert [at.flush() for _ in range(3)] == results
        assert at.kinds() == log
        if rule.action == "lie":
            assert LIED.decode() in at.marks()


@on_a_kernel
def test_reads_and_discards_can_fail() -> None:
    with disk([Rule(action="error", on="read", nth=2), Rule(action="error", on="discard")]) as at:
        at.write(0, b"a")
        assert [at.read(0), at.read(0), at.read(0)] == ["a", "EIO", "a"]
        assert [at.discard(0), at.read(0), at.discard(0), at.read(0)] == ["EIO", "a", "ok", "."]


@on_a_kernel
def test_every_rule_counts_what_it_matches_and_the_first_that_acts_decides() -> None:
    rules = [
        Rule(action="error", on="write", nth=2),
        Rule(action="drop", on="write", nth=2, count=2),
        Rule(action="lie", on="flush", nth=5),
    ]
    with disk(rules) as at:
        assert [at.write(block, b"x") for block in range(3)] == ["ok", "EIO", "ok"]
        assert at.flush() == "ok"
        assert at.read(0, 3) == "x.."
        assert at.counts() == [(3, 1), (3, 1), (1, 0)]
        at.engine.heal()
        assert at.write(0, b"y") == "ok"
        assert at.counts() == [(3, 1), (3, 1), (1, 0)], "the counts of what was healed stay"
        at.engine.arm([Rule(action="drop", on="write", nth=9)])
        assert at.counts() == [(0, 0)]
        at.write(0, b"z")
        at.engine.slay(SECONDS)
        assert at.counts() == [(1, 0)], "also when the engine is gone"


@on_a_kernel
def test_an_order_that_has_no_meaning_is_refused_by_both_sides() -> None:
    with disk([Rule(action="drop", on="write", nth=2)]) as at:
        with pytest.raises(Misuse, match="past the end of the device"):
            at.engine.arm([Rule(action="error", on="write", extents=((SIZE, BLOCK),))])
        fd = os.open(f"{at.engine.mount_dir}/control", os.O_WRONLY)
        for text in (b"[]", b"{", msgspec.json.encode(Order(rules=[Rule(action="lie", on="write")]))):
            with pytest.raises(OSError) as refused:
                os.pwrite(fd, len(text).to_bytes(8, "little") + text, 0)
            assert refused.value.errno == errno.EINVAL
        os.close(fd)
        assert [at.write(0, b"a"), at.write(1, b"b")] == ["ok", "ok"]
        assert at.read(0, 2) == "a.", "the rules of before hold on"


def test_what_has_no_meaning_on_a_disk_is_misuse() -> None:
    for rules, why in (
        ([Rule(action="drop", on="flush")], "a flush cannot be made to drop"),
        ([Rule(action="signal", on="write")], "no process to kill: pid 0"),
        ([Rule(action="misdirect", on="write", shift=512)], "cannot go 512 bytes astray"),
        ([Rule(action="misdirect", on="write")], "cannot go 0 bytes astray"),
        ([Rule(action="misdirect", on="write", shift=SIZE // 2)], "past the end of the device"),
        ([Rule(action="error", on="write", extents=((0, 0),))], "no range of a device"),
        ([Rule(action="error", on="write", extents=((-1, 4),))], "no range of a device"),
        ([Rule(action="error", on="write", extents=((SIZE - BLOCK, BLOCK + 1),))], "past the end of the device"),
        ([Rule(action="drop", on="write")] * (RULES_MAX + 1), f"{RULES_MAX + 1} faults of one device at once"),
    ):
        with pytest.raises(Misuse, match=why):
            checked(rules, SIZE, BLOCK)
    everything = [
        Rule(action=action, on=request, pid=99, shift=BLOCK)  # type: ignore[arg-type]
        for action, requests in POSSIBLE.items()
        for request in requests
    ]
    for rule in everything:
        assert checked([rule], SIZE, BLOCK) == [rule]


def test_a_rule_without_a_place_or_words_is_about_all() -> None:
    armed = Armed()
    armed.arm(
        [
            Rule(action="hang", on="mark"),
            Rule(action="hang", on="mark", text="op:begin"),
            Rule(action="drop", on="write"),
        ]
    )
    assert armed.decide("mark", 0, 0, ["op:beginning"]) == 0
    assert armed.decide("mark", 0, 0, ["x", "op:begin 3"]) == 1
    assert armed.decide("write", 9, 1) == 2
    assert [Count(seen, hit) for seen, hit in zip(armed.seen, armed.hit, strict=True)] == [
        Count(2, 1),
        Count(1, 1),
        Count(1, 1),
    ]

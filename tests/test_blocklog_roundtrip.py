"""What was written is read: any events, marks of any length, logs cut off anywhere."""

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.blocklog import BlockLog, Kind, LogWriter, Mark
from harness.blocklog.format import MARK_MAX, split_mark
from harness.errors import BadLog

Op = tuple[str, int, bytes, bool]

sectors = st.integers(0, 1 << 40).map(lambda n: n * 512)
mark_texts = st.one_of(
    st.binary(max_size=MARK_MAX).filter(lambda text: not text.startswith(b"+")),
    st.tuples(st.sampled_from([b"promise:", b"json:", b"op:"]), st.binary(max_size=2000)).map(b"".join),
)
ops = st.lists(
    st.one_of(
        st.tuples(st.just("write"), sectors, st.integers(1, 3).map(lambda n: bytes([n]) * 512 * n), st.booleans()),
        st.tuples(st.just("discard"), sectors, st.integers(1, 9).map(lambda n: bytes(512 * n)), st.just(False)),
        st.tuples(st.just("flush"), st.just(0), st.just(b""), st.just(False)),
        st.tuples(st.just("mark"), st.just(0), mark_texts, st.just(False)),
    ),
    max_size=12,
)


def write_log(operations: list[Op]) -> bytes:
    buffer = bytearray(1 << 17)
    writer = LogWriter(buffer)
    for kind, offset, data, fua in operations:
        if kind == "write":
            writer.write(offset, data, fua)
        elif kind == "discard":
            writer.discard(offset, len(data))
        elif kind == "flush":
            writer.flush()
        else:
            writer.mark(data)
    return bytes(buffer[: writer.tail])


def read_back(log: BlockLog) -> list[Op]:
    marks = {mark.at: mark.text for mark in log.marks}
    found: list[Op] = []
    for at, event in enumerate(log.events):
        if event.kind is Kind.MARK:
            data = marks[at]
        else:
            data = bytes(event.length) if event.kind is Kind.DISCARD else bytes(log.data(event))
        found.append((event.kind.name.lower(), event.offset, data, event.fua))
    return found


@settings(max_examples=300, deadline=None)
@given(ops)
def test_what_was_written_is_read(operations: list[Op]) -> None:
    raw = write_log(operations)
    log = BlockLog.parse(raw)
    assert read_back(log) == operations
    assert log.size == len(raw)


@settings(max_examples=150, deadline=None)
@given(ops, st.data())
def test_a_log_cut_off_is_refused_or_ends_where_its_count_says(operations: list[Op], data: st.DataObject) -> None:
    raw = write_log(operations)
    cut = data.draw(st.integers(0, max(0, len(raw) - 1)))
    with pytest.raises(BadLog):
        BlockLog.parse(raw[:cut])
    entries = data.draw(st.integers(0, BlockLog.parse(raw).entries))
    fewer = raw[:16] + struct.pack("<Q", entries) + raw[24:]
    shorter = BlockLog.parse(fewer)
    # A mark in several pieces may be cut in the middle: then it was never made.
    assert read_back(shorter) == operations[: len(shorter.events)]
    assert read_back(BlockLog.parse(fewer[: shorter.size])) == read_back(shorter)


def test_every_truncation_of_a_small_log() -> None:
    raw = write_log([("write", 512, b"w" * 512, False), ("mark", 0, b"promise:" + b"p" * 900, False)])
    for cut in range(len(raw)):
        with pytest.raises(BadLog):
            BlockLog.parse(raw[:cut])


def with_marks(*texts: bytes) -> bytes:
    body = b"".join((struct.pack("<QQQQ", 0, 0, 8, len(text)) + text).ljust(512, b"\0") for text in texts)
    return struct.pack("<QQQI", 0x6A736677736872, 1, len(texts), 512).ljust(512, b"\0") + body


def test_a_long_mark_stands_where_its_last_piece_stands() -> None:
    log = BlockLog.parse(with_marks(b"+promise:ab", b"+promise:cd", b"promise:ef", b"begin"))
    assert log.marks == [Mark(0, b"promise:abcdef"), Mark(1, b"begin")]
    assert [promise.raw for promise in log.promises()] == [b"abcdef"]


@pytest.mark.parametrize("texts", [(b"+promise:ab", b"json:c"), (b"+promise:ab", b"begin"), (b"+op:a", b"+json:b")])
def test_a_long_mark_that_is_interrupted_is_refused(texts: tuple[bytes, ...]) -> None:
    with pytest.raises(BadLog, match="interrupted"):
        BlockLog.parse(with_marks(*texts))


def test_an_event_between_the_pieces_of_a_mark_is_refused() -> None:
    raw = bytearray(with_marks(b"+promise:ab", b"x", b"promise:cd"))
    raw[1024:1056] = struct.pack("<QQQQ", 0, 0, 1, 0)
    with pytest.raises(BadLog, match="interrupted"):
        BlockLog.parse(raw)
    raw[1024:1056] = struct.pack("<QQQQ", 0, 1, 0, 0)
    with pytest.raises(BadLog, match="interrupted"):
        BlockLog.parse(raw)


def test_a_mark_of_the_kernel_that_begins_with_a_plus_is_a_mark() -> None:
    assert BlockLog.parse(with_marks(b"+1", b"+fine:")).marks == [Mark(0, b"+1"), Mark(1, b"+fine:")]


def test_a_mark_without_a_prefix_must_fit_into_one_entry() -> None:
    # The kernel keeps the sector less the 32 bytes of the entry and one for a NUL.
    assert MARK_MAX == 512 - 32 - 1
    assert split_mark(b"m" * MARK_MAX) == [b"m" * MARK_MAX]
    with pytest.raises(ValueError, match="must begin with"):
        split_mark(b"m" * (MARK_MAX + 1))
    with pytest.raises(ValueError, match="looks like a piece"):
        split_mark(b"+promise:x")


def test_promises_are_counted_before_the_cut() -> None:
    value = {"n": 1, "text": "zwei\nlines"}
    log = BlockLog.parse(
        write_log(
            [
                ("mark", 0, b"begin", False),
                ("mark", 0, b"promise:caf\xe9 \x00", False),
                ("flush", 0, b"", False),
                ("mark", 0, b"json:" + json.dumps(value).encode(), False),
                ("mark", 0, b"promise:", False),
            ]
        )
    )
    assert [promise.value for promise in log.promises()] == ["caf\udce9 \x00", value, ""]
    assert log.promises()[0].line == b"caf\xe9 \x00"
    assert [len(log.promises(cut)) for cut in range(len(log.events) + 1)] == [0, 0, 1, 1, 2, 3]
    assert (log.find(b"begin"), log.find(b"end")) == (0, None)


def test_a_promise_that_is_no_json_is_refused_when_it_is_looked_at() -> None:
    promise = BlockLog.parse(with_marks(b"json:{")).promises()[0]
    with pytest.raises(BadLog, match="not JSON"):
        _ = promise.value

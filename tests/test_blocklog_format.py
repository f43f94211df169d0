"""The block log has the layout of the kernel's dm-log-writes; expectations are packed by hand from its document."""

import struct

import pytest

from harness.blocklog import BlockLog, Event, Kind, LogWriter, Mark
from harness.errors import BadLog, BoundExceeded

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16


def superblock(entries: int, sector_size: int = 512, magic: int = MAGIC, version: int = 1) -> bytes:
    return struct.pack("<QQQI", magic, version, entries, sector_size).ljust(sector_size, b"\0")


def entry(
    sector: int, nr_sectors: int, flags: int, text: bytes = b"", sector_size: int = 512, data_len: int | None = None
) -> bytes:
    header = struct.pack("<QQQQ", sector, nr_sectors, flags, len(text) if data_len is None else data_len)
    return (header + text).ljust(sector_size, b"\0")


def written(size: int = 1 << 16) -> tuple[bytearray, LogWriter]:
    buffer = bytearray(size)
    return buffer, LogWriter(buffer)


def test_the_bytes_are_those_of_the_kernel_document() -> None:
    buffer, writer = written()
    writer.write(4096, b"a" * 1024)
    writer.write(512, b"b" * 512, fua=True)
    writer.discard(8192, 2048)
    writer.flush()
    writer.mark(b"promise:done")
    expected = (
        superblock(5)
        + entry(8, 2, 0)
        + b"a" * 1024
        + entry(1, 1, FUA)
        + b"b" * 512
        + entry(16, 4, DISCARD)
        + entry(0, 0, FLUSH)
        + entry(0, 0, MARK, b"promise:done")
    )
    assert bytes(buffer[: writer.tail]) == expected


def test_a_log_of_the_kernel_is_read() -> None:
    raw = (
        superblock(6)
        + entry(8, 2, METADATA)
        + b"a" * 1024
        + entry(1, 1, FLUSH | FUA | METADATA)
        + b"b" * 512
        + entry(16, 4, DISCARD)
        + entry(0, 0, FLUSH)
        + entry(0, 0, MARK, b"mkfs")
        + entry(0, 0, MARK, b"dm-log-writes-end")
    )
    log = BlockLog.parse(raw + b"what an older log left on the device")
    assert log.events == [
        Event(Kind.WRITE, 4096, 1024, 1024, False),
        Event(Kind.FLUSH, 0, 0, -1, False),
        Event(Kind.WRITE, 512, 512, 2560, True),
        Event(Kind.DISCARD, 8192, 2048, -1, False),
        Event(Kind.FLUSH, 0, 0, -1, False),
        Event(Kind.MARK, 0, 0, -1, False),
        Event(Kind.MARK, 0, 0, -1, False),
    ]
    assert log.marks == [Mark(5, b"mkfs"), Mark(6, b"dm-log-writes-end")]
    assert (log.entries, log.size) == (6, len(raw))
    assert [bytes(log.data(event)) for event in log.events[:4]] == [b"a" * 1024, b"", b"b" * 512, b""]


def test_a_discard_with_a_flush_is_a_flush_and_then_a_discard() -> None:
    log = BlockLog.parse(superblock(1) + entry(2, 1, FLUSH | DISCARD))
    assert log.events == [Event(Kind.FLUSH, 0, 0, -1, False), Event(Kind.DISCARD, 1024, 512, -1, False)]


def test_a_log_of_a_device_with_4096_byte_sectors_is_read() -> None:
    raw = (
        superblock(4, 4096)
        + entry(3, 2, 0, sector_size=4096)
        + b"x" * 8192
        + entry(5, 1, DISCARD, sector_size=4096)
        + entry(0, 0, FLUSH, sector_size=4096)
        + entry(0, 0, MARK, b"m" * 4000, sector_size=4096)
    )
    log = BlockLog.parse(raw)
    assert log.events[:2] == [Event(Kind.WRITE, 12288, 8192, 8192, False), Event(Kind.DISCARD, 20480, 4096, -1, False)]
    assert bytes(log.data(log.events[0])) == b"x" * 8192
    assert log.marks == [Mark(3, b"m" * 4000)]
    assert log.size == len(raw)


@pytest.mark.parametrize(
    ("raw", "at"),
    [
        (b"", "at byte 0"),
        (b"\0" * 4096, "magic"),
        (b"#!/bin/sh\n" * 100, "magic"),
        (superblock(0, magic=MAGIC + 1), "magic"),
        (superblock(0, version=2), "version 2"),
        (superblock(0, version=1)[:24] + struct.pack("<I", 0).ljust(488, b"\0"), "sector size of 0"),
        (superblock(0, 4096)[:24] + struct.pack("<I", 1000).ljust(4072, b"\0"), "sector size of 1000"),
        (superblock(0, 4096)[:2000], "cut off, at byte 2000"),
        (superblock(1), "entry 0 of 1 is cut off, at byte 512"),
        (superblock(1) + entry(0, 2, 0) + b"x" * 1000, "data of entry 0"),
        (superblock(1) + entry(0, 0, 0), "does nothing, at byte 512"),
        (superblock(1) + entry(5, 0, DISCARD), "does nothing"),
        (superblock(1) + entry(5, 0, FUA), "does nothing"),
        (superblock(1) + entry(0, 1, 32) + b"x" * 512, "unknown flags 0x20"),
        (superblock(1) + entry(0, 1, MARK) + b"x" * 512, "a mark that is none"),
        (superblock(1) + entry(0, 0, MARK, data_len=481), "a mark that is none"),
        (superblock(1) + entry(1 << 62, 1, 0) + b"x" * 512, "beyond any device"),
        (superblock(1) + entry(1 << 62, 1, DISCARD), "beyond any device"),
    ],
)
def test_what_is_no_log_is_refused_with_the_place(raw: bytes, at: str) -> None:
    with pytest.raises(BadLog, match=at) as caught:
        BlockLog.parse(raw)
    assert "at byte" in caught.value.cause
    assert caught.value.remedy


def test_a_full_log_refuses_and_stays_readable() -> None:
    buffer, writer = written(512 * 5)
    writer.write(0, b"a" * 1024)
    before = bytes(buffer)
    with pytest.raises(BoundExceeded):
        writer.write(0, b"b" * 512)
    with pytest.raises(BoundExceeded):
        writer.commit_write(0, 512)
    with pytest.raises(BoundExceeded):
        writer.mark(b"promise:" + b"x" * 1000)
    assert bytes(buffer) == before
    assert writer.room == 512
    writer.flush()
    with pytest.raises(BoundExceeded):
        writer.flush()
    assert [event.kind for event in BlockLog.parse(buffer).events] == [Kind.WRITE, Kind.FLUSH]
    with pytest.raises(BoundExceeded):
        LogWriter(bytearray(511))


def test_a_payload_put_in_place_is_entered_without_a_copy() -> None:
    buffer, writer = written()
    buffer[writer.payload_at : writer.payload_at + 4096] = b"z" * 4096
    writer.commit_write(8192, 4096)
    assert writer.payload_at == writer.tail + 512
    log = BlockLog.parse(buffer)
    assert log.events == [Event(Kind.WRITE, 8192, 4096, 1024, False)]
    assert bytes(log.data(log.events[0])) == b"z" * 4096


def test_bytes_left_behind_the_tail_do_not_get_into_the_next_header() -> None:
    buffer, writer = written()
    buffer[writer.payload_at - 512 :] = b"\xff" * len(buffer[writer.payload_at - 512 :])
    writer.mark(b"m")
    writer.flush()
    assert bytes(buffer[512:1536]) == entry(0, 0, MARK, b"m") + entry(0, 0, FLUSH)


@pytest.mark.parametrize(("offset", "data"), [(1, b"a" * 512), (0, b"a" * 511), (0, b"")])
def test_parts_of_sectors_are_not_written(offset: int, data: bytes) -> None:
    _, writer = written()
    with pytest.raises(ValueError, match="whole 512-byte sectors"):
        writer.write(offset, data)


def test_release_lets_go_of_the_buffer() -> None:
    buffer, writer = written()
    writer.flush()
    log = BlockLog.parse(buffer)
    with pytest.raises(BufferError):
        buffer.clear()
    log.release()
    buffer.clear()
    assert len(log.events) == 1

"""Appending to a block log. Runs in the engine's hot path: no allocation that is not needed, no check made twice."""

import mmap
from collections.abc import Sequence
from struct import Struct

from harness.blocklog.format import COUNT, COUNT_AT, ENTRY, MAGIC, SECTOR, SUPER, VERSION, Flag, split_mark
from harness.blocklog.reader import BlockLog
from harness.errors import BoundExceeded

# The rest of the sector is packed as zeros, as the kernel leaves it: a payload that was read into the buffer and then
# not committed may have left bytes there.
_HEADER = Struct(f"<QQQQ{SECTOR - ENTRY.size}x")
_SUPER_SECTOR = Struct(f"<QQQI{SECTOR - SUPER.size}x")
_pack_header = _HEADER.pack_into
_pack_count = COUNT.pack_into
_FLUSH = int(Flag.FLUSH)
_FUA = int(Flag.FUA)
_DISCARD = int(Flag.DISCARD)
_MARK = int(Flag.MARK)


class LogWriter:
    """Writes a new log into `buffer` (a shared mmap, or any writable buffer of bytes), from its start.

    The order of the stores is payload, header, nr_entries. So whoever shares the buffer finds a readable log at every
    instant, also after this process was killed. Offsets and lengths are bytes and multiples of 512.

    Every method raises BoundExceeded when the buffer is full, and then has changed nothing.
    """

    __slots__ = ("_buffer", "_end", "entries", "payload_at", "tail")

    def __init__(self, buffer: mmap.mmap | bytearray | memoryview) -> None:
        self._buffer = buffer
        self._end = len(buffer)
        self.entries = 0
        self.tail = SECTOR
        """Bytes of the buffer in use."""
        self.payload_at = 2 * SECTOR
        """Where in the buffer the payload of the next write belongs: put it there, then call commit_write."""
        if self._end < SECTOR:
            raise BoundExceeded(f"a block log needs {SECTOR} bytes, the buffer has {self._end}")
        _SUPER_SECTOR.pack_into(buffer, 0, MAGIC, VERSION, 0, SECTOR)

    @classmethod
    def behind(cls, log: BlockLog, room: int) -> "LogWriter":
        """A writer that goes on where `log` ends, on a copy of it, with so many bytes left for more."""
        buffer = bytearray(log.size + room)
        writer = cls(buffer)
        buffer[: log.size] = log.view[: log.size]
        writer.entries, writer.tail, writer.payload_at = log.entries, log.size, log.size + SECTOR
        return writer

    def parsed(self) -> BlockLog:
        """What was entered so far."""
        return BlockLog.parse(self._buffer)

    @property
    def room(self) -> int:
        """Bytes of the buffer that are left. A write takes 512 more than its payload; everything else takes 512."""
        return self._end - self.tail

    def commit_write(self, offset: int, length: int, fua: bool = False) -> None:
        """Enter the `length` bytes that stand at `payload_at` as a write to the device's byte `offset`."""
        tail = self.tail
        new = tail + SECTOR + length
        if new > self._end:
            raise self._full(SECTOR + length)
        buffer = self._buffer
        _pack_header(buffer, tail, offset >> 9, length >> 9, _FUA if fua else 0, 0)
        self.tail = new
        self.payload_at = new + SECTOR
        self.entries = entries = self.entries + 1
        _pack_count(buffer, COUNT_AT, entries)

    def write(self, offset: int, data: bytes | bytearray | memoryview, fua: bool = False) -> None:
        """Enter a write whose payload is elsewhere; it is copied. Raises ValueError for what is not whole sectors."""
        length = len(data)
        if offset % SECTOR or length % SECTOR or not length:
            raise ValueError(f"a write of {length} bytes at {offset} is not made of whole {SECTOR}-byte sectors")
        if SECTOR + length > self.room:
            raise self._full(SECTOR + length)
        at = self.payload_at
        self._buffer[at : at + length] = data
        self.commit_write(offset, length, fua)

    def discard(self, offset: int, length: int) -> None:
        """Enter a discard, a hole punched or a range zeroed: the range reads back as zeros."""
        self._append([(offset >> 9, length >> 9, _DISCARD, b"")])

    def flush(self) -> None:
        """Enter a completed flush: everything entered before it is durable."""
        self._append([(0, 0, _FLUSH, b"")])

    def mark(self, text: bytes) -> None:
        """Enter a mark. A long one (see format.PREFIXES) takes several entries, which become visible all at once."""
        self._append([(0, 0, _MARK, piece) for piece in split_mark(text)])

    def _append(self, headers: Sequence[tuple[int, int, int, bytes]]) -> None:
        tail = self.tail
        new = tail + SECTOR * len(headers)
        if new > self._end:
            raise self._full(SECTOR * len(headers))
        buffer = self._buffer
        for sector, nr_sectors, flags, text in headers:
            _pack_header(buffer, tail, sector, nr_sectors, flags, len(text))
            if text:
                buffer[tail + ENTRY.size : tail + ENTRY.size + len(text)] = text
            tail += SECTOR
        self.tail = new
        self.payload_at = new + SECTOR
        self.entries += len(headers)
        _pack_count(buffer, COUNT_AT, self.entries)

    def _full(self, needed: int) -> BoundExceeded:
        cause = f"the block log is full: {needed} bytes needed, {self.room} left of {self._end}"
        return BoundExceeded(cause, "record less at once, or allow a larger log")

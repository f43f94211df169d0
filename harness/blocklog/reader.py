"""Reading a block log: events in the order in which the device completed them, marks, promises."""

import enum
import json
import mmap
from bisect import bisect_left
from typing import Any, NamedTuple

from harness.blocklog.format import ENTRY, JSON, MAGIC, PREFIXES, PROMISE, SECTOR, SUPER, VERSION, Flag
from harness.errors import BadLog

_REMEDY = "give a log written by dm-log-writes or by this harness, whole"
_FLUSH, _FUA, _DISCARD, _MARK = int(Flag.FLUSH), int(Flag.FUA), int(Flag.DISCARD), int(Flag.MARK)
_KNOWN = _FLUSH | _FUA | _DISCARD | _MARK | int(Flag.METADATA)
_OFFSET_MAX = 1 << 63
_PIECES = tuple(b"+" + prefix for prefix in PREFIXES)


class Kind(enum.IntEnum):
    """What an event did to the device; a MARK did nothing."""

    WRITE = 0
    DISCARD = 1
    FLUSH = 2
    MARK = 3


class Event(NamedTuple):
    """One event. `offset` and `length` are bytes on the device (0 for FLUSH and MARK)."""

    kind: Kind
    offset: int
    length: int
    data_at: int
    """Where the payload of a WRITE lies in the log's buffer, else -1."""
    fua: bool
    """Durable when it completes; orders nothing else."""


class Mark(NamedTuple):
    """One mark. `at` is the index of its event; one that was spread over several entries stands at the last of them."""

    at: int
    text: bytes


class Promise(NamedTuple):
    """What the workload said after something became durable. `at` is the index of its mark among the events."""

    at: int
    raw: bytes
    """The line that was written to the promise file, without its newline; or JSON text."""
    is_json: bool

    @property
    def value(self) -> Any:
        """The object promised from Python, or the line as text (bytes that are not UTF-8 as surrogates).

        Raises BadLog where the mark says JSON and is none.
        """
        if not self.is_json:
            return self.raw.decode("utf-8", "surrogateescape")
        try:
            return json.loads(self.raw)
        except ValueError as error:
            raise BadLog(f"the promise at event {self.at} is not JSON: {error}", _REMEDY) from None

    @property
    def line(self) -> bytes:
        """The promise as one line of a file of promises, without the newline."""
        return self.raw


class BlockLog:
    """A parsed log over the buffer that holds it (bytes, mmap, memoryview); payloads are never copied."""

    def __init__(self, view: memoryview, events: list[Event], marks: list[Mark], entries: int, size: int) -> None:
        self.events = events
        self.marks = marks
        self.entries = entries
        """Entries in the log; an entry can be two events, and several entries one mark."""
        self.size = size
        """Bytes of the buffer that the log takes up."""
        self._view = view
        self._promises = [promise for mark in marks if (promise := _as_promise(mark))]
        self._promise_at = [promise.at for promise in self._promises]

    @classmethod
    def parse(cls, buffer: bytes | bytearray | mmap.mmap | memoryview) -> "BlockLog":
        """Read the log that begins at the start of `buffer`; what lies behind its last entry is not looked at.

        A mark whose last piece was never written (its writer was killed) is left out: it was never completed.
        Raises BadLog, with the byte where reading stopped, for bytes that are no such log or end too early.
        """
        view = memoryview(buffer).cast("B").toreadonly()
        entries, sector_size = _read_super(view)
        parser = _Parser(view, sector_size)
        parser.run(entries)
        return cls(view, parser.events, parser.marks, entries, parser.at)

    @property
    def view(self) -> memoryview:
        """The whole buffer, read-only. `view[:size]` is the log itself, ready for export."""
        return self._view

    def data(self, event: Event) -> memoryview:
        """The payload of a WRITE, read-only; empty for every other kind."""
        start = event.data_at
        return self._view[start : start + event.length] if start >= 0 else self._view[:0]

    def promises(self, upto: int | None = None) -> list[Promise]:
        """The promises made among `events[:upto]`, in order."""
        return self._promises[: None if upto is None else bisect_left(self._promise_at, upto)]

    def find(self, text: bytes) -> int | None:
        """The index of the event of the first mark with exactly this text, or None."""
        return next((mark.at for mark in self.marks if mark.text == text), None)

    def release(self) -> None:
        """Let go of the buffer, so that an mmap can be closed. Events and marks stay; payloads are gone."""
        self._view.release()


def _as_promise(mark: Mark) -> Promise | None:
    for prefix, is_json in ((PROMISE, False), (JSON, True)):
        if mark.text.startswith(prefix):
            return Promise(mark.at, mark.text[len(prefix) :], is_json)
    return None


def _bad(what: str, at: int) -> BadLog:
    return BadLog(f"not a readable block log: {what}, at byte {at}", _REMEDY)


def _read_super(view: memoryview) -> tuple[int, int]:
    if len(view) < SUPER.size:
        raise _bad(f"{len(view)} bytes cannot hold the superblock", len(view))
    magic, version, entries, sector_size = SUPER.unpack_from(view)
    if magic != MAGIC:
        raise _bad(f"the magic number is {magic:#x}, not {MAGIC:#x}", 0)
    if version != VERSION:
        raise _bad(f"version {version} is not known, only {VERSION}", 8)
    if not SECTOR <= sector_size <= 1 << 16 or sector_size & (sector_size - 1):
        raise _bad(f"a sector size of {sector_size} bytes", 24)
    if len(view) < sector_size:
        raise _bad("the superblock's sector is cut off", len(view))
    return entries, sector_size


class _Parser:
    """One pass over the entries. Bound methods and plain integers, for logs of hundreds of thousands of entries."""

    def __init__(self, view: memoryview, sector_size: int) -> None:
        self.view = view
        self.sector_size = sector_size
        self.at = sector_size
        self.events: list[Event] = []
        self.marks: list[Mark] = []
        self.pieces: list[bytes] = []

    def run(self, entries: int) -> None:
        view, size, end, at = self.view, self.sector_size, len(self.view), self.at
        add, unpack, write = self.events.append, ENTRY.unpack_from, Kind.WRITE
        for number in range(entries):
            body = at + size
            if body > end:
                raise _bad(f"entry {number} of {entries} is cut off", end)
            sector, nr_sectors, flags, data_len = unpack(view, at)
            offset, length = sector * size, nr_sectors * size
            if flags & ~_FUA or self.pieces or not length or offset + length > _OFFSET_MAX:
                at = self.special(at, offset, length, flags, data_len)
            else:
                add(Event(write, offset, length, body, flags == _FUA))
                at = body + length
            if at > end:
                raise _bad(f"the data of entry {number} of {entries} is cut off", end)
        self.at = at

    def special(self, at: int, offset: int, length: int, flags: int, data_len: int) -> int:
        """Everything but a plain write; returns where the next entry begins."""
        self.check(at, offset, length, flags, data_len)
        body = at + self.sector_size
        if flags & _MARK:
            self.mark(bytes(self.view[at + ENTRY.size : at + ENTRY.size + data_len]), at)
            return body
        if self.pieces:
            raise _bad("a mark in several pieces is interrupted", at)
        # A request that carries both is a flush first: it covers what completed before, not its own data.
        if flags & _FLUSH:
            self.events.append(Event(Kind.FLUSH, 0, 0, -1, False))
        fua = bool(flags & _FUA)
        if flags & _DISCARD:
            self.events.append(Event(Kind.DISCARD, offset, length, -1, fua))
        elif length:
            self.events.append(Event(Kind.WRITE, offset, length, body, fua))
            return body + length
        return body

    def check(self, at: int, offset: int, length: int, flags: int, data_len: int) -> None:
        if flags & ~_KNOWN:
            raise _bad(f"an entry with unknown flags {flags:#x}", at)
        if offset + length > _OFFSET_MAX:
            raise _bad("an entry reaches beyond any device", at)
        if flags & _MARK:
            if flags != _MARK or length or data_len > self.sector_size - ENTRY.size:
                raise _bad("a mark that is none", at)
        elif not length and (flags & _DISCARD or not flags & _FLUSH):
            raise _bad("an entry that does nothing", at)

    def mark(self, text: bytes, at: int) -> None:
        prefix = next((prefix for prefix in PREFIXES if text.startswith((prefix, b"+" + prefix))), b"")
        if self.pieces and prefix != self.pieces[0]:
            raise _bad("a mark in several pieces is interrupted", at)
        if text.startswith(_PIECES):
            self.pieces = self.pieces or [prefix]
            self.pieces.append(text[len(prefix) + 1 :])
            return
        if self.pieces:
            text = b"".join((*self.pieces, text[len(prefix) :]))
            self.pieces = []
        self.marks.append(Mark(len(self.events), text))
        self.events.append(Event(Kind.MARK, 0, 0, -1, False))

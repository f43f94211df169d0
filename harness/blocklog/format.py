"""The on-disk format of a block log, as the kernel's dm-log-writes target writes it. All integers are little-endian.

Source: Linux, Documentation/admin-guide/device-mapper/log-writes.rst and the layout that drivers/md/dm-log-writes.c
fixes.

One log sector (`sectorsize` bytes, the logical block of the recorded device) holds the superblock. Entries follow, one
after the other: a header that fills one log sector, then `nr_sectors` log sectors of payload for a write. A discard has
`nr_sectors` but no payload; a flush has neither; the text of a mark stands in the header's sector, behind the entry.
Both `sector` and `nr_sectors` count log sectors.

Marks of the harness itself (see `PREFIXES`) may be longer than one sector holds. Such a text is spread over consecutive
marks, each with the prefix repeated, and a `+` before it on all but the last.
"""

import enum
from struct import Struct
from typing import NamedTuple

MAGIC = 0x6A736677736872
VERSION = 1
SECTOR = 512

SUPER = Struct("<QQQI")
"""magic, version, nr_entries, sectorsize"""

COUNT = Struct("<Q")
COUNT_AT = 16
"""Where nr_entries stands. It is aligned, so storing it is one machine write: a reader never sees half of it."""

ENTRY = Struct("<QQQQ")
"""sector, nr_sectors, flags, data_len"""

MARK_MAX = SECTOR - ENTRY.size - 1
"""Longest text in one mark, in bytes: the kernel keeps one byte for a NUL, and tools in C rely on it."""

PROMISE = b"promise:"
JSON = b"json:"
OPERATION = b"op:"
PREFIXES = (PROMISE, JSON, OPERATION)
"""What marks of the harness begin with; only these may be continued over several marks."""

BEGIN = b"begin"
END = b"end"
FAULT = b"fault: "
"""What a mark begins with where a device did something else than it was asked for."""
LIED = b"flush acknowledged, not done"
"""Where a lying engine was asked for a flush."""


class Flag(enum.IntFlag):
    """Bits of an entry's flags."""

    FLUSH = 1 << 0
    FUA = 1 << 1
    DISCARD = 1 << 2
    MARK = 1 << 3
    METADATA = 1 << 4


class Entry(NamedTuple):
    """The fields of an entry's header, in the units of the log."""

    sector: int
    nr_sectors: int
    flags: int
    data_len: int


def split_mark(text: bytes) -> list[bytes]:
    """The texts of the marks that carry `text`: one where it fits, else pieces that the reader puts together again.

    Raises ValueError for a long text without one of PREFIXES, and for one that a reader would take for a piece.
    """
    if text.startswith(tuple(b"+" + prefix for prefix in PREFIXES)):
        raise ValueError(f"the mark {text[:32]!r} looks like a piece of a longer one")
    if len(text) <= MARK_MAX:
        return [text]
    prefix = next((prefix for prefix in PREFIXES if text.startswith(prefix)), None)
    if prefix is None:
        raise ValueError(f"a mark of {len(text)} bytes must begin with one of {PREFIXES}")
    body = memoryview(text)[len(prefix) :]
    step = MARK_MAX - len(prefix) - 1
    pieces = [bytes(body[at : at + step]) for at in range(0, len(body), step)]
    return [b"+" + prefix + piece for piece in pieces[:-1]] + [prefix + pieces[-1]]

"""Content that describes itself: any sector that a plan wrote tells its file, version and place. And the reader for it.

A version of a file is an endless stream of records, one each 512 bytes, readable in a hexdump: lines of 64 bytes that
all say ``file 12 version 3 at 4096 ....``, and at the record's end the xxh3_64, in hexadecimal, of all its bytes
before that. What a plan writes are slices of such streams, so an unaligned write is one too.

512 bytes is the least that a block device promises to write whole (Linux: the smallest logical block size).
"""

import enum
import re
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

SECTOR = 512

_LINE = 64
_HASH = 17  # 16 digits and a newline
_STEM = re.compile(rb"file (\d{1,20}) version (\d{1,20}) at (\d{1,20}) ")
_SHAPE = b"file # version # at # "
_DIGITS = re.compile(rb"\d+")
_SHOWN = 40


class Kind(enum.StrEnum):
    """What a sector turned out to be."""

    WHOLE = "whole"
    ZERO = "zero"
    TORN = "torn"
    GARBAGE = "garbage"


class Part(NamedTuple):
    """`length` bytes of a torn sector, all from one place."""

    length: int
    phrase: str


class Identity(NamedTuple):
    """What a sector says of itself. Of a torn one the numbers are those of the first record in it, `parts` has all."""

    kind: Kind
    inode: int = 0
    version: int = 0
    offset: int = 0
    parts: tuple[Part, ...] = ()

    @property
    def phrase(self) -> str:
        """For people: `version 3 of file 12 at byte 4096`."""
        if self.kind is Kind.WHOLE:
            return _name(self.inode, self.version, self.offset)
        if self.kind is Kind.ZERO:
            return "zeros"
        said = ", then ".join(f"{part.phrase} ({part.length} bytes)" for part in self.parts)
        return f"torn: {said}" if self.kind is Kind.TORN else self.parts[0].phrase


def payload(inode: int, version: int, offset: int, length: int) -> bytes:
    """Bytes `offset` … `offset + length` of version `version` of the file `inode`."""
    start = offset - offset % SECTOR
    records = b"".join([_record(inode, version, at) for at in range(start, offset + length, SECTOR)])
    return records[offset - start : offset - start + length]


def identify(sector: bytes) -> Identity:
    """What the bytes of one sector are: of a file's last one, at most 512 bytes may be given, from its beginning on."""
    found = _STEM.match(sector)
    if found:
        inode, version, offset = map(int, found.groups())
        if _record(inode, version, offset).startswith(sector):
            return Identity(Kind.WHOLE, inode, version, offset)
    if sector.count(0) == len(sector):
        return Identity(Kind.ZERO)
    return _mixed(sector)


def _record(inode: int, version: int, at: int) -> bytes:
    line = (b"file %d version %d at %d " % (inode, version, at)).ljust(_LINE - 1, b".") + b"\n"
    body = (line * (SECTOR // _LINE))[: SECTOR - _HASH]
    return body + b"%016x\n" % xxhash.xxh3_64_intdigest(body)


def _name(inode: int, version: int, offset: int) -> str:
    return f"version {version} of file {inode} at byte {offset}"


def _mixed(sector: bytes) -> Identity:
    stems = set(_STEM.findall(sector))
    if not stems:
        return _without_record(sector)
    numbers = [(int(inode), int(version), int(offset)) for inode, version, offset in stems]
    names = {_name(*each): each for each in numbers}
    sources = {name: _record(*each) for name, each in names.items()}
    parts = tuple(_parts(sector, sources | {"zeros": bytes(SECTOR)}))
    first = next((names[part.phrase] for part in parts if part.phrase in names), None)
    if first is None:
        return Identity(Kind.GARBAGE, parts=(Part(len(sector), _foreign(sector)),))
    return Identity(Kind.TORN, *first, parts)


def _parts(sector: bytes, sources: dict[str, bytes]) -> Iterator[Part]:
    """Cut the sector into the longest runs that one source explains; what none explains lies between them."""
    at = foreign = 0
    while at < len(sector):
        run, phrase = max((_run(sector, source, at), phrase) for phrase, source in sources.items())
        # A few bytes in common mean nothing: all records of a file begin alike.
        if run < min(8, len(sector) - at):
            at += 1
            foreign += 1
            continue
        if foreign:
            yield Part(foreign, _foreign(sector[at - foreign : at]))
        yield Part(run, phrase)
        at += run
        foreign = 0
    if foreign:
        yield Part(foreign, _foreign(sector[at - foreign : at]))


def _run(sector: bytes, source: bytes, at: int) -> int:
    """How many bytes from `at` on the two have in common."""
    there = len(sector)
    if sector[at:] == source[at:there]:
        return there - at
    return next(n for n in range(there - at) if sector[at + n] != source[at + n])


def _without_record(sector: bytes) -> Identity:
    # The last bytes of a file may be the beginning of a record, too short to say which.
    if _SHAPE.startswith(_DIGITS.sub(b"#", sector)):
        return Identity(Kind.TORN, parts=(Part(len(sector), f"a record, cut off: {_shown(sector)}"),))
    zeros = len(sector) - len(sector.rstrip(b"\0"))
    if zeros and _SHAPE.startswith(_DIGITS.sub(b"#", sector[:-zeros])):
        head = Part(len(sector) - zeros, f"a record, cut off: {_shown(sector[:-zeros])}")
        return Identity(Kind.TORN, parts=(head, Part(zeros, "zeros")))
    return Identity(Kind.GARBAGE, parts=(Part(len(sector), _foreign(sector)),))


def _foreign(data: bytes) -> str:
    if data.count(data[0]) == len(data):
        return f"{_shown(data[:1])} repeated"
    return f"bytes that no plan describes: {_shown(data)}"


def _shown(data: bytes) -> str:
    return repr(data[:_SHOWN])[1:] + ("…" if len(data) > _SHOWN else "")

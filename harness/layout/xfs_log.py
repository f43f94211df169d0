"""The log of xfs: its records, and the transactions in them, read as log recovery reads them.

Source: "XFS Algorithms & Data Structures", chapter Journaling Log; Linux fs/xfs/libxfs/xfs_log_format.h and
xfs_log_recover.c. Record headers are big-endian; what transactions log is in the byte order of the machine: logs of a
big-endian one are not read here.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.layout.xfs_format import SECTOR, Geometry

MAGIC = b"\xfe\xed\xba\xbe"
_LITTLE_ENDIAN = 1
_CYCLES = 64  # sectors whose first words one header sector keeps
_HEADER_BYTES_STEP = 32 << 10
_START, _COMMIT, _WAS_CONTINUED, _UNMOUNT = 1, 2, 8, 32
_CLIENT_TRANSACTION, _CLIENT_LOG = 0x69, 0xAA
_TRANSACTION = b"NART"

INODE, BUFFER = 0x123B, 0x123C
TYPES = {
    0x1236: "free intent",
    0x1237: "free done",
    INODE: "inode",
    BUFFER: "buffer",
    0x123D: "quota",
    0x123E: "quota off",
    0x123F: "new inode chunk",
    0x1240: "reverse map intent",
    0x1241: "reverse map done",
    0x1242: "reference count intent",
    0x1243: "reference count done",
    0x1244: "map intent",
    0x1245: "map done",
}


class Operation(NamedTuple):
    """One operation of a log record: `data` belongs to the transaction `tid`."""

    tid: int
    flags: int
    data: bytes


class Record(NamedTuple):
    """One log record. `size` in bytes, headers included; `operations` is empty where it could not be read."""

    cycle: int
    lsn: int
    size: int
    operations: tuple[Operation, ...]

    @property
    def place(self) -> str:
        return f"cycle {self.lsn >> 32}, block {self.lsn & 0xFFFFFFFF}"

    @property
    def commits(self) -> list[int]:
        """Transactions that are complete with this record."""
        return [operation.tid for operation in self.operations if operation.flags & _COMMIT]

    @property
    def unmounts(self) -> bool:
        """Whether it says that the volume was unmounted in order."""
        return any(operation.flags & _UNMOUNT for operation in self.operations)


class Item(NamedTuple):
    """What a transaction changed: a type of TYPES, and its regions, the first of which says which they are."""

    kind: int
    regions: list[bytes]


class Ring:
    """The log as it stands on the device, and the records that are whole."""

    def __init__(self, geo: Geometry) -> None:
        self._start, self._size, self._uuid = geo.log_start, geo.log_size, geo.uuid
        self._pieces: dict[int, bytes] = {}
        self._torn: list[int] = []
        """Places in the log of records whose end has not been written yet."""

    def write(self, offset: int, data: bytes) -> list[tuple[int, Record]]:
        """Take in a write to the log (a device offset); (device offset, record) of the records now whole."""
        at = offset - self._start
        for start in range(0, len(data), SECTOR):
            self._pieces[at + start] = data[start : start + SECTOR]
        found = []
        waiting, self._torn = self._torn, []
        for place in dict.fromkeys((*waiting, *_headers(data, at))):
            record = self._read(place)
            if record is None:
                self._torn.append(place)
            else:
                found.append((self._start + place, record))
        return found

    def _read(self, at: int) -> Record | None:
        """The record whose header is here; None while a part of it is missing."""
        header = self._pieces[at]
        cycle, version, length = struct.unpack_from(">III", header, 4)
        (lsn,) = struct.unpack_from(">Q", header, 16)
        (capacity,) = struct.unpack_from(">I", header, 320)
        headers = max(1, -(-capacity // _HEADER_BYTES_STEP)) if version & 2 else 1
        sectors = headers + -(-length // SECTOR)
        if length > self._size or sectors * SECTOR > self._size:
            return Record(cycle, lsn, SECTOR, ())
        places = [(at + n * SECTOR) % self._size for n in range(sectors)]
        body = [self._pieces.get(place, b"") for place in places]
        # Every sector begins with the cycle in which it was written; beyond the log's end that is the next one.
        expected = [cycle + (place < at) for place in places]
        if any(piece[:4] != value.to_bytes(4, "big") for piece, value in zip(body[1:], expected[1:], strict=True)):
            return None
        words = [header[44 : 44 + 4 * _CYCLES], *(piece[4 : 4 + 4 * _CYCLES] for piece in body[1:headers])]
        saved = b"".join(words)
        content = b"".join(saved[n * 4 : n * 4 + 4] + piece[4:] for n, piece in enumerate(body[headers:]))
        readable = struct.unpack_from(">I", header, 300)[0] == _LITTLE_ENDIAN
        operations = tuple(_operations(content[:length])) if readable else ()
        return Record(cycle, lsn, sectors * SECTOR, operations)


def is_cleared(header: bytes) -> bool:
    """Whether a sector is a record without content, with which a mount clears what lies ahead in the log."""
    return header[:4] == MAGIC and header[12:16] == bytes(4)


def _headers(data: bytes, at: int) -> Iterator[int]:
    found = data.find(MAGIC)
    while found >= 0:
        if found % SECTOR == 0 and not is_cleared(data[found : found + 16]):
            yield at + found
        found = data.find(MAGIC, found + 4)


def _operations(content: bytes) -> Iterator[Operation]:
    at = 0
    while at + 12 <= len(content):
        tid, length, client, flags = struct.unpack_from(">IIBB", content, at)
        at += 12
        if client not in (_CLIENT_TRANSACTION, _CLIENT_LOG) or at + length > len(content):
            return
        yield Operation(tid, flags, content[at : at + length])
        at += length


class Transaction(NamedTuple):
    """One that is complete. `lsn`: of the record in which it began, as inodes that it changed carry it."""

    lsn: int
    items: list[Item]


class Transactions:
    """Puts together what records carry of each transaction, until it is committed."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, list[Operation]]] = {}

    def take(self, record: Record) -> list[Transaction]:
        """The transactions that this record completes."""
        done = []
        for operation in record.operations:
            if operation.flags & _UNMOUNT:
                continue
            if operation.flags & _START:
                self._open[operation.tid] = (record.lsn, [])
            elif operation.flags & _COMMIT:
                lsn, operations = self._open.pop(operation.tid, (record.lsn, []))
                done.append(Transaction(lsn, list(_items(operations))))
            elif operation.tid in self._open:
                self._open[operation.tid][1].append(operation)
        return done


def _items(operations: list[Operation]) -> Iterator[Item]:
    regions: list[bytes] = []
    for operation in operations:
        if operation.flags & _WAS_CONTINUED and regions:
            regions[-1] += operation.data
        else:
            regions.append(operation.data)
    at = 1 if regions and regions[0][:4] == _TRANSACTION else 0
    while at < len(regions):
        if len(regions[at]) < 4:
            return
        kind, count = struct.unpack_from("<HH", regions[at])
        if kind not in TYPES and not 0x1230 <= kind < 0x1260:
            return
        yield Item(kind, regions[at : at + max(count, 1)])
        at += max(count, 1)


class InodeItem(NamedTuple):
    """What an inode item logged: its core always; the data fork where `has_fork`."""

    number: int
    core: bytes
    has_fork: bool
    fork: bytes


def inode_item(item: Item) -> InodeItem | None:
    """Fields of an inode item: 1 core, 2 local data, 4 extents, 8 btree root. None for what cannot be read."""
    head = item.regions[0]
    if len(head) < 32 or len(item.regions) < 2:
        return None
    (fields,) = struct.unpack_from("<I", head, 4)
    (number,) = struct.unpack_from("<Q", head, 16)
    has_fork = bool(fields & 0b1110)
    if len(item.regions[1]) < 176 or (has_fork and len(item.regions) < 3):
        return None
    return InodeItem(number, item.regions[1], has_fork, item.regions[2] if has_fork else b"")


class BufferItem(NamedTuple):
    """Changed chunks of a buffer at device byte `offset`: (offset within it, bytes)."""

    offset: int
    length: int
    cancelled: bool
    of_inodes: bool
    pieces: list[tuple[int, bytes]]


_CHUNK = 128


def buffer_item(item: Item) -> BufferItem | None:
    """A buffer item's map has a bit for each 128 bytes; a run of bits is a region. None for what cannot be read."""
    head = item.regions[0]
    if len(head) < 20:
        return None
    flags, length = struct.unpack_from("<HH", head, 4)
    block, words = struct.unpack_from("<qI", head, 8)
    if len(head) < 20 + 4 * words:
        return None
    bits = int.from_bytes(head[20 : 20 + 4 * words], "little")
    pieces = []
    at = 0
    for region in item.regions[1:]:
        rest = bits >> at
        if not rest:
            break
        at += (rest & -rest).bit_length() - 1
        pieces.append((at * _CHUNK, region))
        at += max(1, len(region) // _CHUNK)
    return BufferItem(block * SECTOR, length * SECTOR, bool(flags & 2), bool(flags & 1), pieces)

"""What metadata said at each time: an inode's size, and what a name led to. Read from the writes of the log itself.

For ext2, ext3 and ext4. A version of a block is what one write put in place, or what one put into the journal.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from harness.explain.explained import Entry
from harness.layout.ext4_geometry import Geometry, NotUnderstood
from harness.layout.ext4_inodes import parse_directory
from harness.layout.kinds import BlockKind, Named
from harness.trial.recording import Recording

UNDERSTOOD = ("ext2", "ext3", "ext4")
_INODE = re.compile(r"inode (\d+) \(")
_DIRECTORY = "directory block"
_NEEDS_RECOVERY = 0x4
"""super.rst, s_feature_incompat: INCOMPAT_RECOVER."""
_EXTENTS = struct.Struct("<HHHH")
_EXTENTS_MAGIC, _USES_EXTENTS, _WRITTEN_MAX = 0xF30A, 0x80000, 1 << 15
"""ifork.rst: an extent longer than 32,768 blocks is allocated and not written: it reads as zeros."""


class Version(NamedTuple):
    """One inode, as one write says it is. `transaction` 0: the write is in place."""

    event: int
    transaction: int
    generation: int
    size: int
    links: int
    unwritten: bool
    """Some of its blocks are allocated and count as never written, so they read as zeros."""


class _Place(NamedTuple):
    event: int
    piece: Named


OnDisk = Callable[[int], bool]
"""Whether the transaction of that number is on the disk."""


def inodes_in(piece: Named) -> list[int]:
    """The inodes that a block of an inode table, the journal's copy of one, or a record of a log changes."""
    return [int(number) for number in _INODE.findall(piece.text)]


class Inside:
    """Knows where each version lies, and reads it when it is asked for."""

    def __init__(self, recording: Recording, entries: Sequence[Entry]) -> None:
        self._log = recording.log
        self._base = recording.base
        self._geometry: Geometry | None = None
        self._journaled = recording.spec.fs == "xfs"
        self._tables: dict[int, list[_Place]] = {}
        self._folders: dict[str, list[_Place]] = {}
        if recording.spec.fs in UNDERSTOOD:
            try:
                self._geometry = Geometry(recording.base.map)
            except NotUnderstood:
                return
            self._journaled = self._geometry.has_journal
            self._collect(entries)

    @property
    def block_size(self) -> int:
        """Bytes of a block of the file system; of one that is not read here, what is usual."""
        return self._geometry.block_size if self._geometry else 4096

    @property
    def reads_inodes(self) -> bool:
        """Whether `versions` and `bindings` know anything."""
        return self._geometry is not None

    @property
    def was_clean(self) -> bool:
        """Whether the volume was unmounted cleanly before the log, so that its journal was empty."""
        return self._geometry is not None and not self._geometry.incompat & _NEEDS_RECOVERY

    @property
    def journaled(self) -> bool:
        """Whether the file system has a journal of transactions, each of which is done wholly or not at all."""
        return self._journaled

    def _collect(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for piece in entry.pieces:
                if piece.kind not in (BlockKind.JOURNAL_BLOCK, BlockKind.INODE_TABLE, BlockKind.DIRECTORY):
                    continue
                place = _Place(entry.event, piece)
                for inode in inodes_in(piece):
                    self._tables.setdefault(inode, []).append(place)
                if _DIRECTORY in piece.text and piece.path:
                    self._folders.setdefault(piece.path, []).append(place)

    def versions(self, inode: int) -> Iterator[Version]:
        """All that the log says of an inode, the last first."""
        if self._geometry is None or not 0 < inode <= self._geometry.inodes:
            return
        table, at = self._geometry.place_of(inode)
        for place in reversed(self._tables.get(inode, ())):
            raw = self._block(place, table)[at : at + 128]
            if len(raw) == 128:
                yield _version(place, raw)

    def names_in(self, folder: str, block: int, number: int) -> dict[bytes, int] | None:
        """name -> inode of a block of a directory, as transaction `number` has it; None where it has none."""
        places = self._folders.get(folder, ())
        mine = (p for p in places if p.piece.transaction == number and p.piece.block == block)
        place = next(mine, None)
        return self._names(place) if place else None

    def names_at(self, event: int, piece: Named) -> dict[bytes, int]:
        """The same of one write of such a block."""
        return self._names(_Place(event, piece))

    def names_before(self, folder: str, block: int, on_disk: OnDisk) -> dict[bytes, int] | None:
        """The same, as the last transaction on the disk has it; else as it was before the log. None: not known."""
        places = self._folders.get(folder, ())
        there = (p for p in reversed(places) if p.piece.block == block and on_disk(p.piece.transaction))
        if place := next(there, None):
            return self._names(place)
        homes = (p.piece.offset for p in places if p.piece.block == block and p.piece.kind is BlockKind.DIRECTORY)
        home = next(homes, -1)
        return parse_directory(self._base.read(home, self.block_size)) if home >= 0 else None

    def bound_to(self, folder: str, name: str, on_disk: OnDisk) -> tuple[int, int]:
        """(transaction, inode) of a name in the directory as the last transactions on the disk have it; else zeros."""
        raw = name.encode("utf-8", "surrogateescape")
        seen: set[int] = set()
        for place in reversed(self._folders.get(folder, ())):
            if place.piece.block in seen or not on_disk(place.piece.transaction):
                continue
            seen.add(place.piece.block)
            if inode := self._names(place).get(raw):
                return place.piece.transaction, inode
        return 0, 0

    def _names(self, place: _Place) -> dict[bytes, int]:
        return parse_directory(self._bytes(place, place.piece.offset, place.piece.length))

    def _block(self, place: _Place, block: int) -> bytes:
        """Of a run of blocks in place the wanted one; a copy in the journal is one block."""
        piece, size = place.piece, self.block_size
        if piece.kind is BlockKind.JOURNAL_BLOCK:
            return self._bytes(place, piece.offset, size) if piece.length == size else b""
        if not piece.offset <= block * size < piece.offset + piece.length:
            return b""
        return self._bytes(place, block * size, size)

    def _bytes(self, place: _Place, offset: int, length: int) -> bytes:
        event = self._log.events[place.event]
        return bytes(self._log.data(event)[offset - event.offset : offset - event.offset + length])


def _version(place: _Place, raw: bytes) -> Version:
    size = int.from_bytes(raw[4:8], "little") + (int.from_bytes(raw[0x6C:0x70], "little") << 32)
    links, generation = int.from_bytes(raw[0x1A:0x1C], "little"), int.from_bytes(raw[0x64:0x68], "little")
    return Version(place.event, place.piece.transaction, generation, size, links, _has_unwritten(raw))


def _has_unwritten(raw: bytes) -> bool:
    """Of a tree that lies in the inode; of a deeper one nothing is said."""
    if not int.from_bytes(raw[0x20:0x24], "little") & _USES_EXTENTS:
        return False
    magic, entries, _, depth = _EXTENTS.unpack_from(raw, 0x28)
    if magic != _EXTENTS_MAGIC or depth or entries > 4:
        return False
    return any(int.from_bytes(raw[at : at + 2], "little") > _WRITTEN_MAX for at in range(0x38, 0x38 + 12 * entries, 12))

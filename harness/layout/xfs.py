"""The blocks that xfs wrote, by name. Metadata of version 5 says itself what it is, where it belongs and whose it is.

A block is called metadata only if it carries this volume's UUID and its own address. Data blocks have the names that
the log and the inodes give them (harness.layout.xfs_state). Source: "XFS Algorithms & Data Structures".
"""

from collections.abc import Iterator, Sequence

from harness.blocklog import BlockLog, Kind
from harness.layout import xfs_log
from harness.layout.kinds import BlockKind, Named
from harness.layout.mappings import Place, runs
from harness.layout.xfs_format import SECTOR, Buffer, geometry, inode_on_disk
from harness.layout.xfs_state import State
from harness.layout.xfs_words import AG_SECTORS, DIRECTORY_BLOCK, Metadata, ag_header, listed, metadata

_OLD = "block of an xfs volume older than version 5, which does not say what it is"


def name_writes(base: Buffer, log: BlockLog, size: int, *, end: int | None = None) -> dict[int, tuple[Named, ...]]:
    """For each WRITE and DISCARD event (index into log.events[:end]): its runs of blocks in order of offset.

    They cover the event whole. `base` is the volume of `size` bytes before the log, all of which is read to name what
    its first `end` events wrote. `transaction` of a log record is its LSN (cycle in the upper 32 bits, block below).
    """
    upto = len(log.events) if end is None else end
    geo = geometry(base, size)
    if geo is None:
        return {
            n: (Named(offset=event.offset, length=event.length, kind=BlockKind.UNKNOWN, text=_OLD),)
            for n, event in enumerate(log.events[:upto])
            if event.kind in (Kind.WRITE, Kind.DISCARD)
        }
    return _Namer(State(base, geo)).names(log, upto)


class _Record:
    """A record of the log, seen at its header; `record` comes when its last sector is there."""

    def __init__(self) -> None:
        self.record: xfs_log.Record | None = None
        self.changed: list[int | str] = []
        self.words: list[str] = []


class _Piece:
    """A run of blocks whose name can be given when the whole log has been read."""

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.named: Named | None = None
        self.metadata: Metadata | None = None
        self.block = -1
        self.inodes: list[int] | None = None
        self.changed: list[int] = []
        self.record: _Record | None = None


class _Namer:
    def __init__(self, state: State) -> None:
        self._state = state
        self._geo = state.geo
        self._ring = xfs_log.Ring(state.geo)
        self._transactions = xfs_log.Transactions()
        self._records: dict[int, _Record] = {}

    def names(self, log: BlockLog, upto: int) -> dict[int, tuple[Named, ...]]:
        """Twice through the log: what it says, then what that makes of each write."""
        pieces: dict[int, list[_Piece]] = {}
        for n, event in enumerate(log.events):
            if event.kind is Kind.WRITE:
                pieces[n] = self._read(n, event.offset, bytes(log.data(event)))
            elif event.kind is Kind.DISCARD:
                pieces[n] = [_discarded(event.offset, event.length)]
        return {n: tuple(self._named(n, its)) for n, its in pieces.items() if n < upto}

    def _read(self, event: int, offset: int, data: bytes) -> list[_Piece]:
        geo = self._geo
        start, stop = geo.log_start, geo.log_start + geo.log_size
        if start <= offset < stop:
            inside = min(len(data), stop - offset)
            found = self._read_log(event, offset, data[:inside])
            return found + (self._read(event, offset + inside, data[inside:]) if inside < len(data) else [])
        found = []
        at = 0
        while at < len(data):
            piece = self._read_block(event, offset + at, data, at)
            if found and _joins(found[-1], piece):
                _join(found[-1], piece)
            else:
                found.append(piece)
            at += piece.length
        return found

    def _read_block(self, event: int, offset: int, data: bytes, at: int) -> _Piece:
        geo = self._geo
        in_ag = offset % (geo.ag_blocks * geo.block)
        if in_ag < AG_SECTORS * geo.sector:
            length = min(geo.sector - offset % geo.sector, len(data) - at)
            piece = _Piece(offset, length)
            named = ag_header(geo, offset)
            piece.named = Named(offset=offset, length=length, kind=named.kind, text=named.text)
            return piece
        length = min(geo.block - offset % geo.block, len(data) - at)
        piece = _Piece(offset, length)
        if length < geo.block:
            return piece
        raw = data[at : at + length]
        piece.metadata = metadata(geo, offset, raw)
        if piece.metadata:
            self._state.place_block(event, offset // geo.block, raw)
            if piece.metadata.text == DIRECTORY_BLOCK:
                piece.block = self._state.directory_block(piece.metadata.owner, offset // geo.block)
        elif self._is_inodes(offset, raw):
            piece.changed = self._state.place_inodes(event, offset // geo.block, raw)
            first = geo.first_inode(offset)
            piece.inodes = [first, first + geo.block // geo.inode - 1]
        else:
            self._state.mappings.write(event, offset // geo.block, 1)
        return piece

    def _is_inodes(self, offset: int, raw: bytes) -> bool:
        if raw[:2] != b"IN":
            return False
        first = inode_on_disk(raw, 0, self._geo)
        return first is not None and first.number == self._geo.first_inode(offset)

    def _read_log(self, event: int, offset: int, data: bytes) -> list[_Piece]:
        pieces = self._log_pieces(offset, data)
        for place, record in self._ring.write(offset, data):
            its = self._records[place]
            its.record = record
            for transaction in self._transactions.take(record):
                its.changed += self._state.apply(event, transaction)
            its.words = [self._buffer_words(int(each[1:])) for each in its.changed if isinstance(each, str)]
        return pieces

    def _log_pieces(self, offset: int, data: bytes) -> list[_Piece]:
        pieces: list[_Piece] = []
        for at in range(0, len(data), SECTOR):
            header = data[at : at + 16]
            cleared = xfs_log.is_cleared(header)
            if cleared or header[:4] == xfs_log.MAGIC or not pieces:
                if not (cleared and pieces and pieces[-1].named):
                    pieces.append(_Piece(offset + at, 0))
                if cleared:
                    pieces[-1].named = _CLEARED
                elif header[:4] == xfs_log.MAGIC:
                    self._records[offset + at] = pieces[-1].record = _Record()
            pieces[-1].length += min(SECTOR, len(data) - at)
        return pieces

    def _buffer_words(self, offset: int) -> str:
        geo = self._geo
        if offset % (geo.ag_blocks * geo.block) < AG_SECTORS * geo.sector:
            return ag_header(geo, offset).text
        raw = self._state.block(offset // geo.block)
        found = metadata(geo, offset, raw)
        if found:
            return found.text
        return "inodes" if self._is_inodes(offset, raw) else "a buffer"

    def _named(self, event: int, pieces: Sequence[_Piece]) -> Iterator[Named]:
        for piece in pieces:
            if piece.named:
                yield _placed(piece.named, piece.offset, piece.length)
            elif piece.metadata:
                yield self._metadata(event, piece, piece.metadata)
            elif piece.inodes:
                yield self._inodes(event, piece, piece.inodes)
            elif self._geo.log_start <= piece.offset < self._geo.log_start + self._geo.log_size:
                yield self._logged(event, piece)
            else:
                yield from self._data(event, piece)

    def _file(self, event: int, inode: int, generation: int = -1) -> tuple[str, str]:
        """How a file is called, and its path."""
        path = self._state.path(inode, event, generation)
        return (path or f"inode {inode}"), path

    def _metadata(self, event: int, piece: _Piece, found: Metadata) -> Named:
        text, path = found.text, ""
        if found.owner:
            name, path = self._file(event, found.owner)
            text = f"{found.text}{'' if piece.block < 0 else f' {piece.block}'} of {name}"
        return Named(
            offset=piece.offset,
            length=piece.length,
            kind=found.kind,
            text=text,
            path=path,
            inode=found.owner,
            block=piece.block,
        )

    def _inodes(self, event: int, piece: _Piece, inodes: list[int]) -> Named:
        files = [self._with_path(event, inode) for inode in piece.changed]
        text = f"inodes {inodes[0]} to {inodes[1]}" + (f": {listed(files)}" if files else "")
        one = piece.changed[0] if len(piece.changed) == 1 else 0
        path = self._state.path(one, event) if one else ""
        return Named(
            offset=piece.offset, length=piece.length, kind=BlockKind.INODE_TABLE, text=text, path=path, inode=one
        )

    def _with_path(self, event: int, inode: int) -> str:
        path = self._state.path(inode, event)
        return f"{inode} ({path})" if path else str(inode)

    def _logged(self, event: int, piece: _Piece) -> Named:
        kind, text, lsn = BlockKind.JOURNAL_BLOCK, "log, the rest of a record", 0
        inode = 0
        if piece.record and piece.record.record:
            record, lsn = piece.record.record, piece.record.record.lsn
            inodes = [each for each in dict.fromkeys(piece.record.changed) if isinstance(each, int)]
            words = [f"inode {self._with_path(event, each)}" for each in inodes]
            words += dict.fromkeys(piece.record.words)
            what = "a clean unmount" if record.unmounts else listed(words)
            text = f"log record ({record.place})"
            if record.commits or record.unmounts:
                kind, text = BlockKind.JOURNAL_COMMIT, f"{text} that commits {what or 'a transaction'}"
            inode = inodes[0] if len(inodes) == 1 else 0
        path = self._state.path(inode, event) if inode else ""
        return Named(
            offset=piece.offset, length=piece.length, kind=kind, text=text, path=path, inode=inode, transaction=lsn
        )

    def _data(self, event: int, piece: _Piece) -> Iterator[Named]:
        size = self._geo.block
        first = piece.offset // size
        count = -(-(piece.offset + piece.length) // size) - first
        places = [tuple(self._state.mappings.places(event, first + n)) for n in range(count)]
        for start, number in runs(places):
            lo = max(piece.offset, (first + start) * size)
            hi = min(piece.offset + piece.length, (first + start + number) * size)
            yield self._data_run(event, lo, hi - lo, places[start], number)

    def _data_run(self, event: int, offset: int, length: int, places: tuple[Place, ...], number: int) -> Named:
        if not places:
            text = "blocks that no inode the volume then wrote has as its own"
            return Named(offset=offset, length=length, kind=BlockKind.UNKNOWN, text=text)
        files = [self._file(event, place.owner.inode, place.owner.generation) for place in places]
        first = places[0]
        span = f"block {first.block}" if number == 1 else f"blocks {first.block} to {first.block + number - 1}"
        shared = f", shared with {listed([name for name, _ in files[1:]])}" if len(files) > 1 else ""
        return Named(
            offset=offset,
            length=length,
            kind=BlockKind.DATA,
            text=f"data {span} of {files[0][0]}{shared}",
            path=files[0][1],
            inode=first.owner.inode,
            block=first.block,
            generation=first.owner.generation,
        )


_CLEARED = Named(offset=0, length=0, kind=BlockKind.JOURNAL_BLOCK, text="log, cleared ahead of its head")


def _placed(named: Named, offset: int, length: int) -> Named:
    return Named(offset=offset, length=length, kind=named.kind, text=named.text)


def _discarded(offset: int, length: int) -> _Piece:
    piece = _Piece(offset, length)
    piece.named = Named(offset=offset, length=length, kind=BlockKind.FREE, text="unused blocks, discarded")
    return piece


def _joins(one: _Piece, two: _Piece) -> bool:
    """Data next to data, inodes next to inodes: one run."""
    if one.named or two.named or one.metadata or two.metadata:
        return False
    return (one.inodes is None) == (two.inodes is None)


def _join(one: _Piece, two: _Piece) -> None:
    one.length += two.length
    one.changed += two.changed
    if one.inodes and two.inodes:
        one.inodes[1] = two.inodes[1]

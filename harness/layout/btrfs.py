"""The blocks that btrfs wrote, by name. Each tree block carries the volume's UUID, its own address and its tree.

Nothing is written over what is in use, so a block of data has its owner in the leaves that are written after it.
Source: btrfs.readthedocs.io, "On-disk Format". Profiles that stripe (RAID0, RAID5, …) are not taken apart.
"""

from collections.abc import Iterator

from harness.blocklog import BlockLog, Kind
from harness.layout import btrfs_format as disk
from harness.layout.btrfs_format import LOG_TREE, ROOT_TREE, SUPER_BYTES, SUPERBLOCKS, Buffer, Header, Stripe, Super
from harness.layout.btrfs_state import Leaf, State
from harness.layout.kinds import BlockKind, Named
from harness.layout.links import File
from harness.layout.mappings import Place, runs

_NONE = "block of a volume that has no btrfs superblock"
_LISTED_MAX = 6


def name_writes(base: Buffer, log: BlockLog, size: int, *, end: int | None = None) -> dict[int, tuple[Named, ...]]:
    """For each WRITE and DISCARD event (index into log.events[:end]): its runs of blocks in order of offset.

    They cover the event whole. `base` is the volume of `size` bytes before the log, all of which is read to name what
    its first `end` events wrote. `transaction` is the generation of a block of the log tree, and of a superblock.
    """
    upto = len(log.events) if end is None else end
    first = disk.superblock(bytes(base[SUPERBLOCKS[0] : SUPERBLOCKS[0] + SUPER_BYTES]))
    if first is None or first.size > size:
        return {
            n: (Named(offset=event.offset, length=event.length, kind=BlockKind.UNKNOWN, text=_NONE),)
            for n, event in enumerate(log.events[:upto])
            if event.kind in (Kind.WRITE, Kind.DISCARD)
        }
    return _Namer(State(base, first), first).names(log, upto)


class _Piece:
    """A run of one write: a superblock, a tree block, a discard, or data."""

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.named: Named | None = None
        self.tree: tuple[Header, Stripe, Leaf] | None = None


class _Namer:
    def __init__(self, state: State, first: Super) -> None:
        self._state = state
        self._super = first
        self._read_already: dict[tuple[int, int, bytes], Leaf] = {}
        self._lists: dict[int, str] = {}

    def names(self, log: BlockLog, upto: int) -> dict[int, tuple[Named, ...]]:
        """Twice through the log: what it says, then what that makes of each write."""
        pieces: dict[int, list[_Piece]] = {}
        for n, event in enumerate(log.events):
            if event.kind is Kind.WRITE:
                pieces[n] = list(self._read(n, event.offset, bytes(log.data(event))))
            elif event.kind is Kind.DISCARD:
                pieces[n] = [_discarded(event.offset, event.length)]
        self._state.settle()
        for n, its in pieces.items():
            for piece in its:
                self._note_data(n, piece)
        return {n: tuple(self._named(n, its)) for n, its in pieces.items() if n < upto}

    def _read(self, event: int, offset: int, data: bytes) -> Iterator[_Piece]:
        plain: _Piece | None = None
        at = 0
        while at < len(data):
            piece = self._super_piece(event, offset + at, data, at) or self._tree_piece(event, offset + at, data, at)
            if piece is None:
                length = min(self._super.sector - (offset + at) % self._super.sector, len(data) - at)
                if plain:
                    plain.length += length
                else:
                    plain = _Piece(offset + at, length)
                at += length
                continue
            if plain:
                yield plain
                plain = None
            yield piece
            at += piece.length
        if plain:
            yield plain

    def _super_piece(self, event: int, offset: int, data: bytes, at: int) -> _Piece | None:
        if offset not in SUPERBLOCKS:
            return None
        found = disk.superblock(data[at : at + SUPER_BYTES])
        if found is None:
            return None
        if offset == SUPERBLOCKS[0]:
            self._state.take_super(event, found)
        piece = _Piece(offset, SUPER_BYTES)
        copy = SUPERBLOCKS.index(offset)
        text = f"superblock{f' copy {copy}' if copy else ''}, generation {found.generation}"
        text += ", points to a log tree" if found.log_root else ""
        piece.named = Named(
            offset=offset, length=SUPER_BYTES, kind=BlockKind.SUPERBLOCK, text=text, transaction=found.generation
        )
        return piece

    def _tree_piece(self, event: int, offset: int, data: bytes, at: int) -> _Piece | None:
        node = self._super.node
        if data[at + 32 : at + 48] != self._super.uuid or at + node > len(data):
            return None
        head = disk.header(data, at)
        stripe = self._state.is_at(head.logical, offset)
        if stripe is None:
            return None
        raw = data[at : at + node]
        same = (head.logical, head.generation, raw[:32])  # copies of one block; the checksum stands first
        if same not in self._read_already:
            self._read_already[same] = self._state.take(event, raw)
        piece = _Piece(offset, node)
        piece.tree = head, stripe, self._read_already[same]
        return piece

    def _note_data(self, event: int, piece: _Piece) -> None:
        if piece.named is None and piece.tree is None:
            first, count = self._units(piece)
            if first >= 0:
                self._state.mappings.write(event, first, count)

    def _units(self, piece: _Piece) -> tuple[int, int]:
        """First logical sector and number of sectors; -1 where the place had two meanings, or none."""
        stripes = self._state.stripes(piece.offset)
        sector = self._super.sector
        if len(stripes) != 1 or piece.offset + piece.length > stripes[0].physical + stripes[0].length:
            return -1, 0
        first = (stripes[0].logical + piece.offset - stripes[0].physical) // sector
        return first, -(-piece.length // sector)

    def _named(self, event: int, pieces: list[_Piece]) -> Iterator[Named]:
        for piece in pieces:
            if piece.named:
                yield piece.named
            elif piece.tree:
                yield self._tree(event, piece, *piece.tree)
            else:
                yield from self._data(event, piece)

    def _tree(self, event: int, piece: _Piece, head: Header, stripe: Stripe, leaf: Leaf) -> Named:
        what = "leaf" if head.level == 0 else f"node (level {head.level})"
        text = f"btree {what} of the {disk.tree_name(head.owner)}, generation {head.generation}"
        if stripe.copies > 1:
            text += f", copy {stripe.copy + 1} of {stripe.copies}"
        text += self._files_of(event, leaf)
        one = leaf.changed[0] if len(leaf.changed) == 1 else None
        logged = head.owner == LOG_TREE
        return Named(
            offset=piece.offset,
            length=piece.length,
            kind=BlockKind.JOURNAL_BLOCK if logged else BlockKind.METADATA,
            text=text,
            path=self._state.links.path(one, event) if one else "",
            inode=one[1] if one else 0,
            transaction=head.generation if logged else 0,
        )

    def _files_of(self, event: int, leaf: Leaf) -> str:
        """Its copies are written at the same time: what is said of the first holds for all."""
        if id(leaf) not in self._lists:
            words = self._listed(event, leaf.changed or leaf.others)
            self._lists[id(leaf)] = (": changes " if leaf.changed else ": holds ") + words if words else ""
        return self._lists[id(leaf)]

    def _listed(self, event: int, files: tuple[File, ...]) -> str:
        words = []
        for file in files[:_LISTED_MAX]:
            path = self._state.links.path(file, event)
            words.append(f"inode {file[1]} ({path})" if path else f"inode {file[1]}")
        more = f" and {len(files) - _LISTED_MAX} more" if len(files) > _LISTED_MAX else ""
        return ", ".join(words) + more

    def _data(self, event: int, piece: _Piece) -> Iterator[Named]:
        first, count = self._units(piece)
        sector = self._super.sector
        if first < 0:
            yield _unknown(piece.offset, piece.length)
            return
        places = [tuple(self._state.mappings.places(event, first + n)) for n in range(count)]
        start = piece.offset - piece.offset % sector
        for n, number in runs(places):
            lo = max(piece.offset, start + n * sector)
            hi = min(piece.offset + piece.length, start + (n + number) * sector)
            yield self._data_run(event, lo, hi - lo, places[n], number)

    def _data_run(self, event: int, offset: int, length: int, places: tuple[Place, ...], number: int) -> Named:
        if not places:
            return _unknown(offset, length)
        first = places[0]
        if first.owner.tree == ROOT_TREE:
            return Named(offset=offset, length=length, kind=BlockKind.METADATA, text="free space cache")
        paths = [self._state.links.path((place.owner.tree, place.owner.inode), event) for place in places]
        files = [path or f"inode {place.owner.inode}" for path, place in zip(paths, places, strict=True)]
        span = f"block {first.block}" if number == 1 else f"blocks {first.block} to {first.block + number - 1}"
        what = f"data {span}" if first.block >= 0 else "compressed data"
        shared = f", shared with {', '.join(files[1:])}" if len(files) > 1 else ""
        return Named(
            offset=offset,
            length=length,
            kind=BlockKind.DATA,
            text=f"{what} of {files[0]}{shared}",
            path=paths[0],
            inode=first.owner.inode,
            block=first.block,
        )


def _unknown(offset: int, length: int) -> Named:
    text = "blocks that no file in the leaves written then has as its own"
    return Named(offset=offset, length=length, kind=BlockKind.UNKNOWN, text=text)


def _discarded(offset: int, length: int) -> _Piece:
    piece = _Piece(offset, length)
    piece.named = Named(offset=offset, length=length, kind=BlockKind.FREE, text="unused blocks, discarded")
    return piece

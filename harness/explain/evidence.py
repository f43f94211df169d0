"""What the log proves about each write: when it was durable, whether the cut lost it, whose it was."""

import enum
import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property

from harness.explain.explained import Entry
from harness.explain.inside import Inside, Version, inodes_in
from harness.layout.kinds import BlockKind, Named

JOURNAL = (
    BlockKind.JOURNAL_DESCRIPTOR,
    BlockKind.JOURNAL_BLOCK,
    BlockKind.JOURNAL_COMMIT,
    BlockKind.JOURNAL_REVOKE,
)
_BEGINS = re.compile(r"replay begins at transaction (\d+)")
CONTENT = (BlockKind.DATA, BlockKind.SYMLINK)

Piece = tuple[int, Named]
"""An event, and one thing that it wrote."""


class Fate(enum.StrEnum):
    """What became of a write."""

    DURABLE = "durable"
    """A flush behind it had completed before the cut."""
    KEPT = "kept"
    """It was in the device's cache, and is on the disk after the cut."""
    LOST = "lost"
    """It was in the device's cache, and is not on the disk."""
    LATER = "later"
    """It was sent to the device after the cut: until then it was in memory, if it was there at all."""


class Transaction:
    """One of the journal: its blocks, in the order in which they were written."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[int] = []
        self.commit = -1
        """The event of its commit block; -1: it was not written before the recording ended."""
        self.title = ""
        """As xfs calls it: `log record (cycle 1, block 40)`."""
        self.members: list[Piece] = []
        """Its blocks: copies of others, and the journal's own."""

    def holds(self, *, inode: int = 0, path: str = "") -> bool:
        """Whether this inode, or a block of this directory, is among them."""
        if inode:
            return any(inode in inodes_in(piece) for _, piece in self.members)
        return any(piece.path == path and piece.block >= 0 for _, piece in self.members)


class Track:
    """All writes of one file or directory. An inode number that was given out again is another file."""

    def __init__(self, inode: int, generation: int) -> None:
        self.inode = inode
        self.generation = generation
        self.paths: list[str] = []
        self.content: list[Piece] = []
        self.metadata: list[Piece] = []
        """Its inode, tree, directory and attribute blocks at their own places, not in the journal."""


Key = tuple[int, int] | str
"""Of a track: inode and generation, or the path where there is no inode."""


def key_of(piece: Named) -> Key:
    return (piece.inode, piece.generation) if piece.inode else piece.path


class Evidence:
    """Drawn from the entries of one recording and the lost writes of one state."""

    def __init__(
        self, entries: Sequence[Entry], inside: Inside, cut: int, fua: Iterable[int] = (), torn: Iterable[int] = ()
    ) -> None:
        """`fua`: events that were durable when they completed. `torn`: lost writes of which a part is on the disk."""
        self.cut = cut
        self.torn = frozenset(torn)
        self.inside = inside
        self.flushes = [entry.event for entry in entries if entry.what == "flush"]
        self.promises = [entry.event for entry in entries if entry.what == "promise"]
        self.writes = [entry for entry in entries if entry.what in ("write", "discard")]
        self._write_events = [entry.event for entry in self.writes]
        self.lost = [entry for entry in self.writes if entry.lost]
        self.transactions: dict[int, Transaction] = {}
        self.tracks: dict[Key, Track] = {}
        self._fua = frozenset(fua)
        self._superblocks: list[tuple[int, str]] = []
        self._lost = {entry.event for entry in self.lost}
        for entry in self.writes:
            for piece in entry.pieces:
                self._note(entry.event, piece)

    def _note(self, event: int, piece: Named) -> None:
        if self.inside.journaled and piece.transaction and piece.kind in JOURNAL:
            transaction = self.transactions.setdefault(piece.transaction, Transaction(piece.transaction))
            transaction.events.append(event)
            record = piece.text.startswith("log record")  # of xfs: a transaction can go over several, each whole or not
            if piece.kind is BlockKind.JOURNAL_COMMIT or record:
                transaction.commit = event
                transaction.title = piece.text.partition(" that commits ")[0] if record else ""
            transaction.members.append((event, piece))
        if piece.kind is BlockKind.JOURNAL_SUPERBLOCK:
            self._superblocks.append((event, piece.text))
        key = key_of(piece)
        if not key or piece.kind is BlockKind.FREE or (piece.kind in JOURNAL and self.inside.journaled):
            return
        track = self.tracks.setdefault(key, Track(piece.inode, piece.generation))
        if piece.path and piece.path not in track.paths[-1:]:
            track.paths.append(piece.path)
        (track.content if piece.kind in CONTENT else track.metadata).append((event, piece))

    def writes_in(self, begin: int, stop: int) -> list[Entry]:
        """Writes and discards from event `begin` until before event `stop`."""
        return self.writes[bisect_left(self._write_events, begin) : bisect_left(self._write_events, stop)]

    def durable_at(self, event: int) -> int:
        """The event after which a write was durable: the next flush, or itself if it was FUA; -1: never."""
        if event in self._fua:
            return event
        at = bisect_right(self.flushes, event)
        return self.flushes[at] if at < len(self.flushes) else -1

    def fate(self, event: int) -> Fate:
        """What became of the write `event` in this state."""
        if event >= self.cut:
            return Fate.LATER
        if event in self._lost:
            return Fate.LOST
        return Fate.DURABLE if 0 <= self.durable_at(event) < self.cut else Fate.KEPT

    def fate_of(self, transaction: Transaction) -> Fate:
        """Of all of it: recovery replays a transaction only if its commit block and all before it are there."""
        if transaction.commit < 0:
            return Fate.LATER
        fates = {self.fate(event) for event in transaction.events}
        return next(fate for fate in (Fate.LATER, Fate.LOST, Fate.KEPT, Fate.DURABLE) if fate in fates)

    def is_on_disk(self, transaction: Transaction) -> bool:
        """Whether what it holds is on the disk after recovery."""
        return transaction.number in self._done

    def is_there(self, number: int) -> bool:
        """The same of the transaction with that number."""
        return number in self._done

    @cached_property
    def replay_from(self) -> int:
        """The transaction at which recovery begins, by the journal's superblock on the disk; -1: it does nothing.

        0 where the log does not say, so that all that it shows are looked at (and for xfs).
        """
        there = [text for event, text in self._superblocks if self.fate(event) in (Fate.DURABLE, Fate.KEPT)]
        if not there:
            return -1 if self.inside.was_clean and any(event < self.cut for event, _ in self._superblocks) else 0
        begins = _BEGINS.search(there[-1])
        return int(begins[1]) if begins else -1

    @cached_property
    def _done(self) -> frozenset[int]:
        """What recovery does: from there on all that is whole, up to the first that is not. And what is older.

        What is older has been written in place; if any of that was lost, nothing is said of it here.
        """
        begins = self.replay_from
        whole = {n for n, each in self.transactions.items() if self.fate_of(each) in (Fate.DURABLE, Fate.KEPT)}
        numbers = sorted(self.transactions)
        done = itertools.takewhile(whole.__contains__, (n for n in numbers if 0 <= begins <= n))
        in_place = {piece.kind for entry in self.lost for piece in entry.pieces} - {*JOURNAL, *CONTENT}
        older = {n for n in whole if n < begins or begins < 0} if not in_place else set()
        return frozenset(done) | older

    def flushed(self, transaction: Transaction) -> int:
        """The event after which all of a transaction was durable; -1: never."""
        return self.latest([self.durable_at(event) for event in transaction.events]) if transaction.commit >= 0 else -1

    @staticmethod
    def latest(events: Sequence[int]) -> int:
        """The last of them; -1 where there are none, or one of them never was."""
        return -1 if not events or min(events) < 0 else max(events)

    def holding(self, *, inode: int = 0, path: str = "", since: int = 0) -> list[Transaction]:
        """The transactions begun at event `since` or later that hold the inode, or a block of the directory."""
        found = [
            transaction
            for transaction in self.transactions.values()
            if transaction.events[0] >= since and transaction.holds(inode=inode, path=path)
        ]
        return sorted(found, key=lambda transaction: transaction.events[0])

    def committed(self, inode: int, generation: int) -> tuple[Transaction, Version] | None:
        """The last transaction on the disk that says anything of this file, and what it says. None: no such one."""
        for version in self.inside.versions(inode):
            if self.is_there(version.transaction):
                # What an older file of that number was is nothing of this one.
                same = version.generation == generation and version.links > 0
                return (self.transactions[version.transaction], version) if same else None
        return None

"""Goes through a log once, and keeps the history of an ext2, ext3 or ext4 volume up to date while it does."""

from collections import defaultdict
from collections.abc import Iterator

from harness.blocklog import BlockLog, Kind
from harness.blocklog.reader import Event
from harness.layout.ext4_geometry import Geometry, NotUnderstood
from harness.layout.ext4_history import BEFORE, History
from harness.layout.ext4_inodes import Role, map_inode, parse_inode
from harness.layout.jbd2 import MAGIC, Journal, Transaction, Write, pending
from harness.layout.naming import Buffer


class Replay:
    """After `run`: the history, the journal, and for each write of an inode table which inodes it changed."""

    def __init__(self, geometry: Geometry, base: Buffer, log: BlockLog, end: int | None) -> None:
        """Raises NotUnderstood where there is no journal in the place that the superblock tells."""
        self.geometry = geometry
        self.events = log.events[:end]
        self.places: dict[int, int] = {}
        """Block of the volume -> block of the journal."""
        self.changed: dict[tuple[int, int], tuple[int, ...]] = {}
        """(event, block of a table) -> the inodes that this write changed in its place."""
        self.changed_copies: dict[tuple[int, int], tuple[int, ...]] = {}
        """(event, block of the journal) -> the inodes that differ from the copy before it."""
        self.journal: Journal | None = None
        self._base = base
        self._log = log
        self._disk: dict[int, int] = {}
        self._logged: dict[int, tuple[int, int, bool]] = {}
        self._blocks_of_journal: list[int] = []
        if geometry.has_journal:
            self._find_journal()
        self.history = History(geometry, set(), self.read)

    def run(self) -> None:
        """Once."""
        if self.journal:
            self.journal.scan(self._journal_writes(), len(self.events))
        self.history = History(self.geometry, self._wanted(), self.read)
        self.history.begin(self.geometry.used_inodes(self.read, self._logged))
        due: defaultdict[int, list[Transaction]] = defaultdict(list)
        for transaction in self.journal.transactions if self.journal else ():
            if not transaction.given_up:
                due[transaction.at].append(transaction)
        for number, event in enumerate(self.events):
            if event.kind in (Kind.WRITE, Kind.DISCARD):
                self._in_place(number, event)
            for transaction in due.pop(number, ()):
                self._commit(transaction)
        for transaction in due.pop(len(self.events), ()):
            self._commit(transaction)

    def blocks_of(self, event: Event) -> range:
        """The blocks that the event touches, the first and the last perhaps in part."""
        size = self.geometry.block_size
        return range(event.offset // size, -(-(event.offset + event.length) // size))

    def content(self, number: int, block: int) -> bytes:
        """What event `number` wrote to `block`; zeros for a discard and where it wrote a part only."""
        if number == BEFORE:
            return self._in_base(block)
        event, size = self.events[number], self.geometry.block_size
        at = block * size - event.offset
        if event.kind is Kind.DISCARD or at < 0 or at + size > event.length:
            return bytes(size)
        start = event.data_at + at
        return bytes(self._log.view[start : start + size])

    def read(self, block: int) -> bytes:
        """The newest content of a metadata block: what the journal says, else what stands in its place."""
        logged = self._logged.get(block)
        return self._on_disk(block) if logged is None else self._copy(*logged)

    def _copy(self, number: int, place: int, escaped: bool) -> bytes:
        raw = self.content(number, self._blocks_of_journal[place])
        return MAGIC + raw[len(MAGIC) :] if escaped else raw

    def _on_disk(self, block: int) -> bytes:
        if (number := self._disk.get(block)) is not None:
            return self.content(number, block)
        return self._in_base(block)

    def _in_base(self, block: int) -> bytes:
        size = self.geometry.block_size
        return bytes(self._base[block * size : (block + 1) * size]).ljust(size, b"\0")

    def _find_journal(self) -> None:
        block, at = self.geometry.place_of(self.geometry.journal_inode)
        raw = self._on_disk(block)[at : at + self.geometry.inode_size]
        inode = parse_inode(raw, self.geometry.inodes)
        for node in map_inode(inode, {}, self._on_disk, self.geometry.block_size).values():
            for run, length in node.runs.items():
                if run.role is Role.DATA:
                    self.places |= {run.block + n: run.logical + n for n in range(length)}
        self._blocks_of_journal = sorted(self.places, key=self.places.__getitem__)
        if list(map(self.places.__getitem__, self._blocks_of_journal)) != list(range(len(self.places))):
            raise NotUnderstood("the journal has holes")
        self.journal = Journal(self._on_disk(self._blocks_of_journal[0])) if self.places else None
        if self.journal is None or self.journal.superblock is None:
            raise NotUnderstood("the journal has no superblock")
        blocks = self._blocks_of_journal
        waiting = pending(self.journal.superblock, lambda place: self._in_base(blocks[place]))
        self._logged = {home: (BEFORE, place, escaped) for home, (place, escaped) in waiting.items()}

    def _journal_writes(self) -> Iterator[Write]:
        places = self.places
        for number, event in enumerate(self.events):
            if event.kind is Kind.WRITE:
                for block in self.blocks_of(event):
                    if (place := places.get(block)) is not None:
                        yield number, place, self.content(number, block)

    def _wanted(self) -> set[int]:
        wanted: set[int] = set()
        for event in self.events:
            if event.kind in (Kind.WRITE, Kind.DISCARD):
                wanted.update(self.blocks_of(event))
        for transaction in self.journal.transactions if self.journal else ():
            wanted.update(transaction.copies)
        return wanted - self.places.keys()

    def _in_place(self, number: int, event: Event) -> None:
        """A write in its place. In a volume with a journal it says something new only of what was not journaled: at
        mount, when the journal of an earlier life is replayed.
        """
        blocks, parses = self.blocks_of(event), self.history.parses
        if self.places.keys() >= set(blocks):  # what is in the journal counts when its transaction is complete
            return
        tables = self.geometry.tables_in(blocks.start, blocks.stop)
        old, new = {}, {}
        for block in tables:
            after = self.content(number, block)
            self.changed[number, block] = self.history.changed_inodes(block, self._on_disk(block), after)
            if block not in self._logged:
                old[block], new[block] = self.read(block), after
        new |= {block: self.content(number, block) for block in blocks if parses(block) and block not in self._logged}
        self._disk.update(dict.fromkeys(blocks, number))
        if new:
            self.history.apply(number, old, new)

    def _commit(self, transaction: Transaction) -> None:
        old, new = {}, {}
        for home, (number, place, escaped) in transaction.copies.items():
            if self.geometry.first_inode_in(home):
                old[home] = self.read(home)
                new[home] = self._copy(number, place, escaped)
            elif self.history.parses(home):
                new[home] = self._copy(number, place, escaped)
        self._logged.update(transaction.copies)
        for home, inodes in self.history.apply(transaction.at, old, new).items():
            number, place, _ = transaction.copies[home]
            self.changed_copies[number, place] = inodes

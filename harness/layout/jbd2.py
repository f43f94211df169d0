"""The journal of ext3 and ext4: which write of a log put what into it, and which transactions that makes.

Source: the kernel's Documentation/filesystems/ext4/journal.rst; fs/jbd2/journal.c, journal_tag_bytes(). All numbers
in a journal are big-endian.
"""

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count as numbers
from itertools import islice
from struct import Struct, iter_unpack
from typing import NamedTuple

MAGIC = b"\xc0\x3b\x39\x98"
_HEADER = Struct(">4sII")

_FEATURE_64BIT, _FEATURE_CSUM_V2, _FEATURE_CSUM_V3, _FEATURE_FAST_COMMIT = 0x2, 0x8, 0x10, 0x20
# jbd2_journal_get_num_fc_blks() in include/linux/jbd2.h.
_FAST_COMMIT_BLOCKS = 256

_ESCAPE, _SAME_UUID, _LAST_TAG = 1, 2, 8
_UUID_BYTES = 16


class Control(enum.IntEnum):
    """The types of the journal's own blocks."""

    DESCRIPTOR = 1
    COMMIT = 2
    SUPERBLOCK_V1 = 3
    SUPERBLOCK = 4
    REVOKE = 5


_CONTROLS = frozenset(map(int, Control))


class Super(NamedTuple):
    """What is of use of a journal's superblock. Blocks are counted from the journal's start."""

    first: int
    end: int
    """Behind the last block of the ring; fast commits lie behind it."""
    sequence: int
    start: int
    """Where the oldest transaction of use begins; 0: there is none."""
    wide: bool
    checksums: int
    """0, 2 or 3."""


class Block(NamedTuple):
    """One of the journal's own blocks. `homes`: of a revoke block those revoked."""

    control: Control
    sequence: int
    homes: tuple[int, ...] = ()
    superblock: Super | None = None


class Tag(NamedTuple):
    """Of a descriptor: the home of a copy, and whether its first bytes were taken out as they looked like ours."""

    home: int
    escaped: bool


class Transaction:
    """One transaction. `copies`: home -> (event, block of the journal, escaped); `at`: the event that completed it."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.committed = False
        self.given_up = False
        """Never committed, and another came after it."""
        self.at = -1
        self.descriptors: list[tuple[int, int, list[Tag]]] = []
        self.copies: dict[int, tuple[int, int, bool]] = {}
        self.next = -1
        """The block of the ring behind what is known of it."""

    def seen(self, event: int) -> None:
        self.at = max(self.at, event)


Write = tuple[int, int, bytes | memoryview]
"""(event, block of the journal, content)."""


class Journal:
    """What a log's writes did to a journal. Filled by `scan`."""

    def __init__(self, superblock: bytes) -> None:
        """`superblock`: the journal's first block, before the log."""
        block = parse_block(superblock, None) if superblock else None
        self.superblock = block.superblock if block else None
        self.blocks: dict[tuple[int, int], Block] = {}
        """(event, block of the journal) -> one of the journal's own blocks."""
        self.copies: dict[tuple[int, int], tuple[Transaction, int]] = {}
        """The same key -> the transaction, and the home that it is a copy for."""
        self.transactions: list[Transaction] = []
        self._last: dict[int, Transaction] = {}
        self._written: dict[int, list[int]] = {}
        self._claims: dict[tuple[int, int], int] = {}

    def scan(self, writes: Iterable[Write], last: int) -> None:
        """Read all writes to the journal, in the order of events. What was not committed counts as of event `last`."""
        for event, at, content in writes:
            if content[:4] == MAGIC and (block := parse_block(bytes(content), self.superblock)):
                self.blocks[event, at] = block
                self._control(event, at, block, bytes(content))
            else:
                self._written.setdefault(at, []).append(event)
        running = self.transactions[-1] if self.transactions else None
        for transaction in self.transactions:
            self._claim(transaction)
            if not transaction.committed:
                transaction.at = last
                transaction.given_up = transaction is not running
        self.transactions.sort(key=lambda each: (each.at, each.sequence))

    def _control(self, event: int, at: int, block: Block, raw: bytes) -> None:
        if block.superblock:
            self.superblock = block.superblock
            return
        transaction = self._last.get(block.sequence)
        if transaction is None or self._is_new(transaction, at):
            transaction = self._last[block.sequence] = Transaction(block.sequence)
            self.transactions.append(transaction)
        transaction.seen(event)
        if block.control is Control.COMMIT:
            transaction.committed = True
        elif block.control is Control.DESCRIPTOR and self.superblock:
            transaction.descriptors.append((event, at, tags_of(raw, self.superblock)))
        tags = transaction.descriptors[-1][2] if block.control is Control.DESCRIPTOR and transaction.descriptors else ()
        transaction.next = next(islice(self.behind(at), len(tags), None))

    def _is_new(self, old: Transaction, at: int) -> bool:
        """A number is used again where the volume was mounted anew, and what was not committed was given up: that
        begins at the start of the ring (journal_reset() in fs/jbd2/journal.c).
        """
        if old.committed:
            return old is not self.transactions[-1]
        first = self.superblock.first if self.superblock else -1
        return at == first and old.next != at

    def _claim(self, transaction: Transaction) -> None:
        for event, at, tags in transaction.descriptors:
            for tag, place in zip(tags, self.behind(at), strict=False):
                written = _nearest(self._written.get(place), event)
                # Where the log lost the copy itself, this is that of another turn, whose descriptor is nearer.
                distance = abs(written - event)
                if written >= 0 and distance < self._claims.get((written, place), 1 << 62):
                    self._claims[written, place] = distance
                    transaction.copies[tag.home] = (written, place, tag.escaped)
                    transaction.seen(written)
                    self.copies[written, place] = (transaction, tag.home)

    def behind(self, at: int) -> Iterator[int]:
        """The blocks of the ring behind block `at`."""
        ring = self.superblock or Super(1, 0, 0, 0, False, 0)
        for place in numbers(at + 1):
            over = place - ring.end if ring.end else -1
            yield ring.first + over if over >= 0 else place


def pending(ring: Super, read: Callable[[int], bytes]) -> dict[int, tuple[int, bool]]:
    """home -> (block of the journal, escaped): the newest copies that a recovery would write, of all transactions that
    are committed in a journal at rest. `read` answers with a block of it. Recovery as in journal.rst.
    """
    found: dict[int, tuple[int, int, bool]] = {}
    revoked: dict[int, int] = {}
    at, sequence = ring.start, ring.sequence
    open_tags: dict[int, tuple[int, int, bool]] = {}
    journal = Journal(b"")
    journal.superblock = ring
    for _ in range(ring.end if ring.start else 0):
        raw = read(at)
        block = parse_block(raw, ring)
        if block is None or block.sequence != sequence:
            break
        places = journal.behind(at)
        if block.control is Control.DESCRIPTOR:
            for tag in tags_of(raw, ring):
                open_tags[tag.home] = (next(places), sequence, tag.escaped)
        elif block.control is Control.REVOKE:
            revoked |= dict.fromkeys(block.homes, sequence)
        elif block.control is Control.COMMIT:
            found |= open_tags
            open_tags, sequence = {}, sequence + 1
        at = next(places)
    return {
        home: (place, escaped) for home, (place, number, escaped) in found.items() if number > revoked.get(home, -1)
    }


def _nearest(events: list[int] | None, event: int) -> int:
    """A block of the ring is written once in each turn, so the write nearest to its descriptor is the one it meant."""
    if not events:
        return -1
    at = bisect_left(events, event)
    if at == len(events):
        return events[-1]
    return events[at] if not at or events[at] - event < event - events[at - 1] else events[at - 1]


def parse_block(raw: bytes, ring: Super | None) -> Block | None:
    """One of the journal's own blocks, or None."""
    magic, kind, sequence = _HEADER.unpack_from(raw)
    if magic != MAGIC or kind not in _CONTROLS:
        return None
    control = Control(kind)
    if control in (Control.SUPERBLOCK, Control.SUPERBLOCK_V1):
        return Block(control, sequence, superblock=parse_super(raw))
    homes = tuple(_revoked(raw, ring)) if control is Control.REVOKE and ring else ()
    return Block(control, sequence, homes)


def parse_super(raw: bytes) -> Super:
    """The journal's superblock. One of version 1 has no features."""

    def word(at: int) -> int:
        return int.from_bytes(raw[at : at + 4], "big")

    features = word(0x28) if word(4) == Control.SUPERBLOCK else 0
    fast = (word(0x54) or _FAST_COMMIT_BLOCKS) if features & _FEATURE_FAST_COMMIT else 0
    checksums = 3 if features & _FEATURE_CSUM_V3 else 2 if features & _FEATURE_CSUM_V2 else 0
    wide = bool(features & _FEATURE_64BIT)
    return Super(word(0x14), word(0x10) - fast, word(0x18), word(0x1C), wide, checksums)


def tags_of(raw: bytes, ring: Super) -> list[Tag]:
    """The tags of a descriptor block, in the order of the copies that follow it."""
    size = 16 if ring.checksums == 3 else 8 + 4 * ring.wide + 2 * (ring.checksums == 2)
    end = len(raw) - (4 if ring.checksums else 0)
    found, at = [], _HEADER.size
    while at + size <= end:
        home, flags = int.from_bytes(raw[at : at + 4], "big"), int.from_bytes(raw[at + 6 : at + 8], "big")
        if ring.wide:
            home |= int.from_bytes(raw[at + 8 : at + 12], "big") << 32
        found.append(Tag(home, bool(flags & _ESCAPE)))
        at += size + (0 if flags & _SAME_UUID else _UUID_BYTES)
        if flags & _LAST_TAG:
            break
    return found


def _revoked(raw: bytes, ring: Super) -> Iterator[int]:
    used = min(int.from_bytes(raw[12:16], "big"), len(raw))
    width = 8 if ring.wide else 4
    body = raw[16:used]
    for (home,) in iter_unpack(">Q" if ring.wide else ">I", body[: len(body) // width * width]):
        yield home


def superblock_text(ring: Super) -> str:
    """`journal superblock (empty)`, `journal superblock (replay begins at transaction 5)`."""
    return f"journal superblock ({f'replay begins at transaction {ring.sequence}' if ring.start else 'empty'})"


def described(blocks: Mapping[tuple[int, int], Block], key: tuple[int, int]) -> str:
    """What is told of a control block besides its transaction."""
    homes = blocks[key].homes
    if not homes:
        return ""
    shown = ", ".join(str(home) for home in homes[:8])
    return f": block{'s' * (len(homes) > 1)} {shown}" + (f" and {len(homes) - 8} more" * (len(homes) > 8))

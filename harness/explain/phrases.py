"""Writes in words: of which file, which blocks, which transaction of the journal; those of one kind in one phrase."""

import re
from collections.abc import Iterable, Sequence

from harness.explain.evidence import CONTENT, JOURNAL, Evidence, Key, Piece, Transaction, key_of
from harness.explain.explained import Entry
from harness.explain.timeline import readable
from harness.layout.kinds import BlockKind, Named

_SHOWN = 4
_COPY = re.compile(r", copy \d of \d")
_INODES = re.compile(r"inode \d+ \((/.*?)(?: \((?:later |deleted|unlinked)[^()]*\))?\)")


def pieces_of(entries: Iterable[Entry]) -> list[Piece]:
    return [(entry.event, piece) for entry in entries for piece in entry.pieces]


def told_of(pieces: Sequence[Piece], evidence: Evidence) -> str:
    """All of them in one phrase: data by file, journal blocks by transaction, the rest by name."""
    phrases = [
        *content_phrases(pieces, evidence),
        *_transactions(pieces, evidence),
        *other_phrases(others_in(pieces, evidence)),
    ]
    return listed(phrases)


def content_phrases(pieces: Sequence[Piece], evidence: Evidence) -> list[str]:
    """Data by file: `the data of /ledger (blocks 0 to 2)`."""
    files: dict[Key, list[Named]] = {}
    for _, piece in pieces:
        if piece.kind in CONTENT:
            files.setdefault(key_of(piece), []).append(piece)
    return [data_of(found, evidence) for found in files.values()]


def data_of(pieces: Sequence[Named], evidence: Evidence) -> str:
    """`the data of /ledger (blocks 0 to 2)`, of one file. It is called by the names that it had at the time."""
    names = list(dict.fromkeys(readable(piece.path) for piece in pieces if piece.path))
    name = listed(names) or (f"inode {pieces[0].inode}" if pieces[0].inode else "a file that is not known")
    what = "the target of" if pieces[0].kind is BlockKind.SYMLINK else "the data of"
    return f"{what} {name}{_blocks(pieces, evidence.inside.block_size)}"


def blocks_in(piece: Named, unit: int) -> range:
    """The numbers of the file's blocks that a piece of its content covers."""
    return range(piece.block, piece.block + max(1, -(-piece.length // unit))) if piece.block >= 0 else range(0)


def _blocks(pieces: Sequence[Named], unit: int) -> str:
    numbers = sorted({number for piece in pieces for number in blocks_in(piece, unit)})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    return f" (block{'s' * (len(numbers) > 1)} {listed(told)})" if told else ""


def _transactions(pieces: Sequence[Piece], evidence: Evidence) -> list[str]:
    phrases = []
    for transaction in transactions_in(pieces, evidence):
        mine = [(e, piece) for e, piece in pieces if piece.kind in JOURNAL and piece.transaction == transaction.number]
        left = len(set(transaction.events)) - len({event for event, _ in mine})
        part = f"{_parts(mine, left)} of " if left else ""
        phrases.append(f"{part}{transaction_told(transaction)}")
    return phrases


def transactions_in(pieces: Sequence[Piece], evidence: Evidence) -> list[Transaction]:
    """The transactions that any of the pieces belongs to, in order."""
    numbers = dict.fromkeys(piece.transaction for _, piece in pieces if piece.kind in JOURNAL)
    return [evidence.transactions[number] for number in numbers if number in evidence.transactions]


def others_in(pieces: Sequence[Piece], evidence: Evidence) -> list[Named]:
    """What is neither a file's content nor a block of a transaction."""
    known = evidence.transactions
    return [p for _, p in pieces if p.kind not in CONTENT and not (p.kind in JOURNAL and p.transaction in known)]


def _parts(mine: Sequence[Piece], left: int) -> str:
    kinds = {piece.kind for _, piece in mine}
    if kinds == {BlockKind.JOURNAL_COMMIT}:
        return "the commit block"
    return "all but the commit block" if left == 1 and BlockKind.JOURNAL_COMMIT not in kinds else "blocks"


def transaction_told(transaction: Transaction) -> str:
    """`journal transaction 7 (about /, /config)`."""
    return f"{title(transaction)}{about(transaction)}"


def title(transaction: Transaction) -> str:
    return transaction.title or f"journal transaction {transaction.number}"


def about(transaction: Transaction) -> str:
    """Which files and directories a transaction is about."""
    paths = list(dict.fromkeys(path for _, piece in transaction.members for path in paths_in(piece)))
    return f" (about {listed(list(map(readable, paths)))})" if paths else ""


def paths_in(piece: Named) -> list[str]:
    """The paths of a block of directories or inodes; of those that are gone by then, none."""
    if piece.block < 0 and (told := _INODES.findall(piece.text)):
        return list(told)
    return [piece.path] if piece.path else []


def other_phrases(pieces: Sequence[Named]) -> list[str]:
    """Their names, each once: of the two copies that btrfs keeps, one."""
    return list(dict.fromkeys(readable(_COPY.sub("", piece.text)) for piece in pieces))


def listed(words: Sequence[str], shown: int = _SHOWN) -> str:
    """`a, b and c`; of many the first, and how many more there are."""
    if len(words) > shown + 1:
        return f"{', '.join(words[:shown])} and {len(words) - shown:,} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def events_told(events: Iterable[int]) -> str:
    """`event 12`, `events 12 to 15`, `events 12, 17 and 19`."""
    numbers = sorted(set(events))
    if len(numbers) == 1:
        return f"event {numbers[0]:,}"
    if numbers[-1] - numbers[0] == len(numbers) - 1 or len(numbers) > _SHOWN:
        return f"events {numbers[0]:,} to {numbers[-1]:,}"
    return "events " + listed([f"{number:,}" for number in numbers])

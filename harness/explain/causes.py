"""Why the disk is wrong, as far as the writes show it: what the cut lost, or what had not been sent to the device.

A disk that lost nothing and is wrong all the same lacks what had not been sent when the power went. The log goes on
after the cut, so it shows what was sent next.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.explain.breaking import Broken
from harness.explain.changes import Folder, changes_in, later_folders
from harness.explain.evidence import CONTENT, Evidence, Fate, Piece, Track, Transaction, key_of
from harness.explain.phrases import (
    blocks_in,
    data_of,
    events_told,
    listed,
    paths_in,
    pieces_of,
    title,
    told_of,
    transaction_told,
    transactions_in,
)
from harness.explain.timeline import readable
from harness.layout.kinds import BlockKind, Named
from harness.verdict import Finding, FindingKind

IN_CACHE = "in the device's cache"
IN_MEMORY = "in memory only"
_TRACKS_TOLD = 3
Asked = Mapping[int, Sequence[range]]
"""By inode: the blocks of the file that were to be written."""

_OF_THE_VOLUME = (FindingKind.META, FindingKind.UNAVAILABLE)
_OF_NAMES = ("fsync-directory", "fsync-names", "atomic-names")
_WORD = re.compile(r"[\w./@+-]+")


class Cause(NamedTuple):
    """`headline` begins with a small letter and has no full stop. `shown`: the log shows what was missing."""

    headline: str
    paragraphs: tuple[str, ...]
    state: str
    shown: bool


def cause_of(evidence: Evidence, finding: Finding | None, broken: Broken, asked: Asked | None) -> Cause:
    """What the log shows of it. `asked`: of a plan, what its operations had been asked to write before the cut."""
    if evidence.lost:
        return _lost(evidence)
    wanted = _words(finding, broken)
    zeroed = finding is not None and finding.kind is FindingKind.ZEROED
    if unwritten := _unwritten(evidence, wanted, zeroed=zeroed):
        return unwritten
    about_files = finding is None or (finding.kind not in _OF_THE_VOLUME and not _is_about_names(finding))
    return _unsent(evidence, wanted, asked, about_files=about_files)


def _is_about_names(finding: Finding) -> bool:
    return any(f"[rule {rule}]" in finding.summary for rule in _OF_NAMES)


def _words(finding: Finding | None, broken: Broken) -> frozenset[str]:
    """Words that may be names of files."""
    text = f"{finding.summary if finding else ''} {broken.line}"
    return frozenset(word.strip(".:,/") for word in _WORD.findall(text)) - {""}


def _lost(evidence: Evidence) -> Cause:
    pieces = pieces_of(evidence.lost)
    what = told_of(pieces, evidence) or f"{len(evidence.lost):,} writes"
    events = events_told(entry.event for entry in evidence.lost)
    part = "a part of " if evidence.torn.issuperset(entry.event for entry in evidence.lost) else ""
    without = _without(evidence, pieces) if not (though := _though(evidence, pieces)) else ""
    headline = f"the cut lost {part}{what}, written at {events} and not flushed{though}{without}"
    paragraphs = [_unfinished(evidence, transaction) for transaction in transactions_in(pieces, evidence)][
        :_TRACKS_TOLD
    ]
    return Cause(headline, tuple(paragraphs), IN_CACHE, True)


def _though(evidence: Evidence, pieces: Sequence[Piece]) -> str:
    """What of a file whose data are lost was on the disk: metadata that overtook their data."""
    for key in dict.fromkeys(key_of(piece) for _, piece in pieces if piece.kind in CONTENT):
        if key in evidence.tracks and (known := _overtook(evidence, evidence.tracks[key])):
            return f", though {known}"
    return ""


def _without(evidence: Evidence, pieces: Sequence[Piece]) -> str:
    """What the disk lacks because a transaction is not whole there."""
    missing = [t for t in transactions_in(pieces, evidence) if not evidence.is_on_disk(t)]
    changes = [change for transaction in missing for change in changes_in(transaction, evidence)]
    return f": without it {listed(changes[:_TRACKS_TOLD])}" if changes else ""


def _overtook(evidence: Evidence, track: Track) -> str:
    """`the name /config already led to inode 13, with a size of 0 bytes (journal transaction 7, on the disk)`."""
    known = evidence.committed(track.inode, track.generation) if track.inode else None
    if known is None:
        return _logged(evidence, track)
    transaction, version = known
    size = f"with a size of {version.size:,} bytes"
    for path in reversed(track.paths):
        folder, name = posixpath.split(path)
        number, inode = evidence.inside.bound_to(folder, name, evidence.is_there)
        if number and inode == track.inode:
            where = _state_of(evidence, evidence.transactions[number])
            return f"the name {readable(path)} already led to inode {inode}, {size} ({where})"
    return f"{_inode_of(track)} was already there, {size} ({_state_of(evidence, transaction)})"


def _inode_of(track: Track) -> str:
    return f"inode {track.inode}" + (f" ({readable(track.paths[-1])})" if track.paths else "")


def _logged(evidence: Evidence, track: Track) -> str:
    """Where inodes are not read here (xfs): a change of that inode was on the disk."""
    there = _changes_there(evidence, track)
    return f"a change of {_inode_of(track)} was already there ({_state_of(evidence, there[-1])})" if there else ""


def _changes_there(evidence: Evidence, track: Track) -> list[Transaction]:
    if not track.inode or evidence.inside.reads_inodes:
        return []
    return [transaction for transaction in evidence.holding(inode=track.inode) if evidence.is_on_disk(transaction)]


def _state_of(evidence: Evidence, transaction: Transaction) -> str:
    """`journal transaction 7, durable with the flush at event 41`."""
    flush = evidence.flushed(transaction)
    how = f"durable with the flush at event {flush:,}" if 0 <= flush < evidence.cut else "on the disk"
    return f"{title(transaction)}, {how}"


def _unfinished(evidence: Evidence, transaction: Transaction) -> str:
    """What recovery makes of a transaction that lost something."""
    name = _capital(transaction_told(transaction))
    stops = "Recovery does a transaction wholly or not at all, and stops at the first that is not whole"
    if transaction.title:
        return f"{name} was not whole on the disk. {stops}."
    if transaction.number < evidence.replay_from:
        return f"{name} was not needed by recovery, which begins at transaction {evidence.replay_from}."
    if evidence.replay_from < 0:
        return f"{name} is not done by recovery: the journal's superblock on the disk says that there is nothing to do."
    if transaction.commit < 0 or evidence.fate(transaction.commit) in (Fate.LOST, Fate.LATER):
        after = "what it holds, and all that was committed later, is not done"
        return f"{name} had no commit block on the disk. {stops}: {after}."
    return f"{name} had its commit block on the disk, and not all of the other blocks that belong to it."


def _unwritten(evidence: Evidence, wanted: frozenset[str], *, zeroed: bool) -> Cause | None:
    """Data that are on the disk, of a file whose inode there does not count them as written: they read as zeros.

    That is so between the commit that allocates blocks and the one that marks them written (ext4's unwritten extents).
    """
    found: list[tuple[bool, int, Track, Transaction]] = []
    for track in evidence.tracks.values():
        known = evidence.committed(track.inode, track.generation) if track.inode and track.content else None
        sent = any(event < evidence.cut for event, _ in track.content)
        if known and known[1].unwritten and sent and (zeroed or _named(track, wanted)):
            found.append((_named(track, wanted), known[0].commit, track, known[0]))
    if not found:
        return None
    _, _, track, transaction = max(found, key=lambda each: each[:2])
    sent_pieces = [(event, piece) for event, piece in track.content if event < evidence.cut]
    what = data_of([piece for _, piece in sent_pieces], evidence)
    where = _state_of(evidence, transaction)
    headline = f"{what} are on the disk, but its inode there ({where}) counts blocks as never written"
    paragraph = (
        f"{_capital(what)} were sent at {events_told(e for e, _ in sent_pieces)}. {_written_later(evidence, track)}"
    )
    return Cause(headline, (paragraph,), IN_MEMORY, True)


def _written_later(evidence: Evidence, track: Track) -> str:
    versions = [v for v in evidence.inside.versions(track.inode) if v.generation == track.generation and v.links]
    after = next((v for v in reversed(versions) if v.event >= evidence.cut and not v.unwritten), None)
    later = evidence.transactions.get(after.transaction) if after else None
    if later is None or later.commit < 0:
        return "What marks them as written was not committed before the cut."
    return f"What marks them as written, {transaction_told(later)}, was committed only at event {later.commit:,}."


class _Unsent(NamedTuple):
    """A file of which data were sent after the cut that had not been sent before it."""

    track: Track
    pieces: list[Piece]
    score: int

    @property
    def first(self) -> int:
        return self.pieces[0][0]


def _unsent(evidence: Evidence, wanted: frozenset[str], asked: Asked | None, *, about_files: bool) -> Cause:
    found = _later_contents(evidence, wanted, asked) if about_files else []
    if found and found[0].score:
        commit = _commit_before(evidence, found[0])
        return _missing_metadata(evidence, commit) if commit else _missing_data(evidence, _together(evidence, found))
    transactions = _later_transactions(evidence, wanted)
    if transactions:
        return _missing_metadata(evidence, transactions[0])
    folders = later_folders(evidence, wanted)
    return _missing_folder(folders[0]) if folders else _next_sent(evidence)


def _commit_before(evidence: Evidence, unsent: _Unsent) -> Transaction | None:
    """A transaction about a file of which some data had been sent, committed after the cut and before more of them."""
    if not any(event < evidence.cut for event, _ in unsent.track.content):
        return None
    later = [t for t in evidence.holding(inode=unsent.track.inode) if evidence.cut <= t.commit < unsent.first]
    return later[0] if later else None


def _together(evidence: Evidence, found: Sequence[_Unsent]) -> list[_Unsent]:
    """The first of them, and those that have as much to do with it and were sent before anything else was promised."""
    best = found[0]
    until = next((promise for promise in evidence.promises if promise > best.first), best.first + 1)
    return [each for each in found if each.score == best.score and each.first <= until][:_TRACKS_TOLD]


def _later_contents(evidence: Evidence, wanted: frozenset[str], asked: Asked | None) -> list[_Unsent]:
    """Those first that have most to do with the finding, then in the order of time."""
    found = []
    unit = evidence.inside.block_size
    for track in evidence.tracks.values():
        before = {n for event, piece in track.content if event < evidence.cut for n in blocks_in(piece, unit)}
        later = [
            (event, piece) for event, piece in track.content if event >= evidence.cut and _is_asked(piece, asked, unit)
        ]
        unsent = [(event, piece) for event, piece in later if not before.issuperset(blocks_in(piece, unit))]
        if unsent:
            found.append(_Unsent(track, unsent, _score(evidence, track, wanted)))
        elif later and _named(track, wanted):
            found.append(_Unsent(track, later, 3))
    return sorted(found, key=lambda each: (-each.score, each.first))


def _is_asked(piece: Named, asked: Asked | None, unit: int) -> bool:
    """Of a plan: what an operation wrote that had not begun when the power went cannot have been missing."""
    if asked is None:
        return True
    return any(number in blocks for blocks in asked.get(piece.inode, ()) for number in blocks_in(piece, unit))


def _score(evidence: Evidence, track: Track, wanted: frozenset[str]) -> int:
    """4: the finding names it. 2: its inode is on the disk. 1: something of it had been written. 0: nothing."""
    if _named(track, wanted):
        return 4
    if (track.inode and evidence.committed(track.inode, track.generation)) or _changes_there(evidence, track):
        return 2
    return int(any(event < evidence.cut for event, _ in (*track.content, *track.metadata)))


def _named(track: Track, wanted: frozenset[str]) -> bool:
    return _among(track.paths, wanted)


def _among(paths: Sequence[str], wanted: frozenset[str]) -> bool:
    names = {path.strip("/") for path in paths} | {posixpath.basename(path) for path in paths}
    return not (names - {""}).isdisjoint(wanted)


def _missing_data(evidence: Evidence, found: Sequence[_Unsent]) -> Cause:
    what = listed([data_of([piece for _, piece in each.pieces], evidence) for each in found])
    first = min(each.first for each in found)
    known = _overtook(evidence, found[0].track)
    headline = f"{what} had not been sent to the device before event {first:,}, which is after the cut"
    paragraph = (
        f"{_capital(what)} were sent to the device from event {first:,} on, after the cut. When the power went they "
        "were in memory at most: the file system had not yet written them."
    )
    if known:
        headline = f"{known}, but {headline}"
        paragraph = f"{_capital(known)}. {paragraph}"
    return Cause(headline, (paragraph,), IN_MEMORY, True)


def _later_transactions(evidence: Evidence, wanted: frozenset[str]) -> list[Transaction]:
    """Committed after the cut only, those first that are about what the finding names."""
    later = [t for t in evidence.transactions.values() if evidence.fate_of(t) is Fate.LATER and t.members]
    return sorted(later, key=lambda t: (not _about(t, wanted), t.events[0]))


def _about(transaction: Transaction, wanted: frozenset[str]) -> bool:
    return _among([path for _, piece in transaction.members for path in paths_in(piece)], wanted)


def _missing_metadata(evidence: Evidence, transaction: Transaction) -> Cause:
    name, first, commit = transaction_told(transaction), transaction.events[0], transaction.commit
    changes = listed(changes_in(transaction, evidence))
    when = f"committed only at event {commit:,}, after the cut" if commit >= 0 else "not committed before the end"
    headline = f"nothing that had been sent was lost, but {name} was {when}"
    if changes:
        headline += f": until then {changes}"
    begun = "It had been begun" if first < evidence.cut else "Until then its changes were in memory"
    paragraph = f"{_capital(name)} was {when}. {begun}{f'; without it {changes}' if changes else ''}."
    return Cause(headline, (paragraph,), IN_MEMORY, True)


def _missing_folder(folder: Folder) -> Cause:
    what, later = readable(folder.piece.text), f"event {folder.event:,}, after the cut"
    changes = f": until then {listed(folder.changes)}" if folder.changes else ""
    headline = f"nothing that had been sent was lost, but {what} had not been sent before {later}{changes}"
    paragraph = f"{_capital(what)} was sent to the device at {later}. Until then its changes were in memory only."
    return Cause(headline, (paragraph,), IN_MEMORY, True)


def _next_sent(evidence: Evidence) -> Cause:
    """Nothing is known of what was missing; only what the device was sent next."""
    later = [entry for entry in evidence.writes if entry.event >= evidence.cut]
    first = next((entry for entry in later if _tells(entry.pieces)), None)
    if first is None:
        headline = "nothing that had been sent was lost, and nothing more was sent: the log does not show the cause"
        return Cause(headline, (), "", False)
    what = told_of(pieces_of([first]), evidence)
    headline = "nothing that had been sent was lost: what is missing, if anything is, had not reached the device"
    paragraph = f"The first that was sent after the cut, at event {first.event:,}, is {what}."
    return Cause(headline, (paragraph,), "", False)


def _tells(pieces: Sequence[object]) -> bool:
    dull = (BlockKind.SUPERBLOCK, BlockKind.JOURNAL_SUPERBLOCK, BlockKind.GROUP_DESCRIPTOR, *CONTENT)
    return any(getattr(piece, "kind", None) not in dull for piece in pieces)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

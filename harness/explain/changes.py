"""What a transaction that was not on the disk would have changed: sizes, unwritten blocks, names. For ext3 and ext4."""

from collections.abc import Mapping
from typing import NamedTuple

from harness.explain.evidence import Evidence, Transaction
from harness.explain.inside import Version, inodes_in
from harness.explain.phrases import paths_in
from harness.explain.timeline import readable
from harness.layout.kinds import BlockKind, Named

_TOLD = 4


def changes_in(transaction: Transaction, evidence: Evidence) -> list[str]:
    """What was still so on the disk because this transaction was not done, in words that follow `until then`."""
    found: list[str] = []
    for _, piece in transaction.members:
        if piece.block >= 0 and piece.path:
            found += _names(transaction, evidence, piece.path, piece.block)
        for inode, path in zip(inodes_in(piece), paths_in(piece), strict=False):
            found += _inode(transaction, evidence, inode, path)
    return list(dict.fromkeys(found))[:_TOLD]


def _inode(transaction: Transaction, evidence: Evidence, inode: int, path: str) -> list[str]:
    versions = evidence.inside.versions(inode)
    after = next((version for version in versions if version.transaction == transaction.number), None)
    known = evidence.committed(inode, after.generation) if after else None
    if after is None or known is None or not after.links:
        return []
    return _compared(readable(path), known[1], after)


def _compared(name: str, before: Version, after: Version) -> list[str]:
    if before.size != after.size:
        return [f"{name} had {before.size:,} bytes on the disk, not {after.size:,}"]
    if before.unwritten and not after.unwritten:
        return [f"blocks of {name} counted as never written on the disk, and read as zeros"]
    return []


def _names(transaction: Transaction, evidence: Evidence, folder: str, block: int) -> list[str]:
    """Names that the transaction's copy of the directory block has, beside those of the last copy on the disk."""
    mine = evidence.inside.names_in(folder, block, transaction.number)
    there = evidence.inside.names_before(folder, block, evidence.is_there)
    if mine is None or there is None:
        return []
    return [text for _, text in _differences(there, mine, folder)]


def _differences(before: Mapping[bytes, int], after: Mapping[bytes, int], folder: str) -> list[tuple[str, str]]:
    """(name, what was so before) for each name that a directory block gained, lost, or had for another file."""
    where = readable(folder)
    told = []
    for name, inode in after.items():
        if name not in before:
            told.append((readable(name), f"{where} did not have the name {readable(name)}"))
        elif before[name] != inode:
            told.append((readable(name), f"the name {readable(name)} in {where} led to another file"))
    gone = (readable(name) for name in before if name not in after)
    return told + [(name, f"{where} still had the name {name}") for name in gone]


class Folder(NamedTuple):
    """A block of a directory that was sent to the device at `event`, after the cut, and not before it."""

    event: int
    piece: Named
    changes: list[str]
    """Of the names that were asked for; else of all."""
    named: bool


def later_folders(evidence: Evidence, wanted: frozenset[str]) -> list[Folder]:
    """Where there is no journal: blocks of directories in memory only; first those in which a wanted name changed."""
    if evidence.inside.journaled:
        return []
    found = []
    for track in evidence.tracks.values():
        blocks = [(event, piece) for event, piece in track.metadata if piece.kind is BlockKind.DIRECTORY]
        sent = {piece.block for event, piece in blocks if event < evidence.cut}
        for event, piece in blocks:
            if event >= evidence.cut and piece.block not in sent:
                sent.add(piece.block)
                found.append(_folder(evidence, event, piece, wanted))
    return sorted(found, key=lambda folder: (not folder.named, not folder.changes, folder.event))


def _folder(evidence: Evidence, event: int, piece: Named, wanted: frozenset[str]) -> Folder:
    before = evidence.inside.names_before(piece.path, piece.block, lambda _: False)
    changes = _differences(before, evidence.inside.names_at(event, piece), piece.path) if before is not None else []
    named = [text for name, text in changes if name in wanted]
    return Folder(event, piece, (named or [text for _, text in changes])[:_TOLD], bool(named))

"""Recordings whose blocks are named, and the comparison of the names with what debugfs says (layout_truth)."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable

from layout_truth import Truth, View, apply, found

from harness.blocklog import Kind
from harness.blocklog.reader import Event
from harness.layout.kinds import BlockKind, Named
from harness.layout.naming import name_writes
from harness.machine import mounts
from harness.machine.image import Image
from harness.settings import Settings
from harness.trial.recorder import recording_of
from harness.trial.recording import Recording
from harness.volume import RecordedVolume, VolumeSpec, make_base

AT_REST = "path on a volume without a journal, before it is at rest"
REUSED = "block on a volume without a journal, used again before the disk tells"
NOT_ASKED = "special inode, or one that debugfs was not asked for"

_IN_TABLE = re.compile(r"inode (\d+) \(((?:[^()]|\([^()]*\))*)\)")


class Tally:
    """What came of a comparison: blocks compared, by kind; blocks that could not be, by class; what was wrong."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.wrong: list[str] = []

    def add(self, other: "Tally") -> None:
        self.compared += other.compared
        self.excused += other.excused
        self.wrong += other.wrong


class Comparison:
    """Of the names of one recording with its truth."""

    def __init__(self, recording: Recording, names: dict[int, tuple[Named, ...]], truth: Truth) -> None:
        self.log = recording.log
        self.names = names
        self.truth = truth
        self.tally = Tally()
        self.block_size = truth.sizes["Block size"]
        self.disk = recording.base.copy("compared")
        self.copies: dict[int, bytes] = {}
        self.event = 0
        """The event that is compared, for the words of what is wrong."""

    def run(self) -> Tally:
        """All writes and discards."""
        with contextlib.closing(self.disk):
            for number, event in enumerate(self.log.events):
                if event.kind in (Kind.WRITE, Kind.DISCARD):
                    self.event = number
                    self._event(number, event, self.names.get(number, ()))
                    apply(self.log, [event], self.disk)
        self._icheck()
        return self.tally

    def _icheck(self) -> None:
        """In the end, every block's owner is also the one that icheck finds, so that the views can be relied on."""
        last = self.truth.views[-1]
        assert last.checked
        for block, inode in last.checked.items():
            claim = last.owners.get(block)
            sharers = last.sharers.get(block, set()) | ({claim.inode} if claim else {0})
            if inode not in sharers:
                self.tally.wrong.append(f"block {block} is of inode {inode} by icheck, of {sorted(sharers)} by stat")

    def _event(self, number: int, event: Event, pieces: tuple[Named, ...]) -> None:
        at = event.offset
        for piece in pieces:
            self._check(piece.offset == at and piece.length > 0, piece, "does not follow the one before it")
            at = piece.offset + piece.length
            for block in range(piece.offset // self.block_size, -(-at // self.block_size)):
                self._block(number, event, piece, block)
        if at != event.offset + event.length:
            self.tally.wrong.append(f"event {number} is not covered")

    def _block(self, number: int, event: Event, piece: Named, block: int) -> None:
        place = piece.block + block - piece.offset // self.block_size if piece.block >= 0 else -1
        if block in self.truth.journal:
            self._journal(event, piece, self.truth.journal[block], block, place)
        elif (kind := self.truth.before.fixed.get(block)) is not None:
            self._check(piece.kind is kind, piece, f"is {kind}")
            if kind is BlockKind.INODE_TABLE:
                old = self.disk.read(block * self.block_size, self.block_size)
                self._table(piece, block, old, self._content(event, block), self.truth.index(number))
        else:
            self._owned(piece, block, place, self.truth.index(number), piece.kind, later=event.kind is Kind.WRITE)
        self.tally.compared[str(piece.kind)] += 1

    def _content(self, event: Event, block: int) -> bytes:
        at = event.data_at + block * self.block_size - event.offset
        return bytes(self.log.view[at : at + self.block_size])

    def _journal(self, event: Event, piece: Named, at: int, block: int, place: int) -> None:
        if at == 0:
            self._check(piece.kind is BlockKind.JOURNAL_SUPERBLOCK, piece, "is the journal's superblock")
            return
        logged = self.truth.logged.get(at)
        if logged is None:
            self.tally.excused["journal block that logdump does not know"] += 1
            return
        self._check(piece.kind is logged.kind, piece, f"is {logged.kind}")
        self._check(piece.transaction == logged.sequence, piece, f"is of transaction {logged.sequence}")
        if logged.home < 0:
            return
        index = self.truth.commits[logged.sequence]
        if (kind := self.truth.before.fixed.get(logged.home)) is not None:
            self._check(f"copy of {_WORDS[kind]}" in piece.text, piece, f"is a copy of {kind}")
            if kind is BlockKind.INODE_TABLE:
                content, at = self._content(event, block), logged.home * self.block_size
                old = self.copies.get(logged.home) or self.truth.before.rest[at : at + self.block_size]
                self._table(piece, logged.home, old, content, index)
                self.copies[logged.home] = content
        else:
            claimed = next((kind for kind, word in _WORDS.items() if f"copy of {word}" in piece.text), None)
            self._owned(piece, logged.home, place, index, claimed, later=False)

    def _owned(self, piece: Named, block: int, place: int, index: int, kind: BlockKind | None, *, later: bool) -> None:
        views = self._possible(block, index) if later else self.truth.views[index : index + 1]
        view = next((view for view in views if block in view.owners), None)
        if view is None:
            self._check(kind is BlockKind.FREE, piece, "is nobody's block")
            return
        if not self.truth.journal and not _is_told(piece, view, block):
            # The next file may write to a freed block before the disk tells that it was freed: a later view knows.
            other = next((each for each in views if _is_told(piece, each, block)), view)
            self.tally.excused[REUSED] += other is not view
            view = other
        claim = view.owners[block]
        owners = view.sharers.get(block, set()) | {claim.inode}
        self._check(kind is claim.kind and piece.inode in owners, piece, f"is {claim}")
        if piece.inode in owners:
            self._check(piece.block < 0 if claim.place < 0 else place == claim.place, piece, f"is {claim}")
            generation = view.generations[piece.inode]
            self._check(piece.generation == generation, piece, f"is of generation {generation}")
            self._path(piece, piece.inode, generation, index, piece.path, piece.text)

    def _possible(self, block: int, index: int) -> list[View]:
        """The views that may tell whose the block was that is written now: of now, of the next commit, and of the one
        behind that (or, without a journal, all) as long as the block is not written anew.
        """
        views, again = self.truth.views, self._written_again(block)
        first = views[index : index + 2] if self.truth.journal else [views[index]]
        further = views[index + 2 : index + 3] if self.truth.journal else views[index + 1 :]
        return first + [view for view in further if view.time <= again]

    def _written_again(self, block: int) -> int:
        at, events = block * self.block_size, self.log.events
        for number in range(self.event + 1, len(events)):
            event = events[number]
            if event.kind is Kind.WRITE and event.offset <= at < event.offset + event.length:
                return number
        return len(events)

    def _table(self, piece: Named, block: int, old: bytes, new: bytes, index: int) -> None:
        """Exactly those inodes are told that differ, each with its path."""
        size, per_group = self.truth.sizes["Inode size"], self.truth.sizes["Inodes per group"]
        group, first = next((n, a) for n, (a, b) in enumerate(self.truth.before.first_table) if a <= block <= b)
        number = group * per_group + (block - first) * self.block_size // size + 1
        starts = range(0, self.block_size, size)
        changed = {number + at // size for at in starts if old[at : at + size] != new[at : at + size]}
        told = {int(inode): text for inode, text in _IN_TABLE.findall(piece.text)}
        more = int(found(r" and (\d+) more", piece.text) or 0)
        right = changed >= set(told) and len(changed) == len(told) + more
        self._check(right, piece, f"changes inodes {sorted(changed)}")
        view = self.truth.views[index]
        for inode in changed & set(told):
            if inode in view.generations and (inode == 2 or inode > 10):
                text = told[inode]
                path = re.sub(r"^(deleted|unlinked), was | \(later .*\)$", "", text)
                path = path if path.startswith("/") else ""
                dead = text.startswith(("deleted", "unused"))
                self._check(dead == (view.links[inode] == 0), piece, f"has {view.links[inode]} links: inode {inode}")
                self._path(piece, inode, view.generations[inode], index, path, text)
            else:
                self.tally.excused[NOT_ASKED] += 1

    def _path(self, piece: Named, inode: int, generation: int, index: int, path: str, text: str) -> None:
        views = self.truth.views
        same = [n for n, view in enumerate(views) if view.generations.get(inode) == generation]
        ahead = (views[n].names[inode] for n in same if n >= index and inode in views[n].names)
        behind = (views[n].names[inode] for n in reversed(same) if n < index and inode in views[n].names)
        paths = next(ahead, None) or next(behind, set())
        if self.truth.journal or path in paths:
            self._check(path in paths if paths else not path, piece, f"has the paths {sorted(paths)}")
        else:
            # Inode tables and directories come to the disk one by one: what debugfs finds meanwhile is no tree.
            self.tally.excused[AT_REST] += 1
        final = views[-1].names.get(inode, set()) if same[-1] == len(views) - 1 else set()
        later = re.search(r"\(later (.*?)\)", text)
        if path and later and later[1] == "deleted":
            self._check(not final, piece, f"is in the end {sorted(final)}")
        elif path and later:
            self._check(later[1] in final and path not in final, piece, f"is in the end {sorted(final)}")
        elif path and not final:
            told = "deleted" in text or "unlinked" in text
            self._check(told, piece, f"is gone in the end, which is not told: inode {inode}")
        elif path:
            self._check(path in final, piece, f"is in the end {sorted(final)}, which is not told")

    def _check(self, right: bool, piece: Named, what: str) -> None:
        if not right:
            self.tally.wrong.append(f"event {self.event}: {piece} at {piece.offset // self.block_size} {what}")


def _is_told(piece: Named, view: View, block: int) -> bool:
    claim = view.owners.get(block)
    owners = view.sharers.get(block, set()) | ({claim.inode} if claim else set())
    return claim is not None and piece.inode in owners and view.generations[piece.inode] == piece.generation


_WORDS = {
    BlockKind.SUPERBLOCK: "superblock",
    BlockKind.GROUP_DESCRIPTOR: "group descriptor",
    BlockKind.BLOCK_BITMAP: "block bitmap",
    BlockKind.INODE_BITMAP: "inode bitmap",
    BlockKind.INODE_TABLE: "inode table",
    BlockKind.DIRECTORY: "directory block",
    BlockKind.EXTENT_TREE: "extent tree block",
    BlockKind.METADATA: "indirect block",
    BlockKind.XATTR: "extended attribute block",
    BlockKind.SYMLINK: "symbolic link block",
    BlockKind.DATA: "data block",
    BlockKind.FREE: "unused block",
}


def compare(recording: Recording, names: dict[int, tuple[Named, ...]], truth: Truth | None = None) -> Tally:
    """Every block that the recording wrote, with debugfs."""
    return Comparison(recording, names, truth or Truth(recording)).run()


def recorded(work: Callable[[str], object], settings: Settings, base: Image | None = None) -> Recording:
    """What `work` does on a volume (a fresh one, or a copy of `base`), up to a clean unmount."""
    mounts.enter_private_mounts()
    spec = VolumeSpec.of(settings)
    image = base or make_base(spec)
    with RecordedVolume(spec, image, log_max=settings.log_max) as volume:
        work(volume.path)
        volume.finish()
        assert volume.error is None and not volume.stragglers
    return recording_of(volume, spec, image)


def named(recording: Recording, end: int | None = None) -> dict[int, tuple[Named, ...]]:
    return name_writes(recording.spec.fs, recording.base.map, recording.log, recording.spec.size, end=end)


def pieces(recording: Recording) -> list[Named]:
    """Those of all events, in the order of the log."""
    return [piece for found in named(recording).values() for piece in found]

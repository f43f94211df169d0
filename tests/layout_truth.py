"""What debugfs says about the disks of a recording.

A view is what debugfs finds on the disk as of one commit of the journal, replayed by debugfs itself, or, without a
journal, after each write. The rule of naming is applied to the views by brute force (layout_support): the last view at
the time of the write, if it has an owner for the block, else the next that has one.
"""

import re
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from harness.blocklog import BlockLog, Kind
from harness.blocklog.reader import Event
from harness.layout.kinds import BlockKind
from harness.machine import process
from harness.machine.image import Image
from harness.trial.recording import Recording

_COMMIT = b"\xc0\x3b\x39\x98\0\0\0\2"
_JOURNAL_INODE = 8
_ASKED = 48
"""Of each group so many inodes are asked for: plans make no more."""
_MAPPED = re.compile(r"\((\w+)(?:\[u\])?(?:-(\d+)(?:\[u\])?)?\):(\d+)(?:-(\d+))?")
_CHECKED = re.compile(r"(?m)^(\d+)\t(?:(\d+)|<block not found>)$")
_ROLES = {"directory": BlockKind.DIRECTORY, "symlink": BlockKind.SYMLINK, "regular": BlockKind.DATA}
_GROUP_PARTS = (
    (re.compile(r"(?:Primary|Backup) superblock at (\d+)"), BlockKind.SUPERBLOCK),
    (re.compile(r"Group descriptors? at (\d+)(?:-(\d+))?"), BlockKind.GROUP_DESCRIPTOR),
    (re.compile(r"Reserved GDT blocks at (\d+)(?:-(\d+))?"), BlockKind.GROUP_DESCRIPTOR),
    (re.compile(r"Block bitmap at (\d+)"), BlockKind.BLOCK_BITMAP),
    (re.compile(r"Inode bitmap at (\d+)"), BlockKind.INODE_BITMAP),
    (re.compile(r"Inode table at (\d+)-(\d+)"), BlockKind.INODE_TABLE),
)


class Claim(NamedTuple):
    """Whose block it is, by debugfs. `place`: within the file; -1 for what maps it."""

    inode: int
    kind: BlockKind
    place: int


class View:
    """What debugfs says of one disk."""

    def __init__(self, time: int, told: dict[str, str]) -> None:
        self.time = time
        self.owners: dict[int, Claim] = {}
        self.checked: dict[int, int] = {}
        """Block -> inode, by icheck; 0: nobody's."""
        self.sharers: dict[int, set[int]] = {}
        self.generations: dict[int, int] = {}
        self.links: dict[int, int] = {}
        self.names: dict[int, set[str]] = {2: {"/"}}
        for command, text in told.items():
            if command.startswith("stat <"):
                self._inode(int(command[6:-1]), text)
            elif command.startswith("icheck"):
                self.checked |= {int(block): int(number or 0) for block, number in re.findall(_CHECKED, text)}
            elif command.startswith("ncheck"):
                for number, path in re.findall(r"(?m)^(\d+)\t/?(/(?!\?\?\?).*)$", text):
                    self.names.setdefault(int(number), set()).add(path)

    def _inode(self, number: int, text: str) -> None:
        kind = found(r"Type: (\w+)", text)
        self.generations[number] = int(found(r"Generation: (\d+)", text) or 0)
        self.links[number] = int(found(r"Links: (\d+)", text) or 0)
        role = _ROLES.get(kind, BlockKind.METADATA)
        mapped = text.partition("EXTENTS:")[2] or text.partition("BLOCKS:")[2]
        for first, _, start, stop in _MAPPED.findall(mapped):
            blocks = range(int(start), int(stop or start) + 1)
            if first.isdigit():
                self.owners |= {block: Claim(number, role, int(first) + n) for n, block in enumerate(blocks)}
            else:
                tree = BlockKind.EXTENT_TREE if first.startswith("ETB") else BlockKind.METADATA
                self.owners |= {block: Claim(number, tree, -1) for block in blocks}
        if kind and (acl := int(found(r"File ACL: (\d+)", text) or 0)):
            self.owners[acl] = Claim(number, BlockKind.XATTR, -1)
            self.sharers.setdefault(acl, set()).add(number)


class Logged(NamedTuple):
    """A block of the journal, by logdump. `home` is -1 for the journal's own."""

    kind: BlockKind
    sequence: int
    home: int = -1


class Before:
    """What debugfs says of a volume before a log."""

    def __init__(self, base: Image) -> None:
        self.fixed, self.first_table, self.sizes = _geometry(base)
        self.has_journal = "Journal inode" in self.sizes
        inodes = range(0, self.sizes["Inode count"], self.sizes["Inodes per group"])
        asked = [first + n for first in inodes for n in range(1, _ASKED)]
        self.questions = [*(f"stat <{n}>" for n in asked), f"ncheck {' '.join(map(str, asked))}"]
        with base.copy("rest") as disk:
            self.view = self.look(-1, disk)
            self.rest = bytes(disk.map[:])
            """The content, its journal replayed."""

    def look(self, time: int, disk: Image, *further: str) -> View:
        """The view of a disk, whose journal is replayed. `further`: what else is asked."""
        return View(time, debugfs(disk, [*["journal_run"] * self.has_journal, *self.questions, *further], write=True))


class Truth:
    """All that debugfs says of a recording: each view, the fixed places, the journal."""

    def __init__(self, recording: Recording, before: Before | None = None) -> None:
        """`before`: where it is known, of the recording's base."""
        self.before = before or Before(recording.base)
        self.sizes = self.before.sizes
        self.views = [self.before.view, *_views(recording, self.before)]
        journal = self.before.view.owners if self.before.has_journal else {}
        self.journal = {block: claim.place for block, claim in journal.items() if claim.inode == _JOURNAL_INODE}
        self.logged = _logdump(recording) if self.journal else {}
        self.commits = {
            sequence: n
            for n, view in enumerate(self.views[1:], 1)
            for sequence in _commits(recording.log, view.time, self.sizes["Block size"])
        }
        """Transaction -> the view at its commit."""

    def index(self, time: int) -> int:
        """Of the view that was valid at that event."""
        return max(n for n, view in enumerate(self.views) if view.time <= time)


def debugfs(image: Image, commands: list[str], *, write: bool = False) -> dict[str, str]:
    """What one debugfs answers to each of these commands. Until a journal is replayed checksums may be wrong (-n)."""
    with tempfile.NamedTemporaryFile("w") as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        done = process.run(["debugfs", *(["-n", "-w"] if write else []), "-f", script.name, image.path])
    text = done.output.decode(errors="replace")
    assert "Filesystem not open" not in text, text
    said = text.split("debugfs: ")
    return {command: text for part in said for command, _, text in [part.partition("\n")]}


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _geometry(base: Image) -> tuple[dict[int, BlockKind], list[tuple[int, int]], dict[str, int]]:
    text = process.run(["dumpe2fs", base.path]).output.decode(errors="replace")
    sizes = {name: int(number) for name, number in re.findall(r"(?m)^([A-Z][\w ]+):\s+(\d+)$", text)}
    fixed: dict[int, BlockKind] = {}
    tables: list[tuple[int, int]] = []
    for pattern, kind in _GROUP_PARTS:
        for match in pattern.finditer(text):
            first, last = int(match[1]), int(match[match.lastindex or 1])
            fixed |= dict.fromkeys(range(first, last + 1), kind)
            if kind is BlockKind.INODE_TABLE:
                tables.append((first, last))
    return fixed, tables, sizes


def apply(log: BlockLog, events: list[Event], image: Image) -> None:
    for event in events:
        if event.kind is Kind.WRITE:
            image.map[event.offset : event.offset + event.length] = log.data(event)
        elif event.kind is Kind.DISCARD:
            image.map[event.offset : event.offset + event.length] = bytes(event.length)


def _views(recording: Recording, before: Before) -> Iterator[View]:
    log, done = recording.log, -1
    size = before.sizes["Block size"]
    times = [*_times(log, size, journal=before.has_journal), len(log.events) - 1]
    written = {
        block for event in log.events for block in range(event.offset // size, (event.offset + event.length) // size)
    }
    # A line of debugfs has an end.
    parts = [sorted(written)[at : at + 500] for at in range(0, len(written), 500)]
    icheck = [f"icheck {' '.join(map(str, part))}" for part in parts]
    with recording.base.copy("views") as disk:
        for time in times:
            apply(log, log.events[done + 1 : time + 1], disk)
            done = time
            with disk.copy("view") as copy:
                yield before.look(time, copy, *(icheck if time == times[-1] else ()))


def _times(log: BlockLog, block_size: int, *, journal: bool) -> Iterator[int]:
    """After which events the metadata are new: each commit; without a journal each write."""
    for number, event in enumerate(log.events):
        if event.kind is Kind.WRITE and (not journal or _commits(log, number, block_size)):
            yield number


def _commits(log: BlockLog, number: int, block_size: int) -> list[int]:
    """The transactions that this event commits."""
    data = bytes(log.data(log.events[number]))
    heads = [data[at : at + 12] for at in range(0, len(data), block_size)]
    return [int.from_bytes(head[8:], "big") for head in heads if head.startswith(_COMMIT)]


def _logdump(recording: Recording) -> dict[int, Logged]:
    """By block of the journal, as it stands at the end."""
    with recording.base.copy("log") as disk:
        apply(recording.log, recording.log.events, disk)
        text = debugfs(disk, ["logdump -aO"])["logdump -aO"]
    found: dict[int, Logged] = {}
    kinds = {
        "1": BlockKind.JOURNAL_DESCRIPTOR,
        "2": BlockKind.JOURNAL_COMMIT,
        "5": BlockKind.JOURNAL_REVOKE,
    }
    sequence = 0
    for line in text.splitlines():
        if match := re.search(r"expected sequence (\d+), type (\d) .* at block (\d+)", line):
            sequence = int(match[1])
            found[int(match[3])] = Logged(kinds[match[2]], sequence)
        elif match := re.search(r"FS block (\d+) logged at journal block (\d+)", line):
            found[int(match[2])] = Logged(BlockKind.JOURNAL_BLOCK, sequence, int(match[1]))
    return found

"""What is known of one finding, ready to be shown: its timeline, what the cut lost, the promise that broke, and why.

Every reporter (terminal, HTML, JSON) draws from `Explained`; it has no reference to a disk, a log or the kernel.
"""

import msgspec

from harness.advice.advised import Advice
from harness.layout.kinds import Named
from harness.verdict import FindingKind, Verdict


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the block log. `what`: write, discard, flush, promise, mark."""

    event: int
    """Its number in the log, from 0."""
    what: str
    epoch: int
    """From 0; a flush belongs to the epoch that it ends."""
    offset: int = 0
    length: int = 0
    lost: bool = False
    """Written before the cut, and not on the disk that was judged (model torn: a part of it, at least)."""
    after_cut: bool = False
    pieces: tuple[Named, ...] = ()
    text: str = ""
    """Of a promise or a mark, printable."""
    step: int = -1
    """The operation (index into `steps`) that was running; -1: none, or not known."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One operation: of a plan, or what lies between two promises of a program."""

    text: str
    begin: int
    """The event at which it began."""
    end: int
    """The event at which it had returned; -1: not before the recording's end."""
    result: str = ""
    """`ok`, or the errno's name; empty where it is not known."""
    setup: bool = False
    promise: bool = False
    """Its return promises something: it is an fsync or the like, or the program said so."""
    durable: int = -1
    """The event after which a flush had made all that it wrote durable; -1: never, or it wrote nothing."""
    state: str = ""
    """At the cut: `durable`, `in the device's cache`, `in memory only`, `running`, `not begun`."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One file in which the disk after the cut differs from what was to be expected of it."""

    path: str
    what: str
    """`missing`, `extra`, `shorter`, `longer`, `content`, `type`, `unreadable`."""
    expected_size: int = -1
    found_size: int = -1
    first: int = -1
    """The first byte that differs; -1: none does (a name is missing, …)."""
    start: int = 0
    """Offset of the two windows."""
    expected: bytes = b""
    found: bytes = b""


class Explained(msgspec.Struct, kw_only=True):
    """One finding. Times are event numbers of the log; `cut` events had been completed when the power went."""

    file_system: str
    volume: str
    """`ext4 of 64 MiB, -o noatime`."""
    model: str
    kind: FindingKind | None = None
    verdict: Verdict = Verdict.UNKNOWN
    summary: str = ""
    output: str = ""
    kernel: tuple[str, ...] = ()
    state: str = ""
    """Name of the crash state: the hash of its disk."""
    begin: int = 0
    """The first event of the workload."""
    cut: int = 0
    epoch: int = 0
    epochs: int = 0
    entries: tuple[Entry, ...] = ()
    """From `begin` to the end of the recording."""
    steps: tuple[Step, ...] = ()
    lost: tuple[int, ...] = ()
    """Events whose writes (or a part of them) did not reach the disk."""
    promises_made: int = 0
    promises_total: int = 0
    broken: str = ""
    """The promise that broke, in one line; empty where none is known."""
    headline: str = ""
    """One sentence: which promise was broken, by which lost write, of which file."""
    story: tuple[str, ...] = ()
    """The same at length, one paragraph each, in the order of time."""
    sides: tuple[Side, ...] = ()
    advice: Advice | None = None
    bundle: str = ""
    replay: str = ""
    """The command that brings this disk back."""
    notes: tuple[str, ...] = ()
    harness: str = ""
    kernel_version: str = ""
    tools: dict[str, str] = {}
    promises: tuple[str, ...] = ()
    """Made before the cut, printable; the last hundred of them."""
    workload: tuple[str, ...] = ()
    """The plan's lines, or the commands."""

    @property
    def lost_classes(self) -> tuple[str, ...]:
        """The kinds of the lost blocks, sorted: `data`, `inode table`; (nothing) where none was lost."""
        kinds = {str(piece.kind) for entry in self.entries if entry.lost for piece in entry.pieces}
        return tuple(sorted(kinds))

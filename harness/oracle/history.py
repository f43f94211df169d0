"""What a plan made of a volume, over time: every fact with all the values that it has had.

Time is counted in operations: time t is the instant after operation t - 1, time 0 the empty volume. Files are known by
their inode numbers, as the interpreter saw them. A number that the file system gives out again goes on with its
history, so a recovered file may be the earlier or the later one.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")

SECTOR = 512
ROOT = -1
"""Stands for the inode number of the volume's root, which differs between file systems."""

Name = tuple[int, str]
"""A directory's inode number, and a name in it."""


class History(Generic[Value]):
    """The values of one fact."""

    def __init__(self, first: Value, t: int = 0) -> None:
        self._times = [t]
        self._values = [first]

    @property
    def last(self) -> Value:
        return self._values[-1]

    def set(self, t: int, value: Value) -> None:
        """From time t on. Several values of one time are kept: the fact went through all of them."""
        self._times.append(t)
        self._values.append(value)

    def at(self, t: int) -> Value:
        """The value at time t."""
        return next(
            (value for time, value in zip(reversed(self._times), reversed(self._values), strict=True) if time <= t),
            self._values[0],
        )

    def between(self, first: int, last: int) -> list[Value]:
        """The value at time `first`, and every later one up to time `last`."""
        later = [v for time, v in zip(self._times, self._values, strict=True) if first < time <= last]
        return [self.at(first), *later]

    def within(self, first: int, last: int) -> list[Value]:
        """All that it was set to from time `first` to time `last`."""
        return [v for time, v in zip(self._times, self._values, strict=True) if first <= time <= last]

    def set_at(self, value: Value, upto: int) -> int:
        """The last time, `upto` at most, at which it got this value; -1 if it had not got it by then."""
        pairs = zip(reversed(self._times), reversed(self._values), strict=True)
        return next((time for time, known in pairs if known == value and time <= upto), -1)

    @property
    def times(self) -> tuple[int, ...]:
        """When it was set, the beginning first."""
        return tuple(self._times)

    @property
    def began(self) -> int:
        """When it was first set; 0 if it never was."""
        return self._times[1] if len(self._times) > 1 else 0


class Content(NamedTuple):
    """A file's bytes: its size, and the sectors that are not all zeros."""

    size: int = 0
    sectors: Mapping[int, bytes] = {}

    def sector(self, number: int) -> bytes:
        return self.sectors.get(number, ZEROS)

    def written(self, offset: int, data: bytes, size: int) -> "Content":
        """With `data` at `offset`, and that size."""
        sectors = dict(self.sectors)
        at = 0
        while at < len(data):
            number, within = divmod(offset + at, SECTOR)
            piece = data[at : at + SECTOR - within]
            old = sectors.get(number, ZEROS)
            sectors[number] = old[:within] + piece + old[within + len(piece) :]
            at += len(piece)
        return Content(size, sectors)

    def zeroed(self, offset: int, length: int, size: int) -> "Content":
        """With zeros in a range, and that size."""
        stop = offset + length
        sectors = {}
        for number, data in self.sectors.items():
            first, last = max(offset - number * SECTOR, 0), min(stop - number * SECTOR, SECTOR)
            sectors[number] = data[:first] + bytes(last - first) + data[last:] if first < last else data
        return Content(size, sectors)

    def resized(self, size: int) -> "Content":
        return self.zeroed(size, max(0, self.size - size), size)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range, as far as the file goes."""
        length = max(0, min(length, self.size - offset))
        first, last = offset // SECTOR, (offset + length + SECTOR - 1) // SECTOR
        return b"".join(self.sector(n) for n in range(first, last))[offset % SECTOR :][:length]

    def collapsed(self, offset: int, length: int) -> "Content":
        """fallocate(2), FALLOC_FL_COLLAPSE_RANGE. Offset and length are whole blocks."""
        first, stop, shift = offset // SECTOR, (offset + length) // SECTOR, length // SECTOR
        kept = {n if n < first else n - shift: data for n, data in self.sectors.items() if n < first or n >= stop}
        return Content(self.size - length, kept)

    def inserted(self, offset: int, length: int) -> "Content":
        """fallocate(2), FALLOC_FL_INSERT_RANGE."""
        first, shift = offset // SECTOR, length // SECTOR
        moved = {n if n < first else n + shift: data for n, data in self.sectors.items()}
        return Content(self.size + length, moved)


ZEROS = bytes(SECTOR)
NOTHING = Content()


class Growth(NamedTuple):
    """During operation t - 1 the size went from `low` to `high`, and may be found at any block boundary in between."""

    t: int
    low: int
    high: int


class File:
    """Everything that one inode number has been."""

    def __init__(self) -> None:
        self.kind: History[str] = History("")
        self.names: History[frozenset[Name]] = History(frozenset())
        self.content = History(NOTHING)
        self.mode = History(0)
        self.xattrs: History[frozenset[tuple[str, str]]] = History(frozenset())
        self.mtime: History[int | None] = History(None)
        self.target = History("")
        self.growth: list[Growth] = []
        self.ends: list[tuple[int, int]] = []
        """(time, byte) at which a range ended that an operation worked on."""
        self.shifted: list[tuple[int, int]] = []
        """(time, sector): from there on blocks were moved about, which is several transactions on some file systems."""
        self.uncertain: int | None = None
        """The time of the first call that failed and may have changed the content in part: nothing is asked of the
        content where that call may have been made."""


class Tree:
    """All of them, and what every name in every directory was bound to: an inode number, or 0."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {ROOT: File()}
        self.entries: dict[Name, History[int]] = {}
        self.files[ROOT].kind.set(0, "dir")
        self.files[ROOT].mode.set(0, 0o755)

    def file(self, inode: int) -> File:
        return self.files.setdefault(inode, File())

    def bound(self, name: Name) -> int:
        entry = self.entries.get(name)
        return entry.last if entry else 0

    def bind(self, t: int, changes: Mapping[Name, int]) -> None:
        """Bind each name to an inode number (0: to nothing), all at one time."""
        names = {inode: set(self.file(inode).names.last) for inode in self._concerned(changes)}
        for name, inode in changes.items():
            old = self.bound(name)
            if old:
                names[old].discard(name)
            if inode:
                names[inode].add(name)
            self.entries.setdefault(name, History(0)).set(t, inode)
            self.file(name[0]).mtime.set(t, None)  # the kernel's own: the directory changed
        for inode, bound in names.items():
            if frozenset(bound) != self.file(inode).names.last:
                self.file(inode).names.set(t, frozenset(bound))

    def _concerned(self, changes: Mapping[Name, int]) -> Iterable[int]:
        return {inode for name, new in changes.items() for inode in (self.bound(name), new) if inode}

    def names_in(self, directory: int) -> list[Name]:
        return [name for name in self.entries if name[0] == directory]

"""What may be found after a cut: of each fact the values from its floor to the last operation that may have begun."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from harness.oracle.contracts import Contract
from harness.oracle.floors import Floors
from harness.oracle.history import SECTOR, ZEROS, Content, File, Name, Tree
from harness.oracle.recovered import WHOLE_MAX

BLOCK = 4096


class Version(NamedTuple):
    """One content that a file may have; `whole` are its bytes, if they are few."""

    content: Content
    whole: bytes | None


class Expectation:
    """Of one stretch between two persistence points. Everything is worked out once, when it is first asked for."""

    def __init__(self, tree: Tree, floors: Floors, contract: Contract, horizon: int) -> None:
        self.tree = tree
        self.floors = floors
        self.contract = contract
        self.horizon = horizon
        """The time after the last operation that may have begun."""
        self.names = sorted(tree.entries)
        self.inodes = sorted(tree.files)
        # Not decorators: a cache on the class would keep every expectation alive.
        self.bindings = cache(self._bindings)
        self.name_sets = cache(self._name_sets)
        self.versions = cache(self._versions)
        self.sizes = cache(self._sizes)
        self.sector_values = cache(self._sector_values)
        self.modes = cache(self._modes)
        self.xattr_sets = cache(self._xattr_sets)
        self.mtimes = cache(self._mtimes)
        self.targets = cache(self._targets)
        self.asks_xattrs = any(any(file.xattrs.between(0, horizon)) for file in tree.files.values())

    def file(self, inode: int) -> File:
        return self.tree.files[inode]

    def asks_content(self, inode: int) -> bool:
        """Not where a call that failed half-way may have changed it."""
        since = self.file(inode).uncertain
        return since is None or since > self.horizon

    def _bindings(self, name: Name) -> frozenset[int]:
        """What a name may be bound to: inode numbers, 0 for nothing."""
        return frozenset(self.tree.entries[name].between(self.floors.of_entry(name), self.horizon))

    def _name_sets(self, inode: int) -> list[frozenset[Name]]:
        return self.file(inode).names.between(self.floors.of_names(inode), self.horizon)

    def _versions(self, inode: int) -> list[Version]:
        contents = self.file(inode).content.between(self.floors.of_data(inode), self.horizon)
        return [Version(content, _whole(content)) for content in contents]

    def _sizes(self, inode: int) -> "Sizes":
        floor = self.floors.of_data(inode)
        file = self.file(inode)
        exact = {version.content.size for version in self.versions(inode)}
        growing = [(g.low, g.high) for g in file.growth if floor < g.t <= self.horizon]
        least = 0
        for t, size in self.floors.least_sizes.get(inode, ()):
            later = [content.size for content in file.content.between(t, self.horizon)]
            least = max(least, min([size, *later]))
        ends = frozenset(end for t, end in file.ends if t <= self.horizon)
        return Sizes(frozenset(size for size in exact if size >= least), tuple(growing), least, ends)

    def _sector_values(self, inode: int, number: int) -> frozenset[bytes]:
        floor = self.floors.of_sector(inode, number)
        file = self.file(inode)
        values = {content.sector(number) for content in file.content.between(floor, self.horizon)}
        if any(floor < t <= self.horizon and number >= first for t, first in file.shifted):
            values.add(ZEROS)
        return frozenset(values)

    def _modes(self, inode: int) -> frozenset[int]:
        file = self.file(inode)
        # What is found was made, so that it has a mode since then: inode and mode are written in one transaction.
        floor = max(self.floors.of_attributes(inode), file.mode.began)
        return frozenset(file.mode.between(floor, self.horizon))

    def _xattr_sets(self, inode: int) -> frozenset[frozenset[tuple[str, str]]]:
        return frozenset(self.file(inode).xattrs.between(self.floors.of_attributes(inode), self.horizon))

    def _mtimes(self, inode: int) -> frozenset[int]:
        """The times that may be found; empty: any, for the kernel may have set one."""
        times = self.file(inode).mtime.between(self.floors.of_attributes(inode), self.horizon)
        return frozenset() if None in times else frozenset(time for time in times if time is not None)

    def _targets(self, inode: int) -> frozenset[str]:
        return frozenset(filter(None, self.file(inode).target.between(0, self.horizon)))


class Sizes(NamedTuple):
    """The sizes that a file may have."""

    exact: frozenset[int]
    growing: Sequence[tuple[int, int]]
    least: int
    ends: frozenset[int]

    def allow(self, size: int) -> bool:
        """Whether this one is among them; so is, on the way to a larger one, a block boundary or the end of a range.

        The blocks of a growing file are written one after the other, and its size follows them; a hole that is punched,
        or a range zeroed, takes the size with it (fs/ext4/inode.c, ext4_update_disksize_before_punch).
        """
        if size in self.exact:
            return True
        between = any(low <= size <= high for low, high in self.growing)
        return between and size >= self.least and (size % BLOCK == 0 or size in self.ends)


def _whole(content: Content) -> bytes | None:
    if content.size > WHOLE_MAX:
        return None
    return b"".join(content.sector(n) for n in range(-(-content.size // SECTOR)))[: content.size]

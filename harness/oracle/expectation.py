"""What may be found after a cut: of each fact the values from its floor to the last operation that may have begun."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise, product
from typing import NamedTuple, TypeVar

from harness.oracle.contracts import Contract
from harness.oracle.floors import Floors
from harness.oracle.history import SECTOR, ZEROS, Content, File, History, Name, Tree
from harness.oracle.recovered import WHOLE_MAX

BLOCK = 4096

Value = TypeVar("Value")


class Version(NamedTuple):
    """One content that a file may have; `whole` are its bytes, if they are few."""

    content: Content
    whole: bytes | None


class Life(NamedTuple):
    """A file by its number, and by the time before which that number was another's: of its content nothing may stay."""

    inode: int
    born: int = 0


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
        self.kinds = cache(self._kinds)
        self.life = cache(self._life)
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

    def names_may_be(self, inode: int, found: frozenset[Name]) -> bool:
        """Whether a file may have these names where each directory may be as it was at a time of its own.

        An operation that changed two directories, a rename, is seen in both or in neither.
        """
        names, floor = self.file(inode).names, self.floors.of_names(inode)
        times = [floor, *(t for t in names.times if floor < t <= self.horizon)]
        bound = [names.at(t) for t in times]
        directories = sorted({name[0] for each in (found, *bound) for name in each})
        together = [
            (n, {name[0] for name in before ^ after}) for n, (before, after) in enumerate(pairwise(bound), start=1)
        ]
        as_found = [[n for n, each in enumerate(bound) if _in(each, d) == _in(found, d)] for d in directories]
        return any(
            all(
                len({n >= at for d, n in zip(directories, chosen, strict=True) if d in both}) < 2
                for at, both in together
            )
            for chosen in product(*as_found)
        )

    def _kinds(self, inode: int) -> frozenset[str]:
        return frozenset(self.file(inode).kind.between(0, self.horizon))

    def _life(self, inode: int, name: Name) -> Life:
        """The earliest life of this number in which it had that name. The first one begins with the volume."""
        births = self.file(inode).kind.times
        if len(births) <= 2:
            return Life(inode)
        lives = zip(births[1:], (*births[2:], self.horizon + 1), strict=True)
        bound = self.tree.entries[name]
        possible = (born for born, end in lives if inode in bound.within(born, min(end - 1, self.horizon)))
        born = next(possible, 0)
        return Life(inode, born if born != births[1] else 0)

    def _between(self, history: History[Value], floor: int, born: int) -> list[Value]:
        """The values from the floor, or from birth if that is later, to the horizon."""
        return history.within(born, self.horizon) if born > floor else history.between(floor, self.horizon)

    def _versions(self, life: Life) -> list[Version]:
        contents = self._between(self.file(life.inode).content, self.floors.of_data(life.inode), life.born)
        return [Version(content, _whole(content)) for content in contents]

    def _sizes(self, life: Life) -> "Sizes":
        inode = life.inode
        floor = max(self.floors.of_data(inode), life.born)
        file = self.file(inode)
        exact = {version.content.size for version in self.versions(life)}
        growing = [(g.low, g.high) for g in file.growth if floor < g.t <= self.horizon]
        least = 0
        for t, size in self.floors.least_sizes.get(inode, ()):
            later = [content.size for content in file.content.between(t, self.horizon)]
            least = max(least, min([size, *later]))
        ends = frozenset(end for t, end in file.ends if t <= self.horizon)
        return Sizes(frozenset(size for size in exact if size >= least), tuple(growing), least, ends)

    def _sector_values(self, life: Life, number: int) -> frozenset[bytes]:
        floor = self.floors.of_sector(life.inode, number)
        file = self.file(life.inode)
        values = {content.sector(number) for content in self._between(file.content, floor, life.born)}
        if any(floor < t <= self.horizon and number >= first for t, first in file.shifted):
            # xfs moves the blocks one extent a transaction: what has been moved away and not yet moved in is a hole.
            values.add(ZEROS)
        return frozenset(values)

    def _modes(self, inode: int) -> frozenset[int]:
        mode = self.file(inode).mode
        # What is found was made, so it has a mode since then: an inode and its mode are written in one transaction.
        return frozenset(self._between(mode, self.floors.of_attributes(inode), mode.began))

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


def _in(names: frozenset[Name], directory: int) -> frozenset[Name]:
    return frozenset(name for name in names if name[0] == directory)


def _whole(content: Content) -> bytes | None:
    if content.size > WHOLE_MAX:
        return None
    return b"".join(content.sector(n) for n in range(-(-content.size // SECTOR)))[: content.size]

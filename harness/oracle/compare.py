"""A recovered volume beside what may be found there: names, then data, then attributes; the root cause ends it."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from harness.oracle.expectation import Expectation
from harness.oracle.history import SECTOR, ZEROS, Name
from harness.oracle.recovered import WHOLE_MAX, Entry, read_sectors, read_whole, xattrs_of
from harness.plan.operations import Operation
from harness.plan.payload import Kind, identify
from harness.verdict import Finding, FindingKind

_COUNT_SUBDIRECTORIES = ("ext2", "ext3", "ext4", "xfs")
_FINDINGS_MAX = 4


class Comparison:
    """One recovered volume under comparison."""

    def __init__(
        self, root: str, entries: Sequence[Entry], expected: Expectation, operations: Sequence[Operation], fs: str
    ) -> None:
        self._root = root
        self._entries = entries
        self._expected = expected
        self._operations = operations
        self._fs = fs
        self._bound: dict[int, set[Name]] = defaultdict(set)
        for entry in entries:
            if entry.inode:
                self._bound[entry.inode].add(entry.name)

    def findings(self) -> list[Finding]:
        """What is wrong, of the first kind that anything is wrong of; one finding a rule."""
        for part in (self._dangling, self._names, self._places, self._link_counts, self._data, self._attributes):
            found: dict[tuple[str, str], Finding] = {}
            for finding in part():
                found.setdefault((finding.kind, finding.summary.rpartition("[rule ")[2]), finding)
            if found:
                return list(found.values())[:_FINDINGS_MAX]
        return []

    def _dangling(self) -> Iterator[Finding]:
        for entry in self._entries:
            if entry.status is None:
                said = os.strerror(entry.error)
                yield _finding(FindingKind.META, entry.path, f"readdir shows the name, lstat says {said}", "reachable")

    def _names(self) -> Iterator[Finding]:
        """Each name is bound to what it may be bound to."""
        expected = self._expected
        found = {entry.name: entry for entry in self._entries}
        directories = {entry.inode for entry in self._entries if entry.kind == "dir"}
        for name in expected.names:
            allowed = expected.bindings(name)
            if name not in found and 0 not in allowed and (name[0] < 0 or name[0] in directories):
                yield self._gone(name, sorted(allowed))
        for entry in self._entries:
            if entry.name not in expected.tree.entries:
                what = f"a {entry.kind or 'name'} that no operation made"
                yield _finding(FindingKind.FOREIGN, entry.path, what, "possible-name")
            elif entry.inode not in expected.bindings(entry.name):
                yield self._wrongly_bound(entry)
            elif entry.kind not in self._kinds(entry.inode):
                what = f"it is a {entry.kind}, and never was one"
                yield _finding(FindingKind.FOREIGN, entry.path, what, "possible-name")

    def _kinds(self, inode: int) -> list[str]:
        return self._expected.file(inode).kind.between(0, self._expected.horizon)

    def _gone(self, name: Name, allowed: Sequence[int]) -> Finding:
        t = self._expected.floors.of_entry(name)
        what = f"the name is gone, though {self._since(t)} persisted it"
        output = f"it was bound to the file {' or '.join(map(str, allowed))}"
        return _finding(FindingKind.LOST_ACKED, self._spelled(name), what, "fsync-directory", output)

    def _wrongly_bound(self, entry: Entry) -> Finding:
        history = self._expected.tree.entries[entry.name]
        t = self._expected.floors.of_entry(entry.name)
        if entry.inode in history.between(0, t):
            now = "bound to another file" if history.at(t) else "removed"
            what = f"it leads to the file {entry.inode} again, though {self._since(t)} persisted that it was {now}"
            return _finding(FindingKind.STALE, entry.path, what, "fsync-directory")
        what = f"it leads to the file {entry.inode}, to which it was never bound"
        return _finding(FindingKind.FOREIGN, entry.path, what, "possible-name")

    def _places(self) -> Iterator[Finding]:
        """Each file has all the names that it had at some moment."""
        expected = self._expected
        if not expected.contract.atomic_names:
            return  # names are owed by fsync of their directories alone, which _names has asked for
        for inode in expected.inodes:
            if inode < 0:
                continue
            sets = expected.name_sets(inode)
            found = frozenset(self._bound.get(inode, ()))
            if found not in sets:
                yield from self._misplaced(inode, found, sets)

    def _misplaced(self, inode: int, found: frozenset[Name], sets: Sequence[frozenset[Name]]) -> Iterator[Finding]:
        path = self._spelled(min(sets[0] or found or sets[-1]))
        had = "; or ".join(" and ".join(sorted(map(self._spelled, names))) or "none" for names in dict.fromkeys(sets))
        has = " and ".join(sorted(map(self._spelled, found))) or "none"
        output = f"the file {inode} has the names: {has}\nat some moment it had: {had}"
        t = self._expected.floors.of_names(inode)
        if len(found) > max(map(len, sets)):
            what = f"one file under {len(found)} names ({has}), and never had so many since {self._since(t)}"
            yield _finding(FindingKind.META, path, what, "atomic-names", output)
        elif t and self._expected.contract.fsync_names:
            lost = ", ".join(sorted(map(self._spelled, sets[0] - found))) or path
            what = f"the file has the names {has}, though {self._since(t)} persisted {lost}"
            yield _finding(FindingKind.LOST_ACKED, path, what, "fsync-names", output)
        else:
            what = f"the file has the names {has}, which it never had together"
            yield _finding(FindingKind.LOST_ACKED, path, what, "atomic-names", output)

    def _link_counts(self) -> Iterator[Finding]:
        subdirectories = Counter(entry.name[0] for entry in self._entries if entry.kind == "dir")
        for entry in self._entries:
            assert entry.status is not None
            counted = entry.status.st_nlink
            if entry.kind == "dir":
                wanted = 2 + subdirectories[entry.inode] if self._fs in _COUNT_SUBDIRECTORIES else counted
            else:
                wanted = len(self._bound[entry.inode])
            if counted != wanted:
                what = f"its link count is {counted}, and {wanted} is right"
                yield _finding(FindingKind.META, entry.path, what, "link-count")

    def _data(self) -> Iterator[Finding]:
        seen: set[int] = set()
        for entry in self._entries:
            if entry.inode in seen:
                continue
            seen.add(entry.inode)
            if entry.kind == "symlink":
                yield from self._target(entry)
            elif entry.kind == "file" and not self._expected.file(entry.inode).uncertain:
                yield from self._content(entry)

    def _target(self, entry: Entry) -> Iterator[Finding]:
        target = os.readlink(f"{self._root}/{entry.path}")
        if target not in self._expected.targets(entry.inode):
            yield _finding(FindingKind.TORN, entry.path, f"it leads to {target!r}, and never did", "symlink-whole")

    def _content(self, entry: Entry) -> Iterator[Finding]:
        assert entry.status is not None
        size, path, expected = entry.status.st_size, f"{self._root}/{entry.path}", self._expected
        sizes = expected.sizes(entry.inode)
        if size <= WHOLE_MAX:
            data = read_whole(path, size)
            whole = any(version.whole == data for version in expected.versions(entry.inode))
            if whole and size in sizes.exact and entry.inode not in expected.floors.ranges:
                return
            sectors = {n // SECTOR: data[n : n + SECTOR].ljust(SECTOR, b"\0") for n in range(0, len(data), SECTOR)}
        else:
            sectors = read_sectors(path, size)
        if not sizes.allow(size):
            yield self._size(entry, size)
            return
        yield from self._sectors(entry, size, sectors)

    def _size(self, entry: Entry, size: int) -> Finding:
        sizes, t = self._expected.sizes(entry.inode), self._expected.floors.of_data(entry.inode)
        wanted = ", ".join(map(str, sorted(sizes.exact)))
        output = f"possible sizes: {wanted}"
        if size < min(sizes.exact, default=0):
            what = f"it has {size} bytes of at least {min(sizes.exact)}, though {self._since(t)} persisted them"
            kind = FindingKind.TRUNCATED if size else FindingKind.LOST_ACKED
            return _finding(kind, entry.path, what, "fsync-data", output)
        known = size in {c.size for c in self._expected.file(entry.inode).content.between(0, self._expected.horizon)}
        if known:
            what = f"it has {size} bytes, an older size than the {wanted} that {self._since(t)} persisted"
            return _finding(FindingKind.STALE, entry.path, what, "fsync-data", output)
        return _finding(FindingKind.TORN, entry.path, f"it has {size} bytes, and never had", "possible-size", output)

    def _sectors(self, entry: Entry, size: int, sectors: dict[int, bytes]) -> Iterator[Finding]:
        expected, inode = self._expected, entry.inode
        for number in sorted(self._numbers(inode, size, sectors)):
            found = sectors.get(number, ZEROS)
            length = min(SECTOR, size - number * SECTOR)
            allowed = expected.sector_values(inode, number)
            if not any(found[:length] == value[:length] for value in allowed):
                yield self._sector(entry, number, found[:length], sorted(value[:length] for value in allowed))
                return

    def _numbers(self, inode: int, size: int, sectors: dict[int, bytes]) -> Iterable[int]:
        """The sectors in which anything but zeros is found or may be wanted."""
        known = {n for version in self._expected.versions(inode) for n in version.content.sectors}
        return {n for n in known | set(sectors) if n * SECTOR < size}

    def _sector(self, entry: Entry, number: int, found: bytes, allowed: Sequence[bytes]) -> Finding:
        expected, inode, offset = self._expected, entry.inode, number * SECTOR
        t = expected.floors.of_sector(inode, number)
        identity = identify(found)
        history = expected.file(inode).content.between(0, expected.horizon)
        earlier = any(content.sector(number)[: len(found)] == found for content in history)
        persisted = f"though {self._since(t)} persisted what was there"
        output = "\n".join(
            [f"found    {identity.phrase}", *(f"possible {identify(value).phrase}" for value in allowed)]
        )
        if not any(found):
            kind, rule, what = FindingKind.ZEROED, "fsync-data", f"zeros at byte {offset}, {persisted}"
        elif earlier:
            kind, rule, what = FindingKind.STALE, "fsync-data", f"older data at byte {offset}, {persisted}"
        elif identity.kind is Kind.TORN:
            kind, rule, what = FindingKind.TORN, "old-or-new", f"a torn sector at byte {offset}: {identity.phrase}"
        else:
            kind, rule = FindingKind.FOREIGN, "old-or-new"
            what = f"what never was there at byte {offset}: {identity.phrase}"
        return _finding(kind, entry.path, what, rule, output)

    def _attributes(self) -> Iterator[Finding]:
        for entry in self._entries:
            if entry.kind in ("file", "dir"):
                yield from self._of_one(entry)

    def _of_one(self, entry: Entry) -> Iterator[Finding]:
        assert entry.status is not None
        expected, inode = self._expected, entry.inode
        since = self._since(expected.floors.of_attributes(inode))
        mode = entry.status.st_mode & 0o7777
        if mode not in expected.modes(inode):
            wanted = " or ".join(f"{each:04o}" for each in sorted(expected.modes(inode)))
            what = f"its mode is {mode:04o} and not {wanted}, which {since} persisted"
            yield _finding(FindingKind.STALE, entry.path, what, "fsync-attributes")
        if expected.asks_xattrs:
            found = xattrs_of(f"{self._root}/{entry.path}")
            if found not in expected.xattr_sets(inode):
                names = ", ".join(sorted(name for name, _ in found)) or "none"
                what = f"its extended attributes ({names}) are not those that {since} persisted"
                yield _finding(FindingKind.LOST_ACKED, entry.path, what, "fsync-attributes")
        times = expected.mtimes(inode)
        if times and int(entry.status.st_mtime) not in times:
            what = f"its modification time is {int(entry.status.st_mtime)}, not that which {since} persisted"
            yield _finding(FindingKind.STALE, entry.path, what, "fsync-attributes")

    def _since(self, t: int) -> str:
        """The operation that led to time t, as findings name it."""
        if t <= 0:
            return "the beginning"
        return f'"{self._operations[t - 1]}" (operation {t - 1})'

    def _spelled(self, name: Name) -> str:
        """A path for people, by the names that its directories were first given."""
        directory, last = name
        if directory < 0:
            return last
        names = next((names for names in self._expected.file(directory).names.between(0, 1 << 30) if names), None)
        return f"{self._spelled(min(names))}/{last}" if names else f"[{directory}]/{last}"


def _finding(kind: FindingKind, path: str, what: str, rule: str, output: str = "") -> Finding:
    return Finding(kind=kind, summary=f"{kind} {path}: {what} [rule {rule}]", output=output)

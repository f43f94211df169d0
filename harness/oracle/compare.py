"""A recovered volume beside what may be found there: names, then data, then attributes; the root cause ends it."""

import errno
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from harness.oracle.contents import Contents
from harness.oracle.expectation import Expectation
from harness.oracle.history import ROOT, Name
from harness.oracle.recovered import Entry, has_lost_and_found, root_of
from harness.oracle.wording import Wording, finding
from harness.plan.plan import Plan
from harness.verdict import Finding, FindingKind

COUNT_SUBDIRECTORIES = ("ext2", "ext3", "ext4", "xfs")
"""Where a directory's link count is 2 and its subdirectories; on btrfs it is 1 (fs/btrfs/inode.c)."""

DIRECTORIES_APART = ("btrfs",)
"""Where fsync of one directory need not bring along what happened in another before it. ext4 and xfs have one journal,
written in order; btrfs logs what the fsync is about (fs/btrfs/tree-log.c), and no fstest asks for more."""

_FINDINGS_MAX = 4

# The name is there and what it leads to is not: ext4_lookup makes EUCLEAN of an inode that is free (ESTALE).
_NOWHERE = (errno.ENOENT, errno.EUCLEAN, errno.ESTALE)


class Comparison:
    """One recovered volume under comparison."""

    def __init__(self, root: str, entries: Sequence[Entry], expected: Expectation, plan: Plan, fs: str) -> None:
        self._root = root
        self._entries = entries
        self._expected = expected
        self._fs = fs
        self._words = Wording(plan, expected)
        self._bound: dict[int, set[Name]] = defaultdict(set)
        for entry in entries:
            if entry.inode:
                self._bound[entry.inode].add(entry.name)

    def findings(self) -> list[Finding]:
        """What is wrong, of the first kind that anything is wrong of; one finding a rule."""
        contents = Contents(self._root, self._entries, self._expected, self._words)
        parts = (
            self._dangling,
            self._names,
            self._places,
            self._link_counts,
            contents.data,
            contents.attributes,
        )
        for part in parts:
            found: dict[tuple[str, str], Finding] = {}
            for each in part():
                found.setdefault((each.kind, each.summary.rpartition("[rule ")[2]), each)
            if found:
                return list(found.values())[:_FINDINGS_MAX]
        return []

    def _dangling(self) -> Iterator[Finding]:
        for entry in self._entries:
            if entry.status is None:
                kind = FindingKind.META if entry.error in _NOWHERE else FindingKind.UNAVAILABLE
                said = os.strerror(entry.error)
                yield finding(kind, entry.path, f"readdir shows the name, lstat says {said}", "reachable")

    def _names(self) -> Iterator[Finding]:
        """Each name is bound to what it may be bound to."""
        expected = self._expected
        found = {entry.name for entry in self._entries}
        directories = {entry.inode for entry in self._entries if entry.kind == "dir"}
        for name in expected.names:
            allowed = expected.bindings(name)
            if name not in found and 0 not in allowed and (name[0] == ROOT or name[0] in directories):
                yield self._gone(name, sorted(allowed))
        for entry in self._entries:
            if entry.name not in expected.tree.entries:
                what = f"a {entry.kind} that no operation made"
                yield finding(FindingKind.FOREIGN, entry.path, what, "possible-name")
            elif entry.inode not in expected.bindings(entry.name):
                yield self._wrongly_bound(entry)
            elif entry.kind not in expected.kinds(entry.inode):
                yield finding(FindingKind.FOREIGN, entry.path, f"it is a {entry.kind}, and never was", "possible-name")

    def _gone(self, name: Name, allowed: Sequence[int]) -> Finding:
        t = self._expected.floors.of_entry(name)
        what = f"the name is gone, though {self._words.since(t)} persisted it"
        output = f"it was bound to the file {' or '.join(map(str, allowed))}"
        rule = self._words.rule("fsync-directory", t)
        return finding(FindingKind.LOST_ACKED, self._words.spelled(name), what, rule, output)

    def _wrongly_bound(self, entry: Entry) -> Finding:
        history = self._expected.tree.entries[entry.name]
        t = self._expected.floors.of_entry(entry.name)
        if entry.inode in history.between(0, t):
            now = "bound to another file" if history.at(t) else "removed"
            what = f"it leads to the file {entry.inode} again, though {self._words.since(t)} persisted it as {now}"
            return finding(FindingKind.STALE, entry.path, what, self._words.rule("fsync-directory", t))
        what = f"it leads to the file {entry.inode}, to which it was never bound"
        return finding(FindingKind.FOREIGN, entry.path, what, "possible-name")

    def _places(self) -> Iterator[Finding]:
        """Each file has all the names that it had at some moment."""
        expected = self._expected
        if not expected.contract.atomic_names:
            return  # names are owed by fsync of their directories alone, which _names has asked for
        for inode in expected.inodes:
            found = frozenset(self._bound.get(inode, ()))
            if inode == ROOT or found in expected.name_sets(inode):
                continue
            if self._fs not in DIRECTORIES_APART or not expected.names_may_be(inode, found):
                yield self._misplaced(inode, found, expected.name_sets(inode))

    def _misplaced(self, inode: int, found: frozenset[Name], sets: Sequence[frozenset[Name]]) -> Finding:
        words, floors = self._words, self._expected.floors
        path = words.spelled(min(sets[0] or found or sets[-1]))
        has = self._listed(found)
        had = "; or ".join(map(self._listed, dict.fromkeys(sets)))
        output = f"the file {inode} has the names: {has}\nat some moment it had: {had}"
        t = floors.names_promised(inode)
        promised = words.rule("fsync-names", t)
        if lost := frozenset.intersection(*sets) - found:
            what = f"the file has the names {has}, though {words.since(t)} persisted {self._listed(lost)}"
            return finding(FindingKind.LOST_ACKED, path, what, promised, output)
        if found and found in self._expected.file(inode).names.between(0, floors.of_names(inode)):
            what = f"the file has the names {has} again, though {words.since(t)} persisted that it lost some of them"
            return finding(FindingKind.STALE, path, what, promised, output)
        if len(found) > max(map(len, sets)):
            what = f"one file under {len(found)} names ({has}), and it never had so many at once"
            return finding(FindingKind.META, path, what, "atomic-names", output)
        what = f"the file has the names {has}, which it never had together"
        return finding(FindingKind.LOST_ACKED, path, what, "atomic-names", output)

    def _listed(self, names: frozenset[Name]) -> str:
        return " and ".join(sorted(map(self._words.spelled, names))) or "none"

    def _link_counts(self) -> Iterator[Finding]:
        subdirectories = Counter(entry.name[0] for entry in self._entries if entry.kind == "dir")
        for entry in self._entries:
            if entry.kind != "dir":
                yield from _wrong_count(entry, len(self._bound[entry.inode]))
            elif self._fs in COUNT_SUBDIRECTORIES:
                yield from _wrong_count(entry, 2 + subdirectories[entry.inode])
        if self._fs in COUNT_SUBDIRECTORIES:
            yield from _wrong_count(root_of(self._root), 2 + subdirectories[ROOT] + has_lost_and_found(self._root))


def _wrong_count(entry: Entry, right: int) -> Iterator[Finding]:
    assert entry.status is not None
    if entry.status.st_nlink != right:
        what = f"its link count is {entry.status.st_nlink}, and {right} is right"
        yield finding(FindingKind.META, entry.path, what, "link-count")

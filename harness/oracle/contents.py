"""What the files of a recovered volume hold, and their attributes, beside what may be found there."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.oracle.expectation import Expectation, Life
from harness.oracle.history import ROOT, SECTOR, ZEROS
from harness.oracle.recovered import WHOLE_MAX, Entry, read_sectors, read_whole, root_of, xattrs_of
from harness.oracle.wording import EVER, Wording, finding
from harness.plan.payload import identify
from harness.verdict import Finding, FindingKind

VOLUME_ERRORS = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)
"""The volume's own word that something on it cannot be read."""


class Contents:
    """The files of one recovered volume whose names are right."""

    def __init__(self, root: str, entries: Sequence[Entry], expected: Expectation, words: Wording) -> None:
        self._root = root
        self._entries = entries
        self._expected = expected
        self._words = words

    def data(self) -> Iterator[Finding]:
        """Each file once, by whichever of its names comes first."""
        seen: set[int] = set()
        for entry in self._entries:
            if entry.inode in seen or entry.kind not in ("symlink", "file"):
                continue
            seen.add(entry.inode)
            try:
                yield from self._target(entry) if entry.kind == "symlink" else self._content(entry)
            except OSError as error:
                yield _unreadable(entry, error)

    def _target(self, entry: Entry) -> Iterator[Finding]:
        target = os.readlink(f"{self._root}/{entry.path}")
        if target not in self._expected.targets(entry.inode):
            kind = FindingKind.FOREIGN if target else FindingKind.LOST_ACKED
            yield finding(kind, entry.path, f"it leads to {target!r}, and never did", "symlink-whole")

    def _content(self, entry: Entry) -> Iterator[Finding]:
        if not self._expected.asks_content(entry.inode):
            return
        assert entry.status is not None
        size, path, expected = entry.status.st_size, f"{self._root}/{entry.path}", self._expected
        life = expected.life(entry.inode, entry.name)
        sizes = expected.sizes(life)
        if size <= WHOLE_MAX:
            data = read_whole(path, size)
            whole = any(version.whole == data for version in expected.versions(life))
            if whole and size in sizes.exact and entry.inode not in expected.floors.ranges:
                return
            sectors = {n // SECTOR: data[n : n + SECTOR].ljust(SECTOR, b"\0") for n in range(0, len(data), SECTOR)}
        else:
            sectors = read_sectors(path, size)
        if not sizes.allow(size):
            yield self._size(entry, life, size, sectors)
            return
        yield from self._sectors(entry, life, size, sectors)

    def _size(self, entry: Entry, life: Life, size: int, sectors: Mapping[int, bytes]) -> Finding:
        sizes, t = self._expected.sizes(life), self._expected.floors.of_size(life.inode)
        wanted = " or ".join(map(str, sorted(sizes.exact)))
        output = f"possible sizes: {wanted}"
        since, rule = self._words.since(t), self._words.rule("fsync-data", t)
        if size < min(sizes.exact):
            kind = FindingKind.TRUNCATED if size else FindingKind.LOST_ACKED
            what = f"it has {size} bytes of at least {min(sizes.exact)}, though {since} persisted them"
            return finding(kind, entry.path, what, rule, output)
        ever = {content.size for content in self._expected.file(life.inode).content.between(0, self._expected.horizon)}
        if size in ever:
            what = f"it has {size} bytes, an older size than the {wanted} that {since} persisted"
            return finding(FindingKind.STALE, entry.path, what, rule, output)
        if size < max(ever):
            what = f"it has {size} bytes, and never had: {wanted} are possible"
            return finding(FindingKind.TRUNCATED, entry.path, what, "possible-size", output)
        beyond = next((n for n in sorted(sectors) if n * SECTOR >= max(ever) and any(sectors[n])), None)
        more = f"; at byte {beyond * SECTOR}: {identify(sectors[beyond]).phrase}" if beyond is not None else ""
        kind = FindingKind.META if beyond is None else FindingKind.FOREIGN
        what = f"it has {size} bytes, and never had more than {max(ever)}{more}"
        return finding(kind, entry.path, what, "possible-size", output)

    def _sectors(self, entry: Entry, life: Life, size: int, sectors: Mapping[int, bytes]) -> Iterator[Finding]:
        for number in sorted(self._numbers(life, size, sectors)):
            found = sectors.get(number, ZEROS)
            length = min(SECTOR, size - number * SECTOR)
            allowed = self._expected.sector_values(life, number)
            if not any(found[:length] == value[:length] for value in allowed):
                yield self._sector(entry, number, found[:length], sorted(value[:length] for value in allowed))
                return

    def _numbers(self, life: Life, size: int, sectors: Mapping[int, bytes]) -> Iterable[int]:
        """The sectors in which anything but zeros is found or may be wanted."""
        known = {n for version in self._expected.versions(life) for n in version.content.sectors}
        return {n for n in known | set(sectors) if n * SECTOR < size}

    def _sector(self, entry: Entry, number: int, found: bytes, allowed: Sequence[bytes]) -> Finding:
        expected, inode, offset = self._expected, entry.inode, number * SECTOR
        t = expected.floors.of_sector(inode, number)
        identity = identify(found)
        history = [c.sector(number)[: len(found)] for c in expected.file(inode).content.between(0, expected.horizon)]
        persisted = f"though {self._words.since(t)} persisted what was there"
        possible = [f"possible {identify(value).phrase}" for value in allowed]
        output = "\n".join([f"first wrong byte {offset}", f"found    {identity.phrase}", *possible])
        promised, rule = self._words.rule("fsync-data", t), "old-or-new"
        if not any(found):
            kind, rule, what = FindingKind.ZEROED, promised, f"zeros at byte {offset}, {persisted}"
        elif found in history:
            kind, rule, what = FindingKind.STALE, promised, f"older data at byte {offset}, {persisted}"
        elif _spliced(found, history):
            kind, what = FindingKind.TORN, f"a torn sector at byte {offset}: {identity.phrase}"
        else:
            kind, what = FindingKind.FOREIGN, f"what never was there at byte {offset}: {identity.phrase}"
        return finding(kind, entry.path, what, rule, output)

    def attributes(self) -> Iterator[Finding]:
        """Mode, extended attributes and times of files and directories, the root among them."""
        for entry, inode in [(root_of(self._root), ROOT), *((entry, entry.inode) for entry in self._entries)]:
            if entry.kind in ("file", "dir"):
                try:
                    yield from self._mode_and_time(entry, inode)
                    yield from self._xattrs(entry, inode) if self._expected.asks_xattrs else ()
                except OSError as error:
                    yield _unreadable(entry, error)

    def _mode_and_time(self, entry: Entry, inode: int) -> Iterator[Finding]:
        assert entry.status is not None
        expected, t = self._expected, self._expected.floors.of_attributes(inode)
        since, rule = self._words.since(t), self._words.rule("fsync-attributes", t)
        mode, modes = entry.status.st_mode & 0o7777, expected.modes(inode)
        if mode not in modes:
            wanted = " or ".join(f"{each:04o}" for each in sorted(modes))
            if mode in expected.file(inode).mode.between(expected.file(inode).mode.began, EVER):
                what = f"its mode is {mode:04o} and not {wanted}, which {since} persisted"
                yield finding(FindingKind.STALE, entry.path, what, rule)
            else:
                what = f"its mode is {mode:04o} and not {wanted}, and it never was that"
                yield finding(FindingKind.META, entry.path, what, "possible-attributes")
        times = expected.mtimes(inode)
        if times and int(entry.status.st_mtime) not in times:
            what = f"its modification time is {int(entry.status.st_mtime)}, not that which {since} persisted"
            yield finding(FindingKind.STALE, entry.path, what, rule)

    def _xattrs(self, entry: Entry, inode: int) -> Iterator[Finding]:
        expected, t = self._expected, self._expected.floors.of_attributes(inode)
        found, allowed = xattrs_of(f"{self._root}/{entry.path}"), expected.xattr_sets(inode)
        if found in allowed:
            return
        since, rule = self._words.since(t), self._words.rule("fsync-attributes", t)
        names = ", ".join(sorted(name for name, _ in found)) or "none"
        output = "\n".join([f"found    {sorted(found)}", *(f"possible {sorted(each)}" for each in allowed)])
        promised = frozenset.intersection(*allowed)
        if lost := sorted({name for name, _ in promised} - {name for name, _ in found}):
            what = f"its extended attribute {', '.join(lost)} is gone, though {since} persisted it (there are: {names})"
            yield finding(FindingKind.LOST_ACKED, entry.path, what, rule, output)
        elif found <= frozenset().union(*expected.file(inode).xattrs.between(0, expected.horizon)):
            what = f"its extended attributes ({names}) are older than those that {since} persisted"
            yield finding(FindingKind.STALE, entry.path, what, rule, output)
        else:
            what = f"its extended attributes ({names}) are none that it ever had"
            yield finding(FindingKind.META, entry.path, what, "possible-attributes", output)


def _spliced(found: bytes, values: Sequence[bytes]) -> bool:
    """Whether it begins like one of the values, and all the rest is like the end of another."""
    begins = max((_common(found, value) for value in values), default=0)
    ends = max((_common(found[::-1], value[::-1]) for value in values), default=0)
    return begins > 0 and ends > 0 and begins + ends >= len(found)


def _common(found: bytes, value: bytes) -> int:
    """How many bytes are the same from the beginning on."""
    return next((n for n, (a, b) in enumerate(zip(found, value, strict=True)) if a != b), len(found))


def _unreadable(entry: Entry, error: OSError) -> Finding:
    """The volume says itself that this cannot be read. Whatever else went wrong is none of its doing: raised."""
    if error.errno not in VOLUME_ERRORS:
        raise error
    what = f"it cannot be read: {error.strerror}"
    return finding(FindingKind.UNAVAILABLE, entry.path, what, "reachable", str(error))

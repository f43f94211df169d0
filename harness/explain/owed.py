"""What a file system owes a plan, beside what is on the recovered disk: the differences, file by file.

The judge says what is wrong (harness.oracle); this only shows where. What the contract allows is no difference.
"""

import os
from collections.abc import Iterator, Mapping

import msgspec

from harness.explain.explained import Side
from harness.explain.shapes import spelled, with_windows
from harness.oracle.expectation import Expectation, Life
from harness.oracle.history import SECTOR, ZEROS, Content, Name
from harness.oracle.plan_check import PlanCheck
from harness.oracle.recovered import WHOLE_MAX, Entry, read_sectors, read_whole, walk
from harness.oracle.wording import Wording
from harness.plan.plan import Plan, outcomes_of
from harness.settings import Settings
from harness.trial.recording import Recording


def against_plan(root: str, plan: Plan, recording: Recording, settings: Settings, promises: int) -> Iterator[Side]:
    """Every name and file of the volume at `root` that is not as the plan's contract allows after so many promises."""
    check = PlanCheck(plan, outcomes_of(recording.log), settings.contract, file_system=recording.spec.fs)
    expected = check.expected(promises)
    try:
        entries = {entry.name: entry for entry in walk(root)}
    except OSError as error:
        path = os.path.relpath(error.filename, root) if error.filename else ""
        yield Side(path="/" + spelled(path.removeprefix(".")), what="unreadable")
        return
    yield from _missing(entries, expected, Wording(plan, expected))
    for entry in entries.values():
        side = _side_of(root, entry, expected)
        if side:
            yield side


def _missing(entries: Mapping[Name, Entry], expected: Expectation, words: Wording) -> Iterator[Side]:
    for name in expected.names:
        bound = expected.bindings(name)
        if name not in entries and 0 not in bound:
            content = _content(expected, name, min(bound))
            side = Side(path="/" + spelled(words.spelled(name)), what="missing")
            if content:
                side = msgspec.structs.replace(side, expected_size=content.size)
                side = with_windows(side, 0, content.read(0, SECTOR), b"")
            yield side


def _content(expected: Expectation, name: Name, inode: int) -> Content | None:
    """The oldest content that the file may still have: what was promised. None for what is no file."""
    if "file" not in expected.kinds(inode):
        return None
    return expected.versions(expected.life(inode, name))[0].content


def _side_of(root: str, entry: Entry, expected: Expectation) -> Side | None:
    path = "/" + spelled(entry.path)
    if entry.status is None:
        return Side(path=path, what="unreadable")
    bound = expected.bindings(entry.name) if entry.name in expected.tree.entries else frozenset()
    wanted = sorted(bound - {0})
    size = entry.status.st_size if entry.kind == "file" else -1
    if not wanted:
        return Side(path=path, what="extra", found_size=size)
    inode = entry.inode if entry.inode in bound else wanted[0]
    if entry.kind not in expected.kinds(inode):
        return Side(path=path, what="type", found_size=size)
    try:
        if entry.kind == "symlink":
            return _target_side(path, os.readlink(f"{root}/{entry.path}"), expected.targets(inode))
        if entry.kind == "file" and expected.asks_content(inode):
            return _content_side(root, entry, expected, inode)
    except OSError:
        return Side(path=path, what="unreadable", found_size=size)
    return None


def _target_side(path: str, found: str, targets: frozenset[str]) -> Side | None:
    if found in targets or not targets:
        return None
    wanted, there = os.fsencode(min(targets)), os.fsencode(found)
    side = Side(path=path, what="content", expected_size=len(wanted), found_size=len(there))
    return with_windows(side, 0, wanted, there)


def _content_side(root: str, entry: Entry, expected: Expectation, inode: int) -> Side | None:
    assert entry.status is not None
    size, life = entry.status.st_size, expected.life(inode, entry.name)
    content = expected.versions(life)[0].content
    sectors = _sectors(f"{root}/{entry.path}", size)
    wrong = _first_wrong(expected, life, size, sectors)
    right_size = expected.sizes(life).allow(size)
    if right_size and wrong is None:
        return None
    what = "content" if right_size else "shorter" if size < content.size else "longer"
    side = Side(path="/" + spelled(entry.path), what=what, expected_size=content.size, found_size=size)
    first = wrong if wrong is not None else min(size, content.size) // SECTOR
    base = max(0, first - 1) * SECTOR
    there = b"".join(sectors.get(n, ZEROS) for n in range(base // SECTOR, first + 2))[: max(0, size - base)]
    wanted = b"".join(_wanted(expected, life, content, n) for n in range(base // SECTOR, first + 2))
    return with_windows(side, base, wanted[: max(0, content.size - base)], there)


def _sectors(path: str, size: int) -> Mapping[int, bytes]:
    if size > WHOLE_MAX:
        return read_sectors(path, size)
    data = read_whole(path, size)
    return {at // SECTOR: data[at : at + SECTOR].ljust(SECTOR, b"\0") for at in range(0, len(data), SECTOR)}


def _first_wrong(expected: Expectation, life: Life, size: int, sectors: Mapping[int, bytes]) -> int | None:
    """The number of the first sector that holds what the contract does not allow."""
    known = {n for version in expected.versions(life) for n in version.content.sectors}
    for number in sorted({n for n in known | set(sectors) if n * SECTOR < size}):
        length = min(SECTOR, size - number * SECTOR)
        found = sectors.get(number, ZEROS)[:length]
        if not any(found == value[:length] for value in expected.sector_values(life, number)):
            return number
    return None


def _wanted(expected: Expectation, life: Life, content: Content, number: int) -> bytes:
    """What is owed of a sector: the promised version's, unless a later promise was about that sector alone."""
    allowed = expected.sector_values(life, number)
    mine = content.sector(number)
    return mine if mine in allowed or not allowed else min(allowed)

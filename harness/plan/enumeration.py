"""Bounded enumeration: every sequence of one, two or three core operations within stated bounds.

After the bounds of a published enumerator, ACE (CrashMonkey and ACE, OSDI 2018), whose counts it reaches: 328 sequences
of length 1, 241,720 of length 2. A sequence is core operations, each with a persistence point or nothing behind it, and
never nothing behind the last. What an operation needs (a file that must exist) is put in front of it, as part of the
plan: it is no more durable than the rest. docs/enumeration.md has the bounds as tables.
"""

import itertools
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple, TypeVar, cast

import xxhash

from harness.errors import Misuse
from harness.plan.dependencies import BLOCK, ROOT, Node, Workload, parent_of
from harness.plan.operations import (
    Creat,
    Fallocate,
    FallocateMode,
    Fdatasync,
    Fsync,
    How,
    Link,
    Mkdir,
    Msync,
    Operation,
    Remove,
    RemoveXattr,
    Rename,
    SetXattr,
    Symlink,
    Sync,
    Truncate,
    Unlink,
    Write,
)
from harness.plan.plan import Plan

T = TypeVar("T")

OPS_MAX = 3
PAGE = 4096

DIRECTORIES = ("A",)
SECOND_DIRECTORIES = ("B",)
FILES = ("foo", "A/foo")
SECOND_FILES = ("bar", "A/bar")
"""Where there is one path, it comes from the first set; a second path comes only from the second. So there are no two
sequences that differ in nothing but the names."""

FALLOCATE_MODES: tuple[FallocateMode, ...] = (
    "zero-range",
    "zero-range-keep-size",
    "punch-hole",
    "keep-size",
    "plain",
)
WIDE_FALLOCATE_MODES: tuple[FallocateMode, ...] = (*FALLOCATE_MODES, "collapse-range", "insert-range")
SPANS = ("append", "start", "extend")
ALIGNED_SPANS = ("append", "start")
HOWS: dict[str, How] = {"write": "write", "direct-write": "direct", "mmap-write": "mmap"}
TRUNCATED_SIZES = {"empty": 0, "unaligned": 2500}

APPENDED = BLOCK
OVERLAP = 5000
OVERLAP_ALIGNED = 2 * PAGE
BEFORE_END = 2000
"""An overlap that extends starts so far before the end of the file."""

PUBLISHED = {1: 328, 2: 241_720}
PUBLISHED_BY_COUNTING = {**PUBLISHED, 3: 7_478_858}
"""For length 3 no count is published for these bounds; this is what the rules in the published source come to."""

_REPEATS = {1: 12, 2: 20_136, 3: 679_948}
_OTHER_RULE = (
    "-3569120: the published source compares the letters of a lone path, and words such as 'append', where it asks "
    "whether operations share a file: it takes 'foo' and 'A/foo', or two appends to two files, for related",
    "-869360: the same in sequences with an operation on a directory, which it takes for related to every other; here "
    "a path must lie in that directory",
    "+1061368: for the same reason it takes `creat foo` and `write foo`, or `mkdir A` and `write A/foo`, for unrelated",
    "+176512: it takes the last operation for unrelated where all it has to do with the others is that its file lies "
    "in a directory that one of them renamed",
    "+972: it leaves three plain writes to another generator",
)

RENAMES_THAT_FAIL = (Rename(path="A", new="A/C"),)
"""Within the nested bounds, and there alone: a directory moved into itself is EINVAL whatever there is."""


class Bounds(NamedTuple):
    """`nested`: also A/C, A/C/foo and A/C/bar. `wide`: what the published bounds leave out; docs/enumeration.md."""

    nested: bool = False
    wide: bool = False


class Choice(NamedTuple):
    """A core operation before it is known how long its file is."""

    kind: str
    paths: tuple[str, ...]
    mode: str = ""
    span: str = ""


class Point(NamedTuple):
    """A persistence point: fsync, fdatasync or msync of a path, or sync."""

    kind: str
    path: str = ROOT


class Sequence(NamedTuple):
    """`id` hashes `text`: core operations and persistence points. `plan` also has what they need."""

    number: int
    id: str
    core: tuple[Operation, ...]
    plan: Plan
    text: str


def sequences(
    ops: int, nested: bool = False, *, wide: bool = False, part: tuple[int, int] = (1, 1)
) -> Iterator[Sequence]:
    """Every sequence of `ops` core operations, always in the same order. `part` (i, n) is quicker than shard."""
    _check(ops)
    numbered = enumerate(_skeletons(ops, Bounds(nested, wide)))
    return (_build(number, choices, points) for number, (choices, points) in shard(numbered, *part))


def total(ops: int, nested: bool = False, *, wide: bool = False) -> int:
    """How many sequences there are, by counting combinations of paths instead of generating."""
    _check(ops)
    bounds = Bounds(nested, wide)
    # All that the persistence points depend on. Choices alike in it are counted together.
    alike = Counter(
        (choice.kind if choice.kind in ("mmap-write", "symlink") else "", choice.paths) for choice in choices_of(bounds)
    )
    count = 0
    for group in itertools.product(alike.items(), repeat=ops):
        choices = tuple(Choice(*kind_and_paths) for kind_and_paths, _ in group)
        if _belong_together(choices):
            combinations = 1
            for (_, many), points in zip(group, _points_of(choices, bounds), strict=True):
                combinations *= many * len(points)
            count += combinations
    return count


def differences(ops: int) -> list[str]:
    """Why `total(ops)` is not PUBLISHED_BY_COUNTING[ops], or what is behind equal numbers. The numbers add up to it."""
    _check(ops)
    many = _REPEATS[ops]
    repeats = [
        f"-{many}: the published generator counts a persistence point behind an mmap write but writes none down "
        "(its mmap write ends in msync), so that these repeat another sequence",
        f"+{many}: here the persistence point behind an mmap write is run, so that each of these is a sequence of its "
        "own; msync is a persistence point of the wide bounds",
    ]
    return repeats + (list(_OTHER_RULE) if ops == OPS_MAX else [])


def shard(iterator: Iterable[T], i: int, n: int) -> Iterator[T]:
    """Part `i` of `n`, counted from 1: every n-th element. The parts share nothing and miss nothing."""
    if not 1 <= i <= n:
        raise Misuse(f"there is no shard {i}/{n}", "number them from 1: 1/4, 2/4, 3/4, 4/4")
    return itertools.islice(iterator, i - 1, None, n)


def choices_of(bounds: Bounds) -> tuple[Choice, ...]:
    """Every core operation within the bounds, in the order of enumeration."""
    files = (*FILES, "A/C/foo") if bounds.nested else FILES
    second_files = (*SECOND_FILES, "A/C/bar") if bounds.nested else SECOND_FILES
    second_directories = (*SECOND_DIRECTORIES, "A/C") if bounds.nested else SECOND_DIRECTORIES
    return tuple(
        itertools.chain(
            _each("creat", _single(files)),
            _each("mkdir", _single(DIRECTORIES)),
            _each("fallocate", _single(files), WIDE_FALLOCATE_MODES if bounds.wide else FALLOCATE_MODES, SPANS),
            _each("write", _single(files), spans=(*SPANS, "end") if bounds.wide else SPANS),
            _each("direct-write", _single(files), spans=ALIGNED_SPANS),
            _each("mmap-write", _single(files), spans=ALIGNED_SPANS),
            _each("link", _pairs(files, second_files)),
            _each("unlink", _single(files + second_files)),
            _each("remove", _single(files + second_files)),
            _each("rename", _pairs(files, second_files)),
            _each("rename", _pairs(DIRECTORIES, second_directories)),
            _each("setxattr", _single(files)),
            _each("removexattr", _single(files)),
            _each("truncate", _single(files), tuple(TRUNCATED_SIZES)),
            _each("symlink", _pairs(files, second_files) if bounds.wide else []),
        )
    )


def _check(ops: int) -> None:
    if not 1 <= ops <= OPS_MAX:
        raise Misuse(f"{ops} core operations are outside the bounds", f"ask for 1 to {OPS_MAX}")


def _single(paths: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(path,) for path in paths]


def _pairs(first: tuple[str, ...], second: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(path, new) for path in first + second for new in second if path != new]


def _each(
    kind: str, paths: list[tuple[str, ...]], modes: tuple[str, ...] = ("",), spans: tuple[str, ...] = ("",)
) -> Iterator[Choice]:
    return (Choice(kind, *rest) for rest in itertools.product(paths, modes, spans))


def _skeletons(ops: int, bounds: Bounds) -> Iterator[tuple[tuple[Choice, ...], tuple[Point | None, ...]]]:
    for choices in itertools.product(choices_of(bounds), repeat=ops):
        if _belong_together(choices):
            for points in itertools.product(*_points_of(choices, bounds)):
                yield choices, points


def _belong_together(choices: tuple[Choice, ...]) -> bool:
    """Of three operations, the second and third must each have to do with a path of one before it."""
    if len(choices) < OPS_MAX:
        return True
    first, second, third = (choice.paths for choice in choices)
    return _touch(first, second) and (_touch(first, third) or _touch(second, third))


@cache
def _touch(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether they share a path, or one has a directory that a path of the other lies in."""
    return any(f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/") for a in first for b in second)


def _points_of(choices: tuple[Choice, ...], bounds: Bounds) -> Iterator[tuple[Point | None, ...]]:
    """For each operation, what may follow it. None is nothing, and stands behind all but the last."""
    used = frozenset(path for choice in choices for path in choice.paths)
    links = frozenset(choice.paths[1] for choice in choices if choice.kind == "symlink")
    common = _common_points(used, links, len(choices), bounds.wide)
    for number, choice in enumerate(choices, 1):
        points: tuple[Point | None, ...] = common
        if bounds.wide and choice.kind == "mmap-write":
            points = (*points, Point("msync", choice.paths[0]))
        yield points if number == len(choices) else (*points, None)


@cache
def _common_points(used: frozenset[str], links: frozenset[str], ops: int, wide: bool) -> tuple[Point, ...]:
    """fsync of each used path, and of its sibling and parent in sequences of one or two; sync.

    A symbolic link itself cannot be opened (ELOOP), so the names of `links` are left out.
    """
    near = used if ops == OPS_MAX else used | {_sibling(path) for path in used} | {parent_of(path) for path in used}
    # Sorted: the order of a set changes from run to run.
    points = [Point("fsync", path) for path in sorted(near - links)]
    if wide:
        points += [
            Point("fdatasync", path) for path in sorted(used - links) if posixpath.basename(path) in ("foo", "bar")
        ]
    return (*points, Point("sync"))


def _sibling(path: str) -> str:
    """foo and bar of one directory are siblings, A and B too; A/C and the root have none but themselves."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, {"foo": "bar", "bar": "foo", "A": "B", "B": "A"}.get(name, name))


def _build(number: int, choices: tuple[Choice, ...], points: tuple[Point | None, ...]) -> Sequence:
    workload = Workload()
    core = []
    told = []
    for choice, point in zip(choices, points, strict=True):
        operation = _operation(choice, workload)
        workload.add(operation)
        core.append(operation)
        told.append(operation)
        if point:
            persistence = _persistence(point, operation)
            workload.add(persistence)
            told.append(persistence)
    text = "; ".join(map(str, told))
    plan = Plan(operations=tuple(workload.operations))
    return Sequence(number, xxhash.xxh3_64_hexdigest(text.encode()), tuple(core), plan, text)


def _persistence(point: Point, after: Operation) -> Operation:
    match point.kind:
        case "fsync":
            return Fsync(path=point.path)
        case "fdatasync":
            return Fdatasync(path=point.path)
        case "msync":
            assert isinstance(after, Write)
            start = after.offset - after.offset % PAGE
            return Msync(path=point.path, offset=start, length=after.offset + after.length - start)
        case _:
            return Sync()


def _operation(choice: Choice, workload: Workload) -> Operation:
    """The core operation itself, once the files that it needs to be worth running are there."""
    path, new = choice.paths[0], choice.paths[-1]
    match choice.kind:
        case "creat":
            # A new file each time, not an open(2) of an old one: so the old one goes first.
            workload.need_absent(path)
            return Creat(path=path)
        case "mkdir":
            return Mkdir(path=path)
        case "link":
            return Link(path=path, new=new)
        case "symlink":
            workload.need_inode(path)
            return Symlink(target=posixpath.relpath(path, parent_of(new)), new=new)
        case "rename":
            return Rename(path=path, new=new)
        case "unlink":
            return Unlink(path=path)
        case "remove":
            return Remove(path=path)
        case "removexattr":
            return RemoveXattr(path=path)
        case "setxattr":
            node = workload.names.get(path)
            # A second setxattr has something to change.
            changed = node is not None and node.attributes.get("attr") == "value"
            return SetXattr(path=path, value="changed" if changed else "value")
        case "truncate":
            _with_data(choice, workload, path)
            return Truncate(path=path, size=TRUNCATED_SIZES[choice.mode])
        case _:
            return _ranged(choice, workload, path)


def _ranged(choice: Choice, workload: Workload, path: str) -> Operation:
    node = _with_data(choice, workload, path)
    aligned = choice.kind in ("direct-write", "mmap-write") or choice.mode in ("collapse-range", "insert-range")
    offset, length = _range(choice.span, node.size, aligned)
    if choice.kind == "fallocate":
        return Fallocate(path=path, offset=offset, length=length, mode=cast(FallocateMode, choice.mode))
    return Write(path=path, offset=offset, length=length, how=HOWS[choice.kind])


def _with_data(choice: Choice, workload: Workload, path: str) -> Node:
    """The file; with a block of data in it if something is to lie there already. Only appended data do without."""
    node = workload.need_file(path)
    if node.size < BEFORE_END and (choice.kind == "fallocate" or choice.span != "append"):
        workload.add(Write(path=path, offset=node.size, length=BLOCK))
    return node


def _range(span: str, size: int, aligned: bool) -> tuple[int, int]:
    """Offset and length, in whole pages if they must be aligned: an append then starts at the next page."""
    end = -(-size // PAGE) * PAGE if aligned else size
    match span:
        case "append":
            return end, APPENDED
        case "start":
            return 0, OVERLAP_ALIGNED if aligned else OVERLAP
        case "end":
            return max(0, size - OVERLAP), OVERLAP
        case _:
            start = size - BEFORE_END
            return (start // PAGE * PAGE, OVERLAP_ALIGNED) if aligned else (start, OVERLAP)

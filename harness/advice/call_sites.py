"""Where in a program an fsync may be missing, or be one too many: read off the calls that it made. Pure.

A program loops, so a place is a class of call sites: the kind of call and its paths, with numbers in them written N and
random names `*`. While the calls are walked, each file and directory is dirty from its first change to its next fsync
(fsync(2): a new name is made durable by an fsync of its directory). A place is worth trying where its target is dirty.
"""

import functools
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from harness.advice.advised import Change
from harness.machine.calls_seen import Call

BEFORE, AFTER, AFTER_RUN = "before", "after", "after run"
FSYNC, FDATASYNC, DIRECTORY, REMOVE = "fsync", "fdatasync", "fsync directory", "remove"

_NAMELESS = " (deleted)"
"""What /proc adds to the name of a file that has none (any more)."""
_UNNAMED = "(no name)"
_RANDOM = re.compile(r"(?<=tmp)\w{6,}|(?<=\.)(?=\w*\d|\w*[a-z]\w*[A-Z]|[A-Z]+[a-z]+\w*[A-Z])[A-Za-z0-9]{6,}$")
_HEX = re.compile(r"(?<![0-9a-z])(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}(?![0-9a-z])")
_DIGITS = re.compile(r"\d+")
_SITES_MAX = 6
"""Syncs of one target that are told apart by what came before them; beyond it they are one place."""


@functools.lru_cache(4096)
def normal(path: str) -> str:
    """The class of a path: `msg/17.tmpk3x_9fab` is `msg/N.tmp*`."""
    if path.endswith(_NAMELESS):
        return _UNNAMED
    return _DIGITS.sub("N", _HEX.sub("N", "/".join(_RANDOM.sub("*", part) for part in path.split("/"))))


class Shape(msgspec.Struct, frozen=True):
    """The class of a call: its name, and the classes of its paths."""

    name: str
    paths: tuple[str, ...] = ()

    @classmethod
    def of(cls, call: Call) -> "Shape":
        """The class that a call belongs to."""
        return _shape(call.name, call.paths)

    @property
    def text(self) -> str:
        """`rename of config.new -> config`; `promise`."""
        return f"{self.name} of {' -> '.join(self.paths)}" if self.paths else self.name


@functools.lru_cache(4096)
def _shape(name: str, paths: tuple[str, ...]) -> Shape:
    return Shape(name, tuple(map(normal, paths)))


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What to do at each place of a class: add a sync of the dirty files or directories of class `target`, or `remove`.

    `previous`: only where the program's call before it is of this shape; None: wherever.
    """

    when: str = BEFORE
    shape: Shape
    action: str
    target: str
    previous: Shape | None = None


class _Node:
    """A file or directory, whatever its names are."""

    def __init__(self, directory: bool = False) -> None:
        self.directory = directory
        self.dirty = False
        self.mapped = False


class Unsynced:
    """Which files and directories have changed since they were last made durable, call by call."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def dirty(self, *, directories: bool) -> list[str]:
        """Those with something to lose, in the order in which they were first heard of."""
        return [
            path
            for path, node in self._nodes.items()
            if node.dirty and node.directory is directories and not path.endswith(_NAMELESS)
        ]

    def is_dirty(self, path: str) -> bool:
        node = self._nodes.get(path)
        return node is not None and node.dirty

    def is_mapped(self, path: str) -> bool:
        """The program may change it without a call, so it is dirty for good."""
        node = self._nodes.get(path)
        return node is not None and node.mapped

    def synced(self, path: str) -> None:
        """It was made durable."""
        node = self._nodes.get(path)
        if node:
            node.dirty = node.mapped

    def apply(self, call: Call) -> None:
        """Take in a call that succeeds."""
        if call.fate == "left out":
            return
        if call.name in ("sync", "syncfs"):
            for path in self._nodes:
                self.synced(path)
        elif call.name in ("fsync", "fdatasync", "msync"):
            self.synced(call.paths[0])
        elif call.name in ("write", "truncate", "fallocate", "mmap"):
            self._changed(call)
        elif call.name in _NAMING:
            self._named(call)

    def _node(self, path: str, *, directory: bool = False) -> _Node:
        return self._nodes.setdefault(path, _Node(directory))

    def _changed(self, call: Call) -> None:
        node = self._node(call.paths[0])
        node.mapped |= call.name == "mmap"
        node.dirty |= not call.durable

    def _named(self, call: Call) -> None:
        first, last = call.paths[0], call.paths[-1]
        if call.name in ("unlink", "rmdir"):
            self._nodes.pop(first, None)
        elif call.name == "link":
            node = self._nodes[last] = self._node(first)
            node.dirty = True
        elif call.name in ("rename", "exchange"):
            self._moved(first, last, both_ways=call.name == "exchange")
        elif call.name != "symlink":
            node = self._nodes[last] = _Node(call.name == "mkdir")
            node.dirty = call.name == "creat"
        for path in folders_of(call):
            self._node(path, directory=True).dirty = True

    def _moved(self, old: str, new: str, *, both_ways: bool) -> None:
        back = self._taken(new)
        for path, node in self._taken(old).items():
            self._nodes[new + path] = node
        if both_ways:
            for path, node in back.items():
                self._nodes[old + path] = node

    def _taken(self, path: str) -> dict[str, _Node]:
        """A name and all below it, taken out of the table; the keys begin after the name."""
        below = [name for name in self._nodes if name == path or name.startswith(path + "/")]
        return {name[len(path) :]: self._nodes.pop(name) for name in below}


_NAMING = ("creat", "mkdir", "symlink", "link", "rename", "exchange", "unlink", "rmdir")


def folders_of(call: Call) -> list[str]:
    """The directories whose entries a call changes: that of its new name first."""
    if call.name not in _NAMING:
        return []
    changed = call.paths[1:] if call.name == "link" else call.paths[::-1]
    return list(dict.fromkeys(posixpath.dirname(path) or "." for path in changed))


class History:
    """The program's calls so far, for telling call sites apart by what came before them."""

    def __init__(self) -> None:
        self._by_thread: dict[tuple[int, int], Shape] = {}
        self._by_process: dict[int, Shape] = {}
        self._last: Shape | None = None

    def previous(self, call: Call) -> Shape | None:
        """The call before it of the same thread; else of the same process; else of anyone."""
        own = self._by_thread.get((call.process, call.thread))
        return own or self._by_process.get(call.process) or self._last

    def note(self, call: Call) -> None:
        shape = Shape.of(call)
        self._by_thread[call.process, call.thread] = shape
        self._by_process[call.process] = shape
        self._last = shape


def targets(rule: Rule, call: Call, unsynced: Unsynced) -> list[str]:
    """What a rule has to sync at a call of its shape, as the disk stands: dirty, of its class, and of the call's."""
    about = _related(call)
    return [
        path
        for path in unsynced.dirty(directories=rule.action == DIRECTORY)
        if (call.name == "promise" or path in about) and normal(path) == rule.target
    ]


def _related(call: Call) -> set[str]:
    return {*call.paths, *folders_of(call)}


def additions(calls: Sequence[Call]) -> dict[Change, Rule]:
    """The syncs that may be missing, most likely first; of those that come to the same calls, the first.

    Files before renames, files before promises, directories, then files after each run of writes.
    """
    ranks: dict[Rule, int] = {}
    for rank, rule in _proposals(calls):
        ranks[rule] = min(rank, ranks.get(rule, rank))
    found: dict[Change, Rule] = {}
    known: set[tuple[bool, frozenset[_Spot]]] = set()
    for rule in sorted(ranks, key=lambda rule: ranks[rule]):  # a stable sort: the program's own order within a rank
        spots = frozenset(_spots(rule, calls))
        effect = (rule.action == FDATASYNC, spots)
        if effect not in known and not all(_synced_next(calls, gap, path) for gap, path in spots):
            known.add(effect)
            found[Change(action=rule.action, target=rule.target, place=_place(rule, calls), times=len(spots))] = rule
    return found


_Spot = tuple[int, str]
"""Just before the call of this number, this file or directory."""


def _spots(rule: Rule, calls: Sequence[Call]) -> Iterator[_Spot]:
    """Where the program, run with this rule alone, gets a sync added."""
    unsynced = Unsynced()
    waiting: dict[int, dict[str, None]] = {}
    for at, call in enumerate(calls):
        paths = list(waiting.pop(at, ()))
        mine = Shape.of(call) == rule.shape
        if mine and rule.when == BEFORE:
            paths += targets(rule, call, unsynced)
        for path in paths:
            unsynced.synced(path)
            yield at, path
        unsynced.apply(call)
        if mine and rule.when != BEFORE:
            gap = end_of_run(calls, at) if rule.when == AFTER_RUN else at + 1
            waiting.setdefault(gap, {}).update(dict.fromkeys(targets(rule, call, unsynced)))
    for gap, left in waiting.items():
        yield from ((gap, path) for path in left)


def _synced_next(calls: Sequence[Call], gap: int, path: str) -> bool:
    """The program's own next call makes it durable: to do so just before would change nothing."""
    call = calls[gap] if gap < len(calls) else None
    return call is not None and call.syncs and call.paths[:1] in ((), (path,))


def _proposals(calls: Sequence[Call]) -> Iterator[tuple[int, Rule]]:
    """(rank, rule) for each place that is worth a try, again and again."""
    unsynced = Unsynced()
    for call in calls:
        yield from _before(call, unsynced)
        unsynced.apply(call)
        yield from _after(call, unsynced)


def _before(call: Call, unsynced: Unsynced) -> Iterator[tuple[int, Rule]]:
    shape = Shape.of(call)
    if call.name in ("rename", "link") and shape.paths[0] != _UNNAMED and unsynced.is_dirty(call.paths[0]):
        yield 0, Rule(shape=shape, action=DIRECTORY if call.directory else FSYNC, target=shape.paths[0])
    if call.name == "promise":
        for path in unsynced.dirty(directories=False):
            yield 6 if unsynced.is_mapped(path) else 1, Rule(shape=shape, action=FSYNC, target=normal(path))
        for path in unsynced.dirty(directories=True):
            yield 4, Rule(shape=shape, action=DIRECTORY, target=normal(path))


def _after(call: Call, unsynced: Unsynced) -> Iterator[tuple[int, Rule]]:
    shape = Shape.of(call)
    for folder in folders_of(call):
        rule = Rule(when=AFTER, shape=shape, action=DIRECTORY, target=normal(folder))
        yield 2 if call.name == "rename" else 3, rule
    if call.name == "write" and shape.paths[0] != _UNNAMED and unsynced.is_dirty(call.paths[0]):
        for rank, action in ((5, FSYNC), (7, FDATASYNC)):
            yield rank, Rule(when=AFTER_RUN, shape=shape, action=action, target=shape.paths[0])


def end_of_run(calls: Sequence[Call], at: int) -> int:
    """The number of the first call after `at` that is no write to the same file."""
    gap = at + 1
    while gap < len(calls) and calls[gap].name == "write" and calls[gap].paths == calls[at].paths:
        gap += 1
    return gap


def _place(rule: Rule, calls: Sequence[Call]) -> str:
    """`before each rename of config.new -> config`, `before the promise`, `after each run of writes of log`."""
    which = [at for at, call in enumerate(calls) if Shape.of(call) == rule.shape]
    if rule.when == AFTER_RUN and any(end_of_run(calls, at) > at + 1 for at in which):
        return f"after each run of writes of {rule.target}"
    return f"{rule.when.removesuffix(' run')} {_each(len(which))} {rule.shape.text}"


def _each(times: int) -> str:
    return "the" if times == 1 else "each"


def removals(calls: Sequence[Call]) -> dict[Change, Rule]:
    """Each sync that the program makes, left out: one for each class of sites.

    Syncs of one target are told apart by the call before them, so that of two in a row each can be left out alone.
    """
    history = History()
    sites: dict[Shape, dict[Shape | None, list[int]]] = {}
    for at, call in enumerate(calls):
        if call.syncs:
            sites.setdefault(Shape.of(call), {}).setdefault(history.previous(call), []).append(at)
        history.note(call)
    found: dict[Change, Rule] = {}
    for by_previous in sites.values():
        if len(by_previous) <= _SITES_MAX:
            for previous, ats in by_previous.items():
                _remove(found, calls, ats, previous, alone=len(by_previous) == 1)
        else:
            _remove(found, calls, [at for ats in by_previous.values() for at in ats], None, alone=True)
    return found


def _remove(
    found: dict[Change, Rule], calls: Sequence[Call], ats: Sequence[int], previous: Shape | None, *, alone: bool
) -> None:
    """`alone`: it is the only place of this kind, so that what came before needs not be looked at."""
    call, shape = calls[ats[0]], Shape.of(calls[ats[0]])
    target = shape.paths[0] if shape.paths else f"all files, by {shape.name}"
    target = f"directory {target}" if call.directory and shape.paths else target
    rule = Rule(shape=shape, action=REMOVE, target=target, previous=None if alone else previous)
    before = _next_text(calls, ats)
    after = f"after {_each(len(ats))} {previous.text}" if previous else ""
    taken = {change.place for change in found if change.target == target}
    places = (
        before,
        after,
        f"{before}, {after}",
        "wherever the program makes it",
        f"by {shape.name}, {after or before}",
    )
    place = next(place for place in places if place.strip(", ") and place not in taken)
    found[Change(action=REMOVE, target=target, place=place, times=len(ats))] = rule


def _next_text(calls: Sequence[Call], ats: Iterable[int]) -> str:
    """`before each promise`, where one and the same kind of call, no sync itself, follows each; else nothing."""
    following = [calls[at + 1] if at + 1 < len(calls) else None for at in ats]
    shapes = {Shape.of(call) if call else None for call in following}
    shape = shapes.pop()
    if shapes or shape is None or Call(name=shape.name).syncs:
        return ""
    return f"before {_each(len(following))} {shape.text}"

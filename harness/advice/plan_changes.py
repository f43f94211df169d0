"""Where a plan could have one more fsync, and which of its own could be left out: the candidates of a search.

The plan is walked in thought, not run: which file goes by which name, what was touched and not synced since. That only
chooses what is tried; what it comes to is measured.
"""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from harness.advice.advised import Change
from harness.plan import operations as op
from harness.plan.operations import Operation, paths_of
from harness.plan.plan import Plan

_NAME_MAKERS = op.Rename | op.Link
_SYNCS = op.Fsync | op.Fdatasync | op.Msync | op.Sync | op.Syncfs
_TOUCHES_DATA = op.Write | op.Truncate | op.Fallocate | op.CopyRange | op.Tmpfile


class Edits(msgspec.Struct, frozen=True, array_like=True):
    """A plan's changes. `added`: (n, call) goes before operation n, or behind the last one; `removed`: not run."""

    added: tuple[tuple[int, Operation], ...] = ()
    removed: tuple[int, ...] = ()


class Addition(NamedTuple):
    """One candidate: the call, and the operation that it goes before."""

    change: Change
    before: int
    call: Operation
    rank: tuple[int, ...]
    """Low: likely."""


Number = Callable[[int], int]
"""From an operation's number in the plan to the number by which the user knows it."""


def additions_of(plan: Plan, number: Number = lambda n: n) -> list[Addition]:
    """Each fsync, fdatasync and directory fsync that could make a difference, the most likely first.

    The order: a file's fsync right before the call that publishes it under another name; a file's fsync right behind
    the call that touched it; a directory's right behind the call that changed it; then the same later on. fdatasync
    stands behind the fsync of the same place.
    """
    sight = _Sight()
    for operation in plan.setup:
        sight.see(operation)
    sight.forget_all()
    found: list[Addition] = []
    first = len(plan.setup)
    for n, operation in enumerate(plan.operations, first):
        sight.see(operation)
        following = plan.all[n + 1] if n + 1 < len(plan.all) else None
        places = _Place(n + 1, operation, following, number)
        found += sight.additions(places)
    return sorted(found, key=lambda addition: addition.rank)


def removals_of(plan: Plan, number: Number = lambda n: n) -> dict[Change, int]:
    """Each persistence call of the plan that could be left out, and its number in the plan."""
    found: dict[Change, int] = {}
    for n, operation in enumerate(plan.operations, len(plan.setup)):
        if isinstance(operation, _SYNCS):
            target = next(iter(paths_of(operation)), ".")
            verb = type(operation).__name__.lower()
            what = "" if isinstance(operation, op.Fsync) else f", the {verb}"
            found[Change(action="remove", target=target, place=f"at operation {number(n)}{what}")] = n
    return found


class _Place(NamedTuple):
    """A gap between two operations."""

    before: int
    behind: Operation
    following: Operation | None
    number: Number

    @property
    def text(self) -> str:
        """`before rename at operation 4`; behind the last operation: `after rename at operation 4`."""
        if self.following is None:
            return self.after
        return f"before {_verb(self.following)} at operation {self.number(self.before)}"

    @property
    def after(self) -> str:
        """`after creat at operation 1`."""
        return f"after {_verb(self.behind)} at operation {self.number(self.before - 1)}"


def _verb(operation: Operation) -> str:
    return str(operation).split(" ", 1)[0]


class _Sight:
    """What a plan has done so far, as far as a candidate depends on it."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._folders = {"."}
        self._files = 0
        self._data: set[int] = set()
        self._rest: set[int] = set()
        self._entries: set[str] = set()
        self._just_changed: set[str] = set()

    def forget_all(self) -> None:
        """Everything was synced."""
        self._data.clear()
        self._rest.clear()
        self._entries.clear()

    def see(self, operation: Operation) -> None:
        """`operation` was done."""
        self._just_changed.clear()
        match operation:
            case op.Sync() | op.Syncfs():
                self.forget_all()
            case op.Fsync(path=path) | op.Fdatasync(path=path):
                self._synced(path, all_of_it=isinstance(operation, op.Fsync))
            case op.Mkdir(path=path):
                self._folders.add(path)
                self._entry(path)
            case op.Rename(path=path, new=new):
                self._renamed(path, new, exchange=operation.how == "exchange")
            case op.Link(path=path, new=new):
                self._bind(new, self._names.get(path, 0))
            case op.Symlink(new=new):
                self._entry(new)
            case op.Unlink(path=path) | op.Remove(path=path) | op.Rmdir(path=path):
                self._names.pop(path, None)
                self._folders.discard(path)
                self._entry(path)
            case op.Creat() | op.Write() | op.Tmpfile() | op.CopyRange() | op.Truncate() | op.Fallocate():
                self._written(operation)
            case op.Chmod(path=path) | op.Utimens(path=path) | op.SetXattr(path=path) | op.RemoveXattr(path=path):
                self._touched(path)
            case _:
                pass

    def _written(self, operation: Operation) -> None:
        path = paths_of(operation)[-1]
        if path not in self._names and isinstance(operation, op.Creat | op.Tmpfile):
            self._files += 1
            self._bind(path, self._files)
        file = self._names.get(path)
        if file is None:
            return
        if isinstance(operation, _TOUCHES_DATA) or (isinstance(operation, op.Creat) and operation.truncate):
            self._data.add(file)
        if isinstance(operation, op.Write) and operation.how in ("sync", "dsync"):
            self._data.discard(file)

    def _touched(self, path: str) -> None:
        if path in self._folders:
            self._entries.add(path)
            self._just_changed.add(path)
        elif path in self._names:
            self._rest.add(self._names[path])

    def _entry(self, path: str) -> None:
        folder = posixpath.dirname(path) or "."
        self._entries.add(folder)
        self._just_changed.add(folder)

    def _bind(self, path: str, file: int) -> None:
        self._entry(path)
        if file:
            self._names[path] = file
            self._rest.add(file)

    def _renamed(self, path: str, new: str, *, exchange: bool) -> None:
        moved = {name: file for name, file in self._names.items() if _within(name, path)}
        back = {name: file for name, file in self._names.items() if exchange and _within(name, new)}
        folders = {name for name in self._folders if _within(name, path)}
        for name in (*moved, *back):
            self._names.pop(name)
        self._folders -= folders
        self._folders |= {new + name[len(path) :] for name in folders}
        self._names |= {new + name[len(path) :]: file for name, file in moved.items()}
        self._names |= {path + name[len(new) :]: file for name, file in back.items()}
        self._rest |= {file for name, file in moved.items() if name == path}
        self._entry(path)
        self._entry(new)

    def _synced(self, path: str, *, all_of_it: bool) -> None:
        if path in self._folders:
            self._entries.discard(path)
            return
        file = self._names.get(path, 0)
        self._data.discard(file)
        if all_of_it:
            self._rest.discard(file)

    def additions(self, place: _Place) -> Iterator[Addition]:
        """What could be synced here."""
        told: set[int] = set()
        for path, file in self._names.items():
            if file in self._data | self._rest and file not in told:
                told.add(file)
                yield _file_addition("fsync", op.Fsync(path=path), place)
                if file in self._data:
                    yield _file_addition("fdatasync", op.Fdatasync(path=path), place)
        for path in sorted(self._entries):
            if path in self._folders:
                change = Change(action="fsync directory", target=path, place=place.after)
                rank = (2 if path in self._just_changed else 4, 0, place.before)
                yield Addition(change, place.before, op.Fsync(path=path), rank)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + "/")


def _file_addition(action: str, call: op.Fsync | op.Fdatasync, place: _Place) -> Addition:
    published = isinstance(place.following, _NAME_MAKERS) and place.following.path == call.path
    fresh = call.path in paths_of(place.behind)
    change = Change(action=action, target=call.path, place=place.text)
    rank = (0 if published else 1 if fresh else 3, int(action == "fdatasync"), place.before)
    return Addition(change, place.before, call, rank)


def edits_of(additions: Sequence[Addition], removed: Sequence[int]) -> Edits:
    """Changes that were chosen, as a runner takes them: in the order of the plan, files before directories."""
    chosen = sorted(additions, key=lambda addition: (addition.before, addition.change.action == "fsync directory"))
    return Edits(tuple((each.before, each.call) for each in chosen), tuple(sorted(removed)))

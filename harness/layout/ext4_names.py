"""Paths of inodes at a time, on an ext2, ext3 or ext4 volume, for people."""

from bisect import bisect_right
from typing import NamedTuple

from harness.layout.ext4_geometry import ROOT
from harness.layout.ext4_history import BEFORE, History, Life
from harness.layout.ext4_inodes import State

_FOREVER = 1 << 62
_DEPTH_MAX = 100


class Label(NamedTuple):
    """`path` of a file at a time, or the next one if it had none yet; `text` also tells what became of it."""

    path: str
    text: str
    inode_text: str
    """As in `inode 12 (/config)`."""


class _Span(NamedTuple):
    """The life of one file under its inode number: from `begin` until before `stop`; dead from `death` on."""

    begin: int
    death: int
    stop: int


class Names:
    """Answers from a complete history; what was asked once is remembered."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._labels: dict[tuple[int, int, int], Label] = {}

    def generation(self, inode: int, time: int) -> int:
        """Of the file that has the number at that time."""
        life = self._life(inode, time)
        return life.generation if life else 0

    def is_directory(self, inode: int, time: int) -> bool:
        life = self._life(inode, time)
        return bool(life and life.is_directory)

    def label(self, inode: int, generation: int, time: int) -> Label:
        """Of the file with that generation, at that time or the nearest at which it was there."""
        key = (inode, generation, bisect_right(self._history.changes, time))
        if key not in self._labels:
            self._labels[key] = self._label(inode, generation, time)
        return self._labels[key]

    def _label(self, inode: int, generation: int, time: int) -> Label:
        if inode == ROOT:
            return Label("/", "/", f"inode {inode} (/)")
        if (special := self._history.geometry.special.get(inode)) is not None:
            return Label("", special, f"inode {inode} ({special})")
        span = self._span(inode, generation, time)
        if span is None:
            # Made and deleted within one transaction, it has a generation and never was in use.
            what = "deleted" if generation else "unused"
            return Label("", f"inode {inode} ({what})", f"inode {inode} ({what})")
        at = min(max(time, span.begin), span.stop - 1)
        dead = time >= min(span.death, span.stop)
        gone = "deleted" if dead else "unlinked"
        path = self._own_path(inode, span, at)
        if path and not dead:
            later = self._later(inode, span, at, path)
            return Label(path, path + later, f"inode {inode} ({path}{later})")
        # Without a journal, the name can go later than the inode.
        if path or (path := self._last_path(inode, span, at)):
            return Label(path, f"{path} ({gone})", f"inode {inode} ({gone}, was {path})")
        return Label("", f"inode {inode} (without a name)", f"inode {inode} ({gone if dead else 'without a name'})")

    def _own_path(self, inode: int, span: _Span, at: int, depth: int = 0) -> str:
        """At that time, or the next one. Where the number was another file's before, directories on a volume without a
        journal may still have that one's name: its own came with the inode or after it, or else is the newest.
        """
        lives = self._history.lives[inode]
        reused = any(life.time < span.begin and life.state is not State.FREE for life in lives)
        if not reused or self._history.geometry.has_journal:
            return self._path(inode, at, depth) or self._next_path(inode, span, at, depth)
        newest = max((name.time for name in self._history.names.get(inode, ()) if name.time <= at), default=BEFORE)
        return (
            self._path(inode, at, depth, since=span.begin)
            or self._next_path(inode, span, at, depth)
            or self._path(inode, at, depth, since=newest)
        )

    def _life(self, inode: int, time: int) -> Life | None:
        lives = self._history.lives.get(inode, ())
        at = bisect_right(lives, time, key=lambda life: life.time)
        return lives[max(0, at - 1)] if lives else None

    def _span(self, inode: int, generation: int, time: int) -> _Span | None:
        """The one that holds `time`; else the next one; else the last."""
        found: list[_Span] = []
        running = False
        for life in self._history.lives.get(inode, ()):
            ours, used = life.generation == generation, life.state is not State.FREE
            again = running and ours and used and found[-1].death < _FOREVER
            if running and (again or not ours):
                found[-1] = found[-1]._replace(stop=life.time)
                running = False
            if ours and used and not running:
                found.append(_Span(life.time, _FOREVER, _FOREVER))
                running = True
            elif running and not used and found[-1].death == _FOREVER:
                found[-1] = found[-1]._replace(death=life.time)
        return next((span for span in found if time < span.stop), found[-1] if found else None)

    def _names(self, inode: int, time: int, since: int = BEFORE) -> list[tuple[int, bytes]]:
        names: dict[tuple[int, bytes], int] = {}
        for name in self._history.names.get(inode, ()):
            if name.time > time:
                break
            if name.added:
                names[name.parent, name.name] = name.time
            else:
                names.pop((name.parent, name.name), None)
        return [name for name, came in names.items() if came >= since]

    def _path(self, inode: int, time: int, depth: int = 0, since: int = BEFORE) -> str:
        """By its first name at that time that came at `since` or later; empty where it has none."""
        for parent, name in self._names(inode, time, since):
            if (above := self._folder(parent, time, depth)) is not None:
                return f"{above}/{_text(name)}"
        return ""

    def _folder(self, inode: int, time: int, depth: int) -> str | None:
        if inode == ROOT:
            return ""
        if depth > _DEPTH_MAX:
            return None
        span = self._span(inode, self.generation(inode, time), time)
        if span is None:
            return self._path(inode, time, depth + 1) or None
        at = min(max(time, span.begin), span.stop - 1)
        return self._own_path(inode, span, at, depth + 1) or self._last_path(inode, span, at, depth + 1) or None

    def _next_path(self, inode: int, span: _Span, time: int, depth: int) -> str:
        for name in self._history.names.get(inode, ()):
            if time < name.time < span.stop and name.added:
                return self._path(inode, name.time, depth, since=name.time)
        return ""

    def _last_path(self, inode: int, span: _Span, time: int, depth: int = 0) -> str:
        for name in reversed(self._history.names.get(inode, ())):
            if span.begin <= name.time <= max(time, span.death) and name.time <= span.stop and not name.added:
                return self._path(inode, name.time - 1, depth)
        return ""

    def _later(self, inode: int, span: _Span, time: int, path: str) -> str:
        """What becomes of the name `path`."""
        if span.death < _FOREVER or span.stop < _FOREVER:
            return " (later deleted)" if time < min(span.death, span.stop) else ""
        paths = [f"{self._folder(parent, _FOREVER, 0)}/{_text(name)}" for parent, name in self._names(inode, _FOREVER)]
        if not paths:
            return " (later deleted)"
        return "" if path in paths else f" (later {paths[0]})"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")

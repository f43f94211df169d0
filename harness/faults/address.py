"""Where and when a fault strikes, as data: `write:3`, `file:data.bin#2`, `op:7/write:1`. Never by sleeping.

Requests are counted from the injection on, or `since` something happened, and only those that touch the fault's place
where it has one. An operation is one of a plan (its mark `op:begin 7`); a mark is anything that is said to the engine.
"""

import re
from collections.abc import Callable
from typing import ClassVar, Literal, NoReturn
from urllib.parse import quote, unquote

import msgspec

from harness.engine.rules import Request
from harness.errors import Misuse
from harness.settings import parse_size, show_size

REQUESTS: tuple[Request, ...] = ("write", "flush", "read", "discard")

_PLACES = ("range", "file", "journal", "superblock")
_PLAIN = ":=._-"
ADDRESSES = "write:3, flush:2, op:7, op:7/write:1, file:NAME#2, range:1M+64K, journal, mark:TEXT, after:0.5, once"


class At(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When. Made by its constructors: At.write(3), At.operation(7), At.write(1, since=At.operation(7)), At.once."""

    on: Literal["once", "write", "flush", "read", "discard", "operation", "mark", "after", "when"] = "once"
    n: int = 1
    text: str = ""
    seconds: float = 0.0
    since: "At | None" = None

    once: ClassVar["At"]
    """Now; of a device's fault: the next request that can have it."""

    def __post_init__(self) -> None:
        """Raises Misuse for what can never happen."""
        if self.n < (self.on != "operation"):
            raise Misuse(f"there is no {self.on} number {self.n}", "requests and marks are counted from 1")
        if self.on == "mark" and not self.text:
            raise Misuse("a mark without a text", "say what it begins with: mark:promise:done")
        if not 0 <= self.seconds < float("inf"):
            raise Misuse(f"{self.seconds} seconds is no time from now", "give seconds: after:0.5")
        if self.on == "when" and not isinstance(self, When):
            raise Misuse(
                "a condition of a program cannot be read from a text", "address the fault by a mark or a count"
            )
        if self.since and (self.on not in REQUESTS or self.since.on in (*REQUESTS, "once")):
            raise Misuse(f"{self.on} cannot be counted since {self.since.on}", "count requests: op:7/write:1")
        if self.since and self.since.n > 1 and self.since.on == "mark":
            raise Misuse(f"{self.since}/…: requests are counted since the first such mark", "use one that is said once")

    @staticmethod
    def write(n: int, *, since: "At | None" = None) -> "At":
        """The nth write, counted from 1."""
        return At("write", n, since=since)

    @staticmethod
    def flush(n: int, *, since: "At | None" = None) -> "At":
        """The nth flush."""
        return At("flush", n, since=since)

    @staticmethod
    def read(n: int, *, since: "At | None" = None) -> "At":
        """The nth read that reaches the device."""
        return At("read", n, since=since)

    @staticmethod
    def discard(n: int, *, since: "At | None" = None) -> "At":
        """The nth discard."""
        return At("discard", n, since=since)

    @staticmethod
    def operation(n: int) -> "At":
        """As the plan's operation number n (from 0, as the marks say it) begins."""
        return At("operation", n)

    @staticmethod
    def mark(text: str, n: int = 1) -> "At":
        """As a mark is said for the nth time that begins with these words: `promise:done`."""
        return At("mark", n, text)

    @staticmethod
    def after(seconds: float) -> "At":
        """So long after the injection: for what is *about* time. Everything else is addressed by count or condition."""
        return At("after", seconds=seconds)

    @staticmethod
    def when(condition: Callable[[], bool]) -> "At":
        """As soon as the condition is seen to hold; it is asked every millisecond, by another thread. Has no JSON."""
        return When("when", condition=condition)

    @property
    def request(self) -> Request | None:
        """What it counts, if it counts requests."""
        return next((kind for kind in REQUESTS if kind == self.on), None)

    @property
    def start(self) -> "At | None":
        """What must happen before anything is counted, or done."""
        return self.since if self.request else None if self.on == "once" else self

    @property
    def words(self) -> str:
        """The mark that says it has come: empty where no mark does."""
        return f"op:begin {self.n}" if self.on == "operation" else self.text

    def __str__(self) -> str:
        """As parse_at reads it."""
        if self.request:
            return f"{self.since}/{self.on}:{self.n}" if self.since else f"{self.on}:{self.n}"
        if self.on == "operation":
            return f"op:{self.n}"
        if self.on == "mark":
            return f"mark:{quote(self.text, _PLAIN)}" + (f"#{self.n}" if self.n > 1 else "")
        return f"after:{show_seconds(self.seconds)}" if self.on == "after" else self.on


def _never() -> bool:
    return False


class When(At, frozen=True):
    """At.when: a condition of the program."""

    condition: Callable[[], bool] = _never


At.once = At()


class Range(msgspec.Struct, frozen=True, tag="range", tag_field="place", forbid_unknown_fields=True):
    """Bytes of the device."""

    offset: int
    length: int

    def __post_init__(self) -> None:
        """Raises Misuse for what is no range of any device."""
        if self.offset < 0 or self.length <= 0:
            raise Misuse(f"{self.length} bytes at {self.offset} are no range of a device", "such as range:1M+64K")

    def __str__(self) -> str:
        return f"range:{show_size(self.offset)}+{show_size(self.length)}"


class File(msgspec.Struct, frozen=True, tag="file", tag_field="place", forbid_unknown_fields=True):
    """The blocks that a file has when the fault is injected: its dirty pages are written out first, so that all of it
    has blocks. What it is given later is not among them (an append: reserve it before, with fallocate). `path` is
    relative to the volume's root.
    """

    path: str

    def __post_init__(self) -> None:
        """Raises Misuse for a path that leaves the volume."""
        if not self.path or self.path.startswith("/") or ".." in self.path.split("/"):
            raise Misuse(f"{self.path!r} is no file of the volume", "give its path from the volume's root: dir/name")

    def __str__(self) -> str:
        return f"file:{quote(self.path, _PLAIN + '/')}"


class Journal(msgspec.Struct, frozen=True, tag="journal", tag_field="place", forbid_unknown_fields=True):
    """All of the journal: of ext3 and ext4 inode 8 with the journal's own superblock, of xfs the internal log."""

    def __str__(self) -> str:
        return "journal"


class Superblock(msgspec.Struct, frozen=True, tag="superblock", tag_field="place", forbid_unknown_fields=True):
    """The primary superblock."""

    def __str__(self) -> str:
        return "superblock"


Place = Range | File | Journal | Superblock


def show_seconds(seconds: float) -> str:
    """2.0 -> 2; what is read back is the same number."""
    return str(seconds).removesuffix(".0")


def show_address(at: At, where: Place | None) -> str:
    """The shortest spelling that parse_address reads back; empty for `once`."""
    if where is None:
        return "" if at == At.once else str(at)
    if at.on != "write":
        return f"{at}@{where}"
    return (f"{at.since}/" if at.since else "") + str(where) + (f"#{at.n}" if at.n > 1 else "")


def parse_address(text: str) -> tuple[At, Place | None]:
    """`[START/]REQUEST:N`, `[START/]PLACE#N`, `[START/]REQUEST:N@PLACE` or START. Raises Misuse that lists examples."""
    since, at_text = _split_start(text)
    at_text, has_place, where_text = at_text.partition("@")
    where = _parse_place(where_text) if has_place else None
    counted = re.fullmatch(r"(write|flush|read|discard):(\d+)", at_text)
    if counted:
        return At(_request(counted[1]), int(counted[2]), since=since), where
    if where is not None:
        _refuse(text)
    if at_text.startswith(_PLACES):
        place, counts, n = at_text.partition("#")
        return At("write", _number(n if counts else "1", text), since=since), _parse_place(place)
    return (At.once if at_text == "once" else _parse_start(at_text)), None


def _split_start(text: str) -> tuple[At | None, str]:
    """`op:7/write:1` -> (op 7, "write:1"). The slash of a file's path stands behind its `file:`."""
    found = re.match(
        r"((?:op|mark|after):[^@]*?)/(?=(?:write|flush|read|discard|range|file|journal|superblock)\b)", text
    )
    return (_parse_start(found[1]), text[found.end() :]) if found else (None, text)


def _parse_start(text: str) -> At:
    kind, _, value = text.partition(":")
    if kind == "op":
        return At.operation(_number(value, text))
    if kind == "after":
        try:
            return At.after(float(value.removesuffix("s")))
        except ValueError:
            raise Misuse(f"{value!r} is not a number of seconds", "give seconds: after:0.5") from None
    if kind == "mark":
        words, counts, n = value.partition("#")
        return At.mark(unquote(words), _number(n if counts else "1", text))
    return _refuse(text)


def _parse_place(text: str) -> Place:
    kind, _, value = text.partition(":")
    if text in ("journal", "superblock"):
        return Journal() if text == "journal" else Superblock()
    if kind == "file":
        return File(unquote(value))
    if kind == "range" and "+" in value:
        offset, _, length = value.partition("+")
        return Range(parse_size(offset), parse_size(length))
    return _refuse(text)


def _request(text: str) -> Request:
    return next(kind for kind in REQUESTS if kind == text)


def _number(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit()):
        _refuse(text)
    return int(digits)


def _refuse(text: str) -> NoReturn:
    raise Misuse(f"{text!r} is no address of a fault", f"such as {ADDRESSES}")

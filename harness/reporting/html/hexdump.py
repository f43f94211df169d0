"""Expected and found bytes, side by side: rows of sixteen, with the runs of bytes that differ."""

from collections.abc import Iterator
from typing import NamedTuple

from harness.explain.explained import Side

WIDTH = 16
ROWS_MAX = 64
_ABSENT = "--"


class Run(NamedTuple):
    """Neighbouring bytes of one row that all differ, or all do not."""

    differs: bool
    hex: str
    text: str
    absent: bool
    """There are no such bytes on this side."""
    first: bool
    """The first byte of the file that differs is in this run."""


class Row(NamedTuple):
    """Sixteen bytes of both: `offset` counts from the start of the file."""

    offset: int
    expected: tuple[Run, ...]
    found: tuple[Run, ...]

    @property
    def differs(self) -> bool:
        return any(run.differs for run in self.expected)


class Dump(NamedTuple):
    """The rows that are shown, and how many bytes of the windows are not."""

    rows: tuple[Row, ...]
    left_out: int


def dump(side: Side) -> Dump:
    """The windows of `side`, at most ROWS_MAX rows. A byte that only one of them has differs."""
    length = max(len(side.expected), len(side.found))
    shown = min(length, ROWS_MAX * WIDTH)
    # Rows begin at a multiple of sixteen, as every other tool has them.
    begin = side.start - side.start % WIDTH
    first = side.first if side.first >= 0 else _first(side)
    rows = tuple(_row(side, at, first) for at in range(begin, side.start + shown, WIDTH)) if shown else ()
    return Dump(rows, length - shown)


def _first(side: Side) -> int:
    """The first byte that only one side has; -1 where the windows are equal."""
    places = range(side.start, side.start + max(len(side.expected), len(side.found)))
    return next((place for place in places if _sort(side, place)[0]), -1)


def _row(side: Side, offset: int, first: int) -> Row:
    runs = list(_runs(side, range(offset, offset + WIDTH)))
    expected = tuple(_run(side, side.expected, run, first) for run in runs)
    found = tuple(_run(side, side.found, run, first) for run in runs)
    return Row(offset, expected, found)


def _runs(side: Side, places: range) -> Iterator[range]:
    begin = places.start
    for place in places:
        if _sort(side, place) != _sort(side, begin):
            yield range(begin, place)
            begin = place
    yield range(begin, places.stop)


def _sort(side: Side, place: int) -> tuple[bool, bool, bool]:
    expected, found = _byte(side, side.expected, place), _byte(side, side.found, place)
    return expected != found, expected is None, found is None


def _byte(side: Side, window: bytes, place: int) -> int | None:
    at = place - side.start
    return window[at] if 0 <= at < len(window) else None


def _run(side: Side, window: bytes, places: range, first: int) -> Run:
    differs, *nothing = _sort(side, places.start)
    read = [_byte(side, window, place) for place in places]
    missing = "  " if all(nothing) else _ABSENT
    return Run(
        differs,
        " ".join(missing if byte is None else f"{byte:02x}" for byte in read),
        "".join(" " if byte is None else chr(byte) if 0x20 <= byte < 0x7F else "." for byte in read),
        absent=read[0] is None,
        first=differs and places.start <= first < places.stop,
    )

"""One finding explained, on a terminal and as JSON: what broke, the story, the writes around the cut, the files."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.explain.explained import Entry, Explained, Side
from harness.reporting.json_report import safe
from harness.reporting.terminal import Page
from harness.reporting.text import count, printable, shortened, size

SCHEMA = 1
KIND = "crash-harness explanation"
WIDTH = 112
_ROWS_MAX = 40
_ROWS_MAX_VERBOSE = 400
_EDGE = 8
_SIDES_SHOWN = 10
_PIECES_SHOWN = 4
_BYTES_IN_ROW = 16
_CUT = "power cut"
_FATES = {"lost": "bold red", "after the cut": "dim", "kept": "yellow", "durable": "green"}


def show(out: Console, explained: Explained, *, verbose: bool = False) -> None:
    """The whole page of `harness explain`. Verbose: the writes of every epoch, and all files that differ."""
    page = Page(out, verbose=verbose)
    kind = f"{explained.kind}  ({explained.kind.meaning})" if explained.kind else "no finding"
    page.verdict(explained.verdict, kind if explained.state else "a whole recording")
    page.line()
    _paragraph(page, explained.headline, out, "bold")
    if explained.kind:
        page.field("finding", printable(explained.summary))
    page.field("volume", f"{explained.volume}, model {explained.model}")
    page.block("note", map(printable, explained.notes))
    page.line()
    for paragraph in explained.story:
        _paragraph(page, paragraph, out)
    if explained.advice:
        page.field("advice", printable(explained.advice.text), "bold")
    page.line()
    _writes(out, page, explained, verbose=verbose)
    _sides(page, explained, verbose=verbose)
    if explained.replay:
        page.line()
        page.field("replay", explained.replay, "bold")


def brief(explained: Explained) -> list[str]:
    """The headline and the story as lines of at most WIDTH characters, for other reports."""
    return [line for text in (explained.headline, *explained.story) if text for line in _wrapped(text, WIDTH)]


def as_json(explained: Explained) -> dict[str, Any]:
    """The same for programs: the fields of Explained, its `kind` as `finding_kind`. Bytes of files stand as base64."""
    content: dict[str, Any] = _safe(msgspec.to_builtins(explained))
    content |= {"finding_kind": content["kind"], "lost_classes": list(explained.lost_classes)}
    return content | {"schema": SCHEMA, "kind": KIND}


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, dict):
        return {key: _safe(each) for key, each in value.items()}
    return [_safe(each) for each in value] if isinstance(value, list | tuple) else value


def _paragraph(page: Page, text: str, out: Console, style: str = "") -> None:
    width = min(WIDTH, out.width) if out.is_terminal else WIDTH
    for line in _wrapped(text, width - 2):
        page.line("  " + line, style)
    page.line()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text), max(width, 40), break_long_words=False, break_on_hyphens=False) or [""]


def _writes(out: Console, page: Page, explained: Explained, *, verbose: bool) -> None:
    whole = not explained.state
    inside = [entry for entry in explained.entries if verbose or whole or entry.epoch == explained.epoch]
    rows = [entry for entry in inside if entry.what != "mark"]
    if not rows:
        page.line("  nothing was written in the epoch of the cut")
        return
    title = "every event of the recording" if verbose or whole else "the epoch of the cut"
    page.line(f"{title} (events {rows[0].event:,} to {rows[-1].event:,})", "bold")
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    for column in ("event", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    table.add_column("fate", no_wrap=True)
    _fill(table, rows, explained, _ROWS_MAX_VERBOSE if verbose else _ROWS_MAX)
    # Not wrapped by the console: what a file or a pipe gets is as wide as the table is.
    out.print(table, soft_wrap=False)


def _fill(table: Table, rows: Sequence[Entry], explained: Explained, limit: int) -> None:
    before = True
    for entry in _shortened(rows, limit):
        if isinstance(entry, int):
            table.add_row("...", "", Text(f"{count(entry, 'event')} left out", style="dim"), "")
            continue
        if before and entry.after_cut and explained.state:
            before = False
            table.add_row("", "", Text(f"---- {_CUT} after {explained.cut:,} events ----", style="bold red"), "")
        fate = _fate(entry, explained)
        length = size(entry.length) if entry.length else ""
        table.add_row(f"{entry.event:,}", length, _what(entry), Text(fate, style=_FATES.get(fate, "")))
    if before and explained.state:
        table.add_row("", "", Text(f"---- {_CUT} after {explained.cut:,} events ----", style="bold red"), "")


def _shortened(rows: Sequence[Entry], limit: int) -> Iterator[Entry | int]:
    """All rows of a short log; of a long one its ends, what was lost, and what is around the cut."""
    if len(rows) <= limit:
        yield from rows
        return
    at = next((n for n, row in enumerate(rows) if row.after_cut), len(rows))
    left, lost = 0, 0
    for n, row in enumerate(rows):
        lost += row.lost
        near = n < _EDGE or n >= len(rows) - _EDGE or abs(n - at) <= _EDGE or (row.lost and lost <= limit // 2)
        if near:
            if left:
                yield left
            left = 0
            yield row
        else:
            left += 1
    if left:
        yield left


def _fate(entry: Entry, explained: Explained) -> str:
    if entry.what not in ("write", "discard") or not explained.state:
        return ""
    if entry.lost:
        return "lost"
    if entry.after_cut:
        return "after the cut"
    return "durable" if entry.epoch < explained.epoch else "kept"


def _what(entry: Entry) -> Text:
    if entry.what == "flush":
        return Text("flush", style="cyan")
    if entry.what == "promise":
        return Text(f"promise: {printable(shortened(entry.text, 100))}", style="bold")
    texts = [printable(piece.text) for piece in entry.pieces]
    told = "; ".join(texts[:_PIECES_SHOWN]) or f"at byte {entry.offset:,}"
    more = f"; and {len(texts) - _PIECES_SHOWN} more" if len(texts) > _PIECES_SHOWN else ""
    return Text(("discard: " if entry.what == "discard" else "") + told + more)


def _sides(page: Page, explained: Explained, *, verbose: bool) -> None:
    if not explained.sides:
        return
    left, right = _titles(explained)
    page.line()
    page.line(f"files that differ: {left}, and {right}", "bold")
    shown = explained.sides if verbose else explained.sides[:_SIDES_SHOWN]
    for side in shown:
        page.line(f"  {printable(side.path)}  {_difference(side)}")
        for label, data in ((left, side.expected), (right, side.found)):
            if side.expected or side.found:
                page.line(f"    {label}:", "dim")
                for row in _dump(side.start, data):
                    page.line("      " + row)
    if len(explained.sides) > len(shown):
        page.line(f"  ... and {count(len(explained.sides) - len(shown), 'file')} more: -v")


def _titles(explained: Explained) -> tuple[str, str]:
    """Of a plan it is known what is owed; of a program only what it left, and that is no guilt."""
    left = "as owed" if is_plan(explained) else "as the workload left it"
    return left, "after the cut"


def is_plan(explained: Explained) -> bool:
    """Whether the workload was a plan: its steps have results."""
    return any(step.result for step in explained.steps)


def _difference(side: Side) -> str:
    sizes = f"{side.expected_size:,} bytes, now {side.found_size:,}"
    where = f"; the first byte that differs is {side.first:,}" if side.first >= 0 else ""
    if side.what in ("shorter", "longer"):
        return f"{side.what}: {sizes}{where}"
    if side.what == "content":
        return f"another content{where}"
    told = {"missing": side.expected_size, "extra": side.found_size}.get(side.what, -1)
    return side.what + (f" ({told:,} bytes)" if told >= 0 else "")


def _dump(start: int, data: bytes) -> Iterable[str]:
    """Rows of hex and text, as xxd(1) prints them."""
    if not data:
        yield "(no bytes)"
    for at in range(0, len(data), _BYTES_IN_ROW):
        row = data[at : at + _BYTES_IN_ROW]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start + at:>8}  {row.hex(' '):<{3 * _BYTES_IN_ROW}} {letters}"

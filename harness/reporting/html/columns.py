"""A finding's block log as columns: short arrays and a table of strings instead of ten thousand objects."""

from collections.abc import Sequence
from typing import Any

from harness.explain.explained import Entry, Explained, Step
from harness.layout.kinds import BlockKind
from harness.reporting.text import printable, shortened

_LETTERS = {"write": "w", "discard": "d", "flush": "f", "promise": "p", "mark": "m"}
_LOST, _AFTER = 1, 2
_SETUP, _PROMISE = 1, 2
_TEXT_MAX = 400
_KINDS = list(BlockKind)


class _Strings:
    """Each string once; `number` names it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(shortened(printable(text), _TEXT_MAX), len(self._numbers))

    def all(self) -> list[str]:
        return list(self._numbers)


def encode(explained: Explained) -> dict[str, Any]:
    """What report.js decodes: entries, their pieces, steps, the cut. Lengths and offsets are bytes."""
    strings = _Strings()
    return {
        "cut": explained.cut,
        "begin": explained.begin,
        "entries": _entries(explained.entries, strings),
        "pieces": _pieces(explained.entries, strings),
        "steps": _steps(explained.steps, strings),
        "kinds": [str(kind) for kind in _KINDS],
        "strings": strings.all(),
    }


def _entries(entries: Sequence[Entry], strings: _Strings) -> dict[str, Any]:
    return {
        "event": _differences([entry.event for entry in entries]),
        "what": "".join(_LETTERS.get(entry.what, "m") for entry in entries),
        "flags": "".join(str(_LOST * entry.lost + _AFTER * entry.after_cut) for entry in entries),
        "epoch": _differences([entry.epoch for entry in entries]),
        "offset": [entry.offset for entry in entries],
        "length": [entry.length for entry in entries],
        "step": _differences([entry.step for entry in entries]),
        "text": [strings.number(entry.text) for entry in entries],
        "pieces": [len(entry.pieces) for entry in entries],
    }


def _pieces(entries: Sequence[Entry], strings: _Strings) -> dict[str, Any]:
    pieces = [piece for entry in entries for piece in entry.pieces]
    return {
        "kind": [_KINDS.index(piece.kind) for piece in pieces],
        "text": [strings.number(piece.text) for piece in pieces],
        "path": [strings.number(piece.path) for piece in pieces],
    }


def _steps(steps: Sequence[Step], strings: _Strings) -> dict[str, Any]:
    return {
        "text": [strings.number(step.text) for step in steps],
        "begin": [step.begin for step in steps],
        "end": [step.end for step in steps],
        "result": [strings.number(step.result) for step in steps],
        "flags": "".join(str(_SETUP * step.setup + _PROMISE * step.promise) for step in steps),
        "durable": [step.durable for step in steps],
        "state": [strings.number(step.state) for step in steps],
    }


def _differences(numbers: Sequence[int]) -> list[int]:
    """The first as it is, each later one as the step from the one before: mostly 0 and 1."""
    return [number - before for number, before in zip(numbers, [0, *numbers], strict=False)]

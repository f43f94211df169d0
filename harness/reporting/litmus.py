"""The page of `harness litmus`: which surprising outcomes each file system lets happen, beside published results."""

import platform
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

import harness
from harness.plan.litmus import Litmus
from harness.reporting.json_report import safe
from harness.reporting.terminal import replay_command
from harness.reporting.text import count, printable, seconds, shortened
from harness.trial.litmus import Answer, Cell, Configuration
from harness.trial.report import signature
from harness.verdict import ExitCode

SCHEMA = 1
KIND = "crash-harness litmus report"
_STYLE = {Answer.OBSERVED: "bold red", Answer.NOT_FOUND: "green", Answer.UNKNOWN: "bold yellow"}
_WIDTH = 138
_LABELS = {False: "  as it is", True: "  + fsync"}
_PUBLISHED = "  Linux 4.1"
_LABEL_WIDTH = max(map(len, [*_LABELS.values(), _PUBLISHED]))

_LEGEND = """\
OBSERVED k/N: k of the N crash states judged are the surprising outcome, each one a disk that a power cut may leave.
none in N all: in none of the N states, all that the model allows for what was recorded. none in N smp: N is a sample \
of them. No recording shows all that a kernel may do, so "none" is not "never".
+ fsync: the same with the fsync that the pattern lacks (-: it lacks none). UNKNOWN: see below the table.
Linux 4.1: Ferrite (Bornholt et al., ASPLOS 2016), default mount options, an abstract disk model. OBSERVED: an \
execution reached it; not reached: none did; allowed: by its model of ext4."""

_NOTE = """\
Each pattern is recorded alone and beside a neighbour, and again where the surprise was not seen. The neighbour is \
not part of the pattern: it is what else happens on a volume, a commit of the file system right after each call (on \
ext4 and xfs by fsync of an unrelated file, on btrfs by BTRFS_IOC_START_SYNC) that does not write out the pattern's \
delayed data. It stands for other programs and for the kernel's timer (ext4: 5 s, xfs and btrfs: 30 s)."""


def exit_code(cells: Iterable[Cell]) -> ExitCode:
    """INTACT: the table was made, whatever it says. UNKNOWN: something in it could not be judged, or nothing was."""
    answers = [cell.answer for cell in cells]
    return ExitCode.UNKNOWN if Answer.UNKNOWN in answers or not answers else ExitCode.INTACT


def shown(cell: Cell) -> str:
    """What stands in one cell of the table."""
    if cell.answer is Answer.OBSERVED:
        return f"OBSERVED {cell.observed}/{cell.judged}"
    if cell.answer is Answer.NOT_FOUND:
        return f"none in {cell.judged} {'all' if cell.complete else 'smp'}"
    return "UNKNOWN"


def progress(cell: Cell) -> str:
    """The line that is told when a cell is done."""
    variant = "+ fsync" if cell.repaired else "as it is"
    return f"{cell.configuration.name:<22} {cell.test.id:<5} {variant:<8} {shown(cell):<18} {seconds(cell.seconds)}"


class LitmusPage:
    """Prints the table and what belongs to it. `brief` leaves out what explains it."""

    def __init__(self, out: Console, *, brief: bool = False) -> None:
        self._out = out
        self._brief = brief

    def show(self, cells: Sequence[Cell], elapsed: float) -> None:
        """All of it: headline, table, what could not be judged, legend, tests, observations with replay commands."""
        self._line()
        self._line(headline(cells, elapsed), "bold")
        self._line()
        self._table(cells)
        self._troubles(cells)
        if not self._brief:
            self._line()
            self._paragraphs(_LEGEND)
            self._paragraphs(_NOTE)
            self._tests(_tests_of(cells))
        self._observations(cells)

    def _line(self, text: str = "", style: str = "") -> None:
        self._out.print(Text(text, style=style), soft_wrap=True)

    def _paragraphs(self, text: str) -> None:
        for paragraph in text.splitlines():
            for line in textwrap.wrap(paragraph, _WIDTH):
                self._line(line)

    def _table(self, cells: Sequence[Cell]) -> None:
        columns = list(dict.fromkeys(cell.configuration for cell in cells))
        by_place = {(cell.test.id, cell.configuration, cell.repaired): cell for cell in cells}
        widths = _widths(columns, cells)
        self._row("", [Text(column.fs, style="bold") for column in columns], widths)
        self._row("", [Text(column.mount_options or "default", style="bold") for column in columns], widths)
        for test in _tests_of(cells):
            self._line(f"{test.id}  {test.title}: {test.outcome}", "bold")
            for repaired in (False, True):
                row = [by_place.get((test.id, column, repaired)) for column in columns]
                if any(row):
                    self._row(_LABELS[repaired], [_entry(cell) for cell in row], widths)
                elif repaired and test.repair is None and any(cell.repaired for cell in cells):
                    self._row(_LABELS[True], [Text("-") for _ in columns], widths)
            theirs = [published(test, column) for column in columns]
            if any(theirs):
                self._row(_PUBLISHED, [Text(each, style="dim") for each in theirs], widths)

    def _row(self, label: str, entries: Sequence[Text], widths: Sequence[int]) -> None:
        line = Text(f"{label:<{_LABEL_WIDTH}}")
        for entry, width in zip(entries, widths, strict=True):
            line.append("  ").append_text(entry).append(" " * (width - len(entry)))
        line.rstrip()
        self._out.print(line, soft_wrap=True)

    def _troubles(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            if cell.error:
                self._line()
                self._line(f"UNKNOWN: {name_of(cell)}", "bold yellow")
                self._line(f"  {printable(shortened(cell.error, 400))}")

    def _tests(self, tests: Sequence[Litmus]) -> None:
        for test in tests:
            self._line()
            self._line(f"{test.id}  {test.question}", "bold")
            self._line(f"  {'; '.join(map(str, test.main))}")
            lacks = f"lacks: {test.repair.operation}. {test.repair.why}" if test.repair else test.nothing_lacks
            theirs = f"published: {test.published['note']}" if "note" in test.published else ""
            for note in filter(None, (lacks, test.note, theirs)):
                for line in textwrap.wrap(note, _WIDTH - 2):
                    self._line(f"  {line}")

    def _observations(self, cells: Sequence[Cell]) -> None:
        observed = [cell for cell in cells if cell.observation]
        for cell in observed:
            assert cell.observation
            found = cell.observation.found
            self._line()
            self._line(name_of(cell), "bold")
            self._line(f"  {printable(found.finding.summary)}")
            for kind, other in cell.surprises.items():
                if kind != signature(found.finding):
                    self._line(f"  also {printable(other)}")
            where = cell.observation.recording.notes[-1].partition(", ")[2].partition(":")[0]
            lost = f"{count(found.lost, 'unflushed write')} lost" if found.lost else "no unflushed write lost"
            self._line(f"  recorded {where}; {lost}; seen again {found.reproduced} on fresh disks")
            self._line(f"  {replay_command(cell.bundle) if cell.bundle else 'no bundle was saved'}", "bold")


def _tests_of(cells: Sequence[Cell]) -> list[Litmus]:
    return list({cell.test.id: cell.test for cell in cells}.values())


def _entry(cell: Cell | None) -> Text:
    return Text(shown(cell), style=_STYLE[cell.answer]) if cell else Text("")


def _widths(columns: Sequence[Configuration], cells: Sequence[Cell]) -> list[int]:
    return [
        max(
            *(len(shown(cell)) for cell in cells if cell.configuration == column),
            *(len(published(test, column)) for test in _tests_of(cells)),
            len(column.mount_options),
            len("default"),
        )
        for column in columns
    ]


def published(test: Litmus, column: Configuration) -> str:
    """The published result that can stand beside this column: those were got with default mount options."""
    return "" if column.mount_options else test.published.get(column.fs, "")


def name_of(cell: Cell) -> str:
    """`ACVR atomic-create-via-rename on ext4 default`."""
    return f"{cell.test.id} {cell.test.title}{' with its fsync' if cell.repaired else ''} on {cell.configuration.name}"


def headline(cells: Sequence[Cell], elapsed: float) -> str:
    """What the table comes to, in one line."""
    answers = [cell.answer for cell in cells]
    said = f"{answers.count(Answer.OBSERVED)} observed, {answers.count(Answer.NOT_FOUND)} not found"
    unknown = answers.count(Answer.UNKNOWN)
    said += f", {unknown} UNKNOWN" if unknown else ""
    tests, columns = len(_tests_of(cells)), len({cell.configuration for cell in cells})
    states = count(sum(cell.judged for cell in cells), "crash state")
    what = f"{count(tests, 'litmus test')} on {count(columns, 'configuration')}"
    return f"{what}, Linux {platform.release()}: {said}; {states} judged in {seconds(elapsed)}"


def as_json(cells: Sequence[Cell], code: ExitCode, elapsed: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "harness": harness.__version__,
        "kernel": platform.release(),
        "exit_code": int(code),
        "seconds": round(elapsed, 3),
        "tests": [msgspec.to_builtins(test) for test in _tests_of(cells)],
        "cells": [_of_cell(cell) for cell in cells],
    }


def _of_cell(cell: Cell) -> dict[str, Any]:
    found = cell.observation.found if cell.observation else None
    return {
        "test": cell.test.id,
        "fs": cell.configuration.fs,
        "mount_options": cell.configuration.mount_options,
        "repaired": cell.repaired,
        "answer": cell.answer.value,
        "observed": cell.observed,
        "judged": cell.judged,
        "complete": cell.complete,
        "published": published(cell.test, cell.configuration) or None,
        "finding": safe(found.finding.summary) if found else None,
        "surprises": [safe(each) for each in cell.surprises.values()],
        "bundle": cell.bundle or None,
        "replay": replay_command(cell.bundle) if cell.bundle else None,
        "error": safe(cell.error) or None,
        "seconds": round(cell.seconds, 3),
    }

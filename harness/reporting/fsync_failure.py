"""The page of `harness fsync-failure`: what was measured here beside what is published, and why they differ."""

import platform
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

import harness
from harness.reporting.json_report import safe
from harness.reporting.terminal import replay_command
from harness.reporting.text import count, printable, seconds, shortened
from harness.trial.fsync_answers import QUESTIONS, UNKNOWN, Answered, answered, unavailable
from harness.trial.fsync_failure import Cell, Column
from harness.trial.fsync_live import Observed
from harness.verdict import ExitCode

SCHEMA = 1
KIND = "crash-harness fsync failure report"
_WIDTH = 138
_HERE = f"  Linux {'.'.join(platform.release().split('.')[:2])}"
_LASTING = "  for ever"
_PUBLISHED = "  Linux 5.2"
_FSYNCS = 17
_LABEL_WIDTH = max(map(len, (_HERE, _LASTING, _PUBLISHED)))

_LEGEND = """\
One write fails once, in each trial another: that of the data block, of a journal block (btrfs: of a log tree \
block), of a metadata block (ext4, xfs: the block of the inode; btrfs: of a tree, in a commit), on btrfs also of the \
superblock. "for ever": the same where it fails whenever it is tried; shown where the answer is another.
update: the middle page of a file of three is overwritten. append: a page is written behind them. Then fsync, fsync \
again, all that the kernel's timers would do, another page (append), fsync.
old, new: what the block held before and what was written. zeros: it reads as zeros. stale: what the medium held \
there before the file did. absent: the file ends before it.
Linux 5.2: Rebello et al., Can Applications Recover from fsync Failures?, USENIX ATC 2020."""


def exit_code(cells: Sequence[Cell]) -> ExitCode:
    """INTACT: the table was made, whatever it says. UNKNOWN: something in it could not be judged, or nothing was."""
    table = _answers(cells)
    unknown = any(UNKNOWN in (answer.measured, answer.lasting) for answer in table)
    return ExitCode.UNKNOWN if unknown or not table else ExitCode.INTACT


def progress(cell: Cell) -> str:
    """The line that is told when a trial is done."""
    return f"{cell.case.name:<60} {story(cell):<40} {seconds(cell.seconds)}"


def story(cell: Cell) -> str:
    """What came of one trial, in a few words: the three fsyncs, then what is wrong with the file system."""
    if cell.observed is None or cell.error:
        return UNKNOWN
    return f"{_fsyncs(cell.observed)}  {unavailable(cell.observed)}"


class FsyncPage:
    """Prints the table and what belongs to it. `brief` leaves out what explains it."""

    def __init__(self, out: Console, *, brief: bool = False) -> None:
        self._out = out
        self._brief = brief
        self._notes: dict[str, None] = {}

    def show(self, cells: Sequence[Cell], elapsed: float) -> None:
        """All of it: headline, table, explanations of differences, what could not be judged, legend, trials."""
        self._line()
        self._line(headline(cells, elapsed), "bold")
        self._line()
        self._table(cells)
        self._explanations()
        self._troubles(cells)
        if not self._brief:
            self._line()
            self._paragraphs(_LEGEND)
        self._trials(cells)

    def _line(self, text: str = "", style: str = "") -> None:
        self._out.print(Text(text, style=style), soft_wrap=True)

    def _paragraphs(self, text: str, lead: str = "") -> None:
        for paragraph in text.splitlines():
            for line in textwrap.wrap(paragraph, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)):
                self._line(line)

    def _table(self, cells: Sequence[Cell]) -> None:
        columns = _columns_of(cells)
        rows = [[answered(question, column, cells) for column in columns] for question in QUESTIONS]
        shown = [[self._entry(answer) for answer in row] for row in rows]
        widths = [
            max(
                len(column.name),
                *(len(entry[n]) for entry in shown),
                *(max(len(row[n].published), len(_lasting(row[n]))) for row in rows),
            )
            for n, column in enumerate(columns)
        ]
        self._row("", [Text(column.name, style="bold") for column in columns], widths)
        asked = True
        for row, texts in zip(rows, shown, strict=True):
            published = [Text(answer.published, style="dim") for answer in row]
            if asked and not any(map(len, published)):
                self._line()
                asked = False
            self._line(row[0].question.text, "bold")
            self._row(_HERE, texts, widths)
            if any(answer.lasting != answer.measured for answer in row):
                self._row(_LASTING, [Text(_lasting(answer)) for answer in row], widths)
            if any(map(len, published)):
                self._row(_PUBLISHED, published, widths)

    def _entry(self, answer: Answered) -> Text:
        if answer.measured == UNKNOWN:
            return Text(UNKNOWN, style="bold yellow")
        if not answer.differs:
            return Text(answer.measured)
        self._notes.setdefault(answer.explanation)
        return Text(f"{answer.measured} [{list(self._notes).index(answer.explanation) + 1}]", style="bold red")

    def _row(self, label: str, entries: Sequence[Text], widths: Sequence[int]) -> None:
        line = Text(f"{label:<{_LABEL_WIDTH}}")
        for entry, width in zip(entries, widths, strict=True):
            line.append("  ").append_text(entry).append(" " * (width - len(entry)))
        line.rstrip()
        self._out.print(line, soft_wrap=True)

    def _explanations(self) -> None:
        if self._notes:
            self._line()
            self._line("where it differs from what is published, and why", "bold")
        for number, text in enumerate(self._notes, 1):
            self._paragraphs(text, f"[{number}] ")

    def _troubles(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            if cell.error:
                self._line()
                self._line(f"UNKNOWN: {cell.case.name}", "bold yellow")
                self._line(f"  {printable(shortened(cell.error, 400))}")

    def _trials(self, cells: Sequence[Cell]) -> None:
        """One line a trial, by its bundle: the disk that it left."""
        names = [cell.bundle or cell.case.name for cell in cells]
        width = max(map(len, names))
        self._line()
        head = f"{'trials: their bundles, for harness replay':<{width}}  fsync 1, 2, 3"
        self._line(f"{head:<{width + 2 + _FSYNCS}}  {'memory':<6}  {'evicted':<7}  medium", "bold")
        for cell, name in zip(cells, names, strict=True):
            self._line(f"{name:<{width}}  {_observations(cell)}".rstrip())


def _observations(cell: Cell) -> str:
    if cell.observed is None or cell.error:
        return UNKNOWN
    observed = cell.observed
    blocks = f"{observed.memory:<6}  {observed.dropped:<7}  {observed.final.block:<6}"
    return f"{_fsyncs(observed)}  {blocks}  {unavailable(observed)}"


def _fsyncs(observed: Observed) -> str:
    return f"{' '.join(f'{result:<5}' for result in observed.fsyncs):<{_FSYNCS}}"


def _lasting(answer: Answered) -> str:
    return answer.lasting if answer.lasting != answer.measured else "the same"


def _answers(cells: Sequence[Cell]) -> list[Answered]:
    return [answered(question, column, cells) for question in QUESTIONS for column in _columns_of(cells)]


def _columns_of(cells: Iterable[Cell]) -> list[Column]:
    return list(dict.fromkeys(cell.case.column for cell in cells))


def headline(cells: Sequence[Cell], elapsed: float) -> str:
    """What the table comes to, in one line."""
    answers = _answers(cells)
    beside = [answer for answer in answers if answer.published]
    differ = sum(answer.differs for answer in beside)
    unknown = sum(answer.measured == UNKNOWN for answer in answers)
    said = f"{differ} of {count(len(beside), 'published answer')} differ" + (f", {unknown} UNKNOWN" if unknown else "")
    what = f"fsync failures on {count(len(_columns_of(cells)), 'configuration')}, Linux {platform.release()}"
    return f"{what}: {said}; {count(len(cells), 'trial')} in {seconds(elapsed)}"


def as_json(cells: Sequence[Cell], code: ExitCode, elapsed: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "harness": harness.__version__,
        "kernel": platform.release(),
        "exit_code": int(code),
        "seconds": round(elapsed, 3),
        "answers": [_of_answer(answer) for answer in _answers(cells)],
        "trials": [_of_cell(cell) for cell in cells],
    }


def _of_answer(answer: Answered) -> dict[str, Any]:
    return {
        "question": answer.question.key,
        "text": answer.question.text,
        "column": answer.column.name,
        "measured": answer.measured,
        "for_ever": answer.lasting,
        "published": answer.published or None,
        "differs": answer.differs,
        "explanation": answer.explanation or None,
    }


def _of_cell(cell: Cell) -> dict[str, Any]:
    case = cell.case
    observed: dict[str, Any] | None = None
    if cell.observed:
        observed = msgspec.to_builtins(cell.observed)
        del observed["log"]
        for name in ("kernel", "kernel_late"):
            observed[name] = [safe(line) for line in observed[name]]
    return {
        "column": case.column.name,
        "fs": case.column.fs,
        "mount_options": case.column.mount_options,
        "workload": case.workload.value,
        "target": case.target.value,
        "for_ever": case.lasting,
        "observed": observed,
        "error": safe(cell.error) or None,
        "bundle": cell.bundle or None,
        "replay": replay_command(cell.bundle) if cell.bundle else None,
        "seconds": round(cell.seconds, 3),
    }

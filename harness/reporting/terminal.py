"""A report for people, on a terminal or in a file: the verdict first, then what it rests on, then the findings."""

import shlex
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from harness.blocklog import Kind
from harness.explain.explained import Explained
from harness.reporting.evidence import classified
from harness.reporting.facts import Facts, Lost, facts_of
from harness.reporting.text import count, of_bytes, printable, seconds, shortened, size, tail
from harness.settings import Settings
from harness.trial.recording import Recording
from harness.trial.report import Found, Report
from harness.verdict import Finding, FindingKind, Verdict

_STYLE = {Verdict.INTACT: "bold green", Verdict.CORRUPTED: "bold red", Verdict.UNKNOWN: "bold yellow"}
_OUTPUT_LINES = 10
_KERNEL_LINES = 6
_LOST_SHOWN = 4
_PROMISES_SHOWN = 3
_EVERYTHING = 1_000_000
_LABEL = 11
_WHY_WIDTH = 100


class Page:
    """Prints lines. `verbose` shows all of each finding instead of its end."""

    def __init__(self, out: Console, *, verbose: bool = False) -> None:
        self._out = out
        self._verbose = verbose

    def line(self, text: str = "", style: str = "") -> None:
        self._out.print(Text(text, style=style), soft_wrap=True)

    def field(self, label: str, text: str, style: str = "") -> None:
        """`  label      text`, for the body of a report."""
        self._out.print(Text.assemble((f"  {label:<{_LABEL}}", "dim"), (text, style)), soft_wrap=True)

    def block(self, label: str, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines):
            self.field(label if number == 0 else "", line)

    def verdict(self, verdict: Verdict, text: str) -> None:
        """The verdict, large and first."""
        self.line()
        self._out.print(Text.assemble((f" {verdict} ", _STYLE[verdict] + " reverse"), "  ", text), soft_wrap=True)

    def limited(self, lines: Sequence[str], limit: int) -> list[str]:
        """The last `limit` lines, or all of them if verbose."""
        return list(lines if self._verbose else lines[-limit:])

    def finding(self, finding: Finding) -> None:
        """Kind, meaning and summary."""
        style = _STYLE[finding.verdict]
        meaning = f"  ({finding.kind.meaning})"
        self._out.print(Text.assemble((finding.kind, style), (meaning, "dim")), soft_wrap=True)
        self.line(f"  {printable(shortened(finding.summary, _EVERYTHING if self._verbose else 300))}", "bold")

    def evidence(self, finding: Finding) -> None:
        """What the check or fsck printed, and what the kernel said."""
        output = tail(finding.output, _EVERYTHING)
        if output != [printable(finding.summary)]:
            self.block("it printed", self.limited(output, _OUTPUT_LINES))
        self.block("kernel", self.limited([classified(line) for line in finding.kernel], _KERNEL_LINES))

    def why(self, explained: Explained) -> None:
        """The one sentence that says most; the whole story if verbose."""
        texts = [explained.headline, *(explained.story if self._verbose else ())]
        self.block("why", (line for text in texts if text for line in textwrap.wrap(printable(text), _WHY_WIDTH)))

    def state(self, known: Facts) -> None:
        """The cut, what was lost, what was promised."""
        self.field("cut", known.where)
        self.field("lost", self._lost(known))
        self.block("", map(_place, known.lost if self._verbose else known.lost[:_LOST_SHOWN]))
        if not self._verbose and len(known.lost) > _LOST_SHOWN:
            self.field("", f"... and {len(known.lost) - _LOST_SHOWN:,} more")
        if known.promises_total:
            made = f"{len(known.promises):,} of {known.promises_total:,} made before the cut"
            self.field("promises", made + (", the last:" if known.promises else ""))
            last = known.promises[-_PROMISES_SHOWN:]
            self.block("", (of_bytes(promise.line) for promise in last))

    @staticmethod
    def _lost(known: Facts) -> str:
        if known.lost:
            return f"{len(known.lost):,} of the {count(known.writes, 'write')} since the last flush:"
        none = f"none of the {count(known.writes, 'write')}" if known.writes else "nothing was written"
        return f"{none} since the last flush: what is missing had not reached the device"

    def report(self, report: Report, recording: Recording, settings: Settings) -> None:
        """Verdict and scope; the findings come with `found`."""
        self.verdict(report.verdict, headline(report))
        self.line()
        self.field("judged", report.scope)
        self.field("model", f"{report.model}, seed {report.seed}, {volume_text(recording)}")
        self.field("log", log_text(report))
        self.field("speed", f"{report.rate:,.0f} states/s, {seconds(report.seconds)}")
        if not settings.fsck:
            self.field("fsck", "not run (--no-fsck)")
        self.block("note", map(printable, report.notes))

    def found(
        self, report: Report, recording: Recording, settings: Settings, reasons: Sequence[Explained] = ()
    ) -> None:
        """Each finding with its best state and the one command that replays it; `reasons`: why, of each."""
        for number, found in enumerate(report.found, 1):
            self.line()
            self._out.print(Text(f"{number}. ", style="bold"), end="")
            self.finding(found.finding)
            if number <= len(reasons):
                self.why(reasons[number - 1])
            self.field("shown by", shown_by(found))
            self.state(facts_of(found, recording, settings))
            self.evidence(found.finding)
            if found.bundle:
                self.field("replay", replay_command(found.bundle), "bold")
            else:
                self.field("replay", "no bundle of this finding was saved")


def headline(report: Report) -> str:
    """One sentence behind the verdict."""
    if report.interrupted:
        done = f"interrupted: {report.judged:,} of {count(report.selected, 'state')} judged"
        return f"{done}, {count(len(report.found), 'finding')} so far" if report.found else done
    if report.verdict is Verdict.CORRUPTED:
        states = sum(found.states for found in report.found if found.finding.verdict is Verdict.CORRUPTED)
        return f"{count(states, 'crash state')} of {report.judged:,} judged violate what was promised"
    if report.verdict is Verdict.UNKNOWN:
        return why_unknown(report)
    return f"no violation in {report.scope}"


def why_unknown(report: Report) -> str:
    """An UNKNOWN verdict explains itself."""
    if report.selected == 0:
        return "nothing was judged: no crash state was selected"
    if any(found.finding.kind is FindingKind.STUCK for found in report.found):
        return "some states were not judged in time; give the check longer with --timeout"
    if report.unknown or report.found:
        number = max(report.unknown, len(report.found))
        return f"{count(number, 'state')} could not be judged, so nothing can be said of the whole"
    return f"only {report.judged:,} of {count(report.selected, 'state')} were judged"


def volume_text(recording: Recording) -> str:
    """`ext4 of 64 MiB, -o noatime`."""
    spec = recording.spec
    return f"{spec.fs} of {size(spec.size)}{spec.options_text}"


def log_text(report: Report) -> str:
    flushes = "1 flush" if report.flushes == 1 else f"{report.flushes:,} flushes"
    return f"{count(report.writes, 'write')}, {flushes}, {count(report.promises, 'promise')}"


def shown_by(found: Found) -> str:
    text = count(found.states, "state")
    return f"{text}, seen again {found.reproduced} on fresh disks" if found.reproduced else text


def replay_command(path: str) -> str:
    return f"harness replay {shlex.quote(path)}"


def _place(lost: Lost) -> str:
    what = "discard of " if lost.kind is Kind.DISCARD else ""
    return f"{what}{size(lost.length)} at byte {lost.offset:,} (event {lost.event:,})"

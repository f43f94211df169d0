"""The page of a run: the verdict, what it rests on, what went wrong, what to add; then each finding in full."""

import functools
from typing import Any, NamedTuple

import msgspec

from harness.explain.explained import Explained, Side
from harness.machine.files import write_atomically
from harness.reporting.html import charts
from harness.reporting.html.columns import encode
from harness.reporting.html.environment import render_template
from harness.reporting.html.hexdump import Dump, dump
from harness.reporting.text import count
from harness.verdict import ExitCode, FindingKind, Verdict

_OUTPUT_MAX = 128 << 10
_KERNEL_MAX = 200
_WORKLOAD_MAX = 400

WHAT = {
    "missing": "is missing",
    "extra": "should not be there",
    "shorter": "is shorter",
    "longer": "is longer",
    "content": "has other bytes",
    "type": "is of another type",
    "unreadable": "cannot be read",
}
"""What `Side.what` says, as the end of a sentence that begins with the path."""


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page of one run, or of one finding, shows."""

    title: str
    command: str = ""
    """Ready to be pasted; empty where the page is of a bundle alone."""
    verdict: Verdict
    exit_code: ExitCode
    scope: str
    """What the verdict rests on: `all 212 distinct states that the subset model allows`."""
    judged: int = 0
    allowed: str = ""
    """For people: `212`, `about 2^40`."""
    complete: bool = False
    volume: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    findings: tuple[Explained, ...] = ()
    harness: str = ""
    kernel: str = ""
    left_by_workload: frozenset[str] = frozenset()
    """Bundles whose `sides` compare with the disk as the workload left it, not with what was owed."""

    @property
    def worst_first(self) -> list[Explained]:
        """What convicts before what could not be judged; of each, in the order of the kinds of finding."""
        verdicts, kinds = list(Verdict), list(FindingKind)
        return sorted(
            self.findings,
            key=lambda found: (-verdicts.index(found.verdict), kinds.index(found.kind) if found.kind else len(kinds)),
        )


class Tail(NamedTuple):
    """The end of a long text, and how much of it stands before."""

    text: str
    left_out: int


class Shown(NamedTuple):
    """One finding with what its template needs beside it."""

    number: int
    its: Explained
    log: dict[str, Any]
    output: Tail
    kernel: tuple[str, ...]
    dumps: tuple[tuple[Side, Dump], ...]
    by_workload: bool

    @property
    def expected_is(self) -> str:
        return "As the workload left it" if self.by_workload else "Expected"

    @property
    def lost_text(self) -> str:
        """`3 writes (data, inode table)`; nothing lost is told as such."""
        if not self.its.lost:
            return "no write: what is missing had not reached the device"
        kinds = f" ({', '.join(self.its.lost_classes)})" if self.its.lost_classes else ""
        return count(len(self.its.lost), "write") + kinds

    @property
    def headline(self) -> str:
        return self.its.headline or self.its.summary or "nothing is known of this finding"


def render(page: RunPage) -> str:
    """The whole file, as text."""
    found = [_shown(number, its, page) for number, its in enumerate(page.worst_first, 1)]
    return render_template(
        "run.html.j2",
        page=page,
        found=found,
        what=WHAT,
        timeline=_timeline() if found else None,
        exit_name=page.exit_code.name.replace("_", " ").lower(),
    )


def write(path: str, page: RunPage) -> None:
    """Render and write, whole or not at all. OSError as open(2)."""
    write_atomically(path, render(page).encode("utf-8", "backslashreplace"))


@functools.cache
def _timeline() -> charts.Chart:
    return charts.timeline()


def _shown(number: int, its: Explained, page: RunPage) -> Shown:
    return Shown(
        number=number,
        its=its,
        log=encode(its),
        output=_tail(its.output),
        kernel=its.kernel[-_KERNEL_MAX:],
        dumps=tuple((side, dump(side)) for side in its.sides),
        by_workload=its.bundle in page.left_by_workload,
    )


def _tail(text: str) -> Tail:
    text = text.strip("\n")
    return Tail(text[-_OUTPUT_MAX:], max(0, len(text) - _OUTPUT_MAX))

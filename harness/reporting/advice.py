"""A missing fsync, told: what to add, how that was measured, which calls of the workload's own do nothing here."""

import platform
from collections.abc import Sequence
from typing import Any

import msgspec

import harness
from harness.advice.advised import Advice, Tried
from harness.advice.search import Searching
from harness.reporting.json_report import safe
from harness.reporting.terminal import Page
from harness.reporting.text import count, printable, seconds, shortened
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.verdict import ExitCode, Verdict

SCHEMA = 1
KIND = "crash-harness advice"
_NAMED_MAX = 3
_WIDTH = 160

_HOW_TO_READ = """\
Each line is a workload that was run on a fresh volume, its crash states recovered by the kernel and judged.
all: every state that the model allows for those runs; sample: some of them; stopped: it had failed often enough.
What is advised, and what is called superfluous, was judged three times and was intact each time."""
_ONLY_HERE = "on this file system, with this check; another one may need it"
_ONE_BY_ONE = "each by itself: leave one out, then ask again"


class Told:
    """A search that has ended, ready to be shown. `lines`: the workload, with what is advised in its place."""

    def __init__(self, advice: Advice, tried: Sequence[Tried], lines: Sequence[str], *, interrupted: bool) -> None:
        self.advice = advice
        self.tried = tried
        self.lines = lines
        self.interrupted = interrupted

    @property
    def verdict(self) -> Verdict:
        """Of the workload as it is."""
        before = self.advice.before
        if before.failing:
            return Verdict.CORRUPTED
        return Verdict.INTACT if before.intact else Verdict.UNKNOWN

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.INTERRUPTED if self.interrupted else self.verdict.exit_code

    @property
    def headline(self) -> str:
        """`add fsync(tmp) before rename at operation 4: 0 of 212 states fail, was 31`."""
        add = "add " if self.advice.best else ""
        sample = (
            "" if self.advice.best or self.advice.before.complete or self.verdict is not Verdict.INTACT else _SAMPLE
        )
        return f"{add}{self.advice.text}{sample}"


_SAMPLE = " (a sample of what the model allows)"


def progress(now: Searching) -> str:
    """The live line."""
    where = f"{count(now.searched, 'run')} judged, {now.stage}"
    return printable(shortened(f"{where}: {now.changes}", _WIDTH))


def show(page: Page, told: Told, name: str, *, verbose: bool = False) -> None:
    """The verdict and the call to add, the workload with it, what was tried, what is superfluous, how to read it."""
    advice = told.advice
    page.verdict(told.verdict, printable(told.headline))
    page.line()
    page.field("workload", printable(name))
    page.block("", map(printable, told.lines))
    for other in advice.others:
        page.field("or", printable(other.text))
    if advice.best and not advice.exhaustive:
        page.field("smallest?", "not every smaller set was tried")
    if advice.best and told.interrupted:
        page.field("note", "interrupted: what was found by then")
    page.field("searched", f"{count(advice.searched, 'run')} in {seconds(advice.seconds)}")
    _table(page, told.tried, verbose=verbose)
    _superfluous(page, advice)
    page.line()
    for line in _HOW_TO_READ.splitlines():
        page.line(f"  {line}", "dim")


def _table(page: Page, tried: Sequence[Tried], *, verbose: bool) -> None:
    page.line()
    page.line(f"  {'fail':>6} {'of states':>10}           tried", "bold")
    for each in tried:
        scope = "all" if each.complete else "stopped" if each.changes and each.failing else "sample"
        page.line(f"  {each.failing:>6,} {each.states:>10,}  {scope:<7}  {printable(_named(each, verbose=verbose))}")
        if each.unknown:
            page.line(f"  {'':>17}  {'':<7}  {count(each.unknown, 'state')} of them could not be judged")
        if each.trouble:
            page.line(f"  {'':>17}  {'':<7}  {printable(shortened(each.trouble, _WIDTH))}")


def _named(tried: Tried, *, verbose: bool) -> str:
    if verbose or len(tried.changes) <= _NAMED_MAX:
        return tried.text
    return f"{len(tried.changes)} calls together, {tried.changes[0].text} among them"


def _superfluous(page: Page, advice: Advice) -> None:
    if not advice.superfluous:
        return
    page.line()
    page.line("  superfluous: every judged state is intact " + _ONLY_HERE, "bold")
    if len(advice.superfluous) > 1:
        page.line(f"  {_ONE_BY_ONE}")
    for each in advice.superfluous:
        page.line(f"  {printable(each.text)}: 0 of {count(each.states, 'state')} fail")


def as_json(told: Told, name: str, settings: Settings, commands: Commands, exit_code: ExitCode) -> dict[str, Any]:
    """The same for programs. A set of changes has the text that is shown for it."""
    advice = told.advice
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "harness": harness.__version__,
        "kernel": platform.release(),
        "verdict": told.verdict.value,
        "exit_code": int(exit_code),
        "interrupted": told.interrupted,
        "error": None,
        "settings": msgspec.to_builtins(settings),
        "commands": msgspec.to_builtins(commands),
        "workload": {"name": safe(name), "lines": [safe(line) for line in told.lines]},
        "text": safe(told.headline),
        "before": _of_tried(advice.before),
        "best": _of_tried(advice.best) if advice.best else None,
        "others": [_of_tried(each) for each in advice.others],
        "superfluous": [_of_tried(each) for each in advice.superfluous],
        "tried": [_of_tried(each) for each in told.tried],
        "exhaustive": advice.exhaustive,
        "searched": advice.searched,
        "seconds": advice.seconds,
        "why": safe(advice.why),
    }


def _of_tried(tried: Tried) -> dict[str, Any]:
    return {
        "text": safe(tried.text),
        "changes": [
            {
                name: safe(value) if isinstance(value, str) else value
                for name, value in msgspec.to_builtins(each).items()
            }
            for each in tried.changes
        ],
        "states": tried.states,
        "failing": tried.failing,
        "unknown": tried.unknown,
        "complete": tried.complete,
        "intact": tried.intact,
        "trouble": safe(tried.trouble),
    }

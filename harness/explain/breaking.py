"""Which promise a finding broke, as far as the finding's own words tell."""

import re
from collections.abc import Sequence

import msgspec

from harness.blocklog import Promise
from harness.explain.explained import Step
from harness.explain.timeline import readable
from harness.plan.plan import Plan
from harness.verdict import Finding, FindingKind

_OPERATION = re.compile(r"\(operation (\d+)\)")
_RULE = re.compile(r"\s*\[rule [a-z0-9-]+\]\s*$")
_WORD = re.compile(r"[\w./@+-]+")
_SETUP = "the setup, which was synced"


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """The promise, and how it is known. `text` is empty where nothing is known of it."""

    text: str = ""
    line: str = ""
    """The promise itself, or the call."""
    event: int = -1
    """At which it was made."""
    step: int = -1
    """Index of the step that ends with it."""
    named: bool = False
    """The finding names it; else it is only the last one that was made."""


def told(finding: Finding) -> str:
    """The finding's summary without the word for its kind and the contract's rule, which stand elsewhere."""
    text = _RULE.sub("", readable(finding.summary, 400))
    word, _, rest = text.partition(" ")
    return rest if word.rstrip(":") in FindingKind.__members__ and rest else text


def broken_by(finding: Finding | None, made: Sequence[Promise], steps: Sequence[Step], plan: Plan | None) -> Broken:
    """`made`: the promises before the cut. For a plan the finding names the call that made what is gone durable."""
    if finding is None:
        return Broken()
    return _by_operation(finding, steps) if plan else _by_line(finding, made, steps)


def _by_operation(finding: Finding, steps: Sequence[Step]) -> Broken:
    named = _OPERATION.search(finding.summary)
    if named and int(named[1]) < len(steps):
        number = int(named[1])
        step = steps[number]
        text = f"`{step.text}` (operation {number}), which had returned at event {step.end:,}"
        return Broken(text=text, line=step.text, event=step.end, step=number, named=True)
    return Broken(text=_SETUP, named=True) if _SETUP in finding.summary else Broken()


def _by_line(finding: Finding, made: Sequence[Promise], steps: Sequence[Step]) -> Broken:
    """The latest promise whose whole line stands in the finding as a word; else the last one, which is a guess."""
    if not made:
        return Broken()
    words = set(_WORD.findall(finding.summary))
    lines = [readable(promise.raw, 80) for promise in made]
    named = next((n for n in reversed(range(len(made))) if lines[n] in words), None)
    number = len(made) - 1 if named is None else named
    promise = made[number]
    step = next((n for n, step in enumerate(steps) if step.promise and step.end == promise.at), -1)
    text = f"promise {number + 1}, `{lines[number]}`, made at event {promise.at:,}"
    return Broken(text=text, line=lines[number], event=promise.at, step=step, named=named is not None or len(made) == 1)

"""The story of one finding in plain words: what was durable when, what the cut lost, which promise that broke.

Nothing is said that the log does not show. Where the lost writes explain the finding, they are named; where none was
lost, what is missing had not been sent to the device, and the log shows what was sent afterwards.
"""

from collections.abc import Sequence
from typing import NamedTuple

from harness.blocklog.format import LIED
from harness.crash import CrashState
from harness.explain.breaking import Broken, told
from harness.explain.causes import Asked, Cause, cause_of
from harness.explain.evidence import CONTENT, Evidence, Fate, Piece, Transaction
from harness.explain.explained import Entry, Step
from harness.explain.phrases import events_told, pieces_of, told_of, transaction_told, transactions_in
from harness.explain.timeline import is_second_crash
from harness.plan.plan import Plan
from harness.trial.recording import Recording
from harness.verdict import Finding

_STEPS_TOLD = 8


class Tale(NamedTuple):
    """All that the story is made of."""

    recording: Recording
    evidence: Evidence
    steps: Sequence[Step]
    finding: Finding | None
    broken: Broken
    state: CrashState
    promises: int
    """In the whole recording."""
    plan: Plan | None
    asked: Asked | None
    """Of a plan: what it had asked for before the cut."""


class Story(NamedTuple):
    """`state`: what the step whose promise broke was at the cut, where the cause tells."""

    headline: str
    story: tuple[str, ...]
    state: str


def tell(tale: Tale) -> Story:
    """The headline and the paragraphs, in the order of time."""
    cause = cause_of(tale.evidence, tale.finding, tale.broken, tale.asked)
    paragraphs = [_opening(tale), *_history(tale), *_at_the_cut(tale), *cause.paragraphs, _ending(tale, cause)]
    return Story(_headline(tale, cause), tuple(filter(None, paragraphs)), cause.state)


def _headline(tale: Tale, cause: Cause) -> str:
    if tale.finding is None:
        return f"No finding goes with this state. {_capital(cause.headline)}."
    what = told(tale.finding).rstrip(".")
    if tale.plan:  # begins with a path
        return f"{what}: {cause.headline}."
    if tale.broken.named:
        what = f"promise `{tale.broken.line}` is broken ({what})"
    return f"{_capital(what)}: {cause.headline}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _opening(tale: Tale) -> str:
    """Where the power went, and what had been promised by then."""
    state, recording = tale.state, tale.recording
    events = len(recording.log.events)
    where = f"after {state.cut:,} of {events:,} events{_during(tale)}"
    if second := is_second_crash(recording):
        first = f"The power went twice ({second.partition(': ')[2]}). What is told here is the recovery. "
        return f"{first}The second time it went {where}, when {state.promises:,} promises had been made."
    made = f"{state.promises:,} of {tale.promises:,} promises had been made by then" if tale.promises else ""
    silent = "" if tale.promises else "The workload made no promise: what is wrong, its check alone says"
    return f"The power went {where}. {made or silent}.{_without_flushes(tale)}"


def _during(tale: Tale) -> str:
    if tale.plan is None:
        return ""
    cut = tale.state.cut
    running = [n for n, step in enumerate(tale.steps) if step.begin < cut and not 0 <= step.end < cut]
    if running:
        return f", during `{tale.steps[running[-1]].text}` (operation {running[-1]})"
    done = [n for n, step in enumerate(tale.steps) if 0 <= step.end < cut]
    return f", when `{tale.steps[done[-1]].text}` (operation {done[-1]}) had returned" if done else ""


def _without_flushes(tale: Tale) -> str:
    if any(mark.text.endswith(LIED) for mark in tale.recording.log.marks):
        return " The device acknowledged flushes and did not do them."
    if not any(tale.recording.begin <= flush < tale.recording.end for flush in tale.evidence.flushes):
        return " The file system sent the device no flush at all: nothing that it wrote was ever durable."
    return ""


def _history(tale: Tale) -> list[str]:
    """The steps up to the cut, the last of them one by one; those that wrote nothing are told together."""
    groups: list[list[int]] = []
    silent = False
    for n, step in enumerate(tale.steps):
        if step.begin >= tale.state.cut or step.setup:
            continue
        is_silent = _is_silent(step) and not _inside(tale, step)
        if silent and is_silent:
            groups[-1].append(n)
        else:
            groups.append([n])
        silent = is_silent
    left_out = sum(map(len, groups[:-_STEPS_TOLD]))
    told = [_group(tale, group) for group in groups[-_STEPS_TOLD:]]
    return [f"The first {left_out:,} steps are left out here.", *told] if left_out else told


def _inside(tale: Tale, step: Step) -> list[Entry]:
    """What it sent to the device before the cut."""
    return tale.evidence.writes_in(step.begin, tale.state.cut if step.end < 0 else min(step.end, tale.state.cut))


def _group(tale: Tale, steps: Sequence[int]) -> str:
    inside = _inside(tale, tale.steps[steps[0]])
    silent = not inside and _is_silent(tale.steps[steps[0]])
    return _silence(tale, steps) if silent else _step(tale, steps[0], inside)


def _is_silent(step: Step) -> bool:
    return step.state in ("", "running", "durable") and step.result in ("", "ok")


def _silence(tale: Tale, silent: Sequence[int]) -> str:
    first, last = tale.steps[silent[0]], tale.steps[silent[-1]]
    names = _named(tale, silent[0])
    if len(silent) > 1:
        names += f", and on to {_named(tale, silent[-1]).removeprefix('Up to ')}"
    until = min(last.end, tale.state.cut) if last.end >= 0 else tale.state.cut
    return f"{names}: nothing was sent to the device (event {first.begin:,} to event {until:,})."


def _named(tale: Tale, n: int) -> str:
    """`fsync foo` (operation 2); Up to promise 3 (`done-17`)."""
    text = tale.steps[n].text
    if tale.plan:
        return f"`{text}` (operation {n})"
    what, colon, line = text.partition(": ")
    return _capital(f"{what} ({line})" if colon else what)


def _step(tale: Tale, n: int, inside: Sequence[Entry]) -> str:
    """What a step sent to the device, and what became of that."""
    step = tale.steps[n]
    result = f" It failed with {step.result}." if step.result not in ("", "ok") else ""
    what = "; ".join(_parts(tale, inside)) or "only upkeep of the file system was sent to the device"
    if not inside:
        what = "nothing was sent to the device meanwhile"
    return f"{_named(tale, n)}: {what}.{_later(tale, step)}{result}"


def _later(tale: Tale, step: Step) -> str:
    """Of a plan's operation: when its own work was durable."""
    if tale.plan is None or not step.state or step.state in ("running", "not begun"):
        return ""
    if step.state == "durable":
        return f" What it did was durable with the flush at event {step.durable:,}."
    return f" What it did was {step.state} when the power went."


def _parts(tale: Tale, inside: Sequence[Entry]) -> list[str]:
    """Data by what became of them, then transactions, each as a whole; without a journal all the rest as well."""
    evidence = tale.evidence
    pieces = pieces_of(inside)
    told = _by_fate(evidence, [each for each in pieces if each[1].kind in CONTENT])
    told += [_transaction(evidence, transaction, inside) for transaction in transactions_in(pieces, evidence)]
    if not evidence.transactions:
        told += _by_fate(evidence, [each for each in pieces if each[1].kind not in CONTENT])
    return list(filter(None, told))


def _by_fate(evidence: Evidence, pieces: Sequence[Piece]) -> list[str]:
    groups: dict[tuple[Fate, int], list[Piece]] = {}
    for event, piece in pieces:
        fate = evidence.fate(event)
        flush = evidence.durable_at(event) if fate is Fate.DURABLE else -1
        groups.setdefault((fate, flush), []).append((event, piece))
    return [
        f"{told_of(each, evidence)} ({events_told(event for event, _ in each)}), {_fate(fate, flush)}"
        for (fate, flush), each in groups.items()
    ]


def _fate(fate: Fate, flush: int) -> str:
    if fate is Fate.DURABLE:
        return f"durable with the flush at event {flush:,}"
    return f"in the device's cache when the power went: {fate}"


def _transaction(evidence: Evidence, transaction: Transaction, inside: Sequence[Entry]) -> str:
    """In the step in which it was committed; or, where it was not before the cut, in that in which it was begun."""
    name, commit = transaction_told(transaction), transaction.commit
    if not 0 <= commit < evidence.cut:
        begun = transaction.events[0] in {entry.event for entry in inside}
        return f"{name}, begun at event {transaction.events[0]:,} and not yet committed" if begun else ""
    if commit not in {entry.event for entry in inside}:
        return ""
    fate = evidence.fate_of(transaction)
    if fate is Fate.LOST:
        return f"{name}, committed at event {commit:,}, of which the cut lost blocks"
    told = f"{name}, committed at event {commit:,}, {_fate(fate, evidence.flushed(transaction))}"
    if transaction.number < evidence.replay_from or evidence.replay_from < 0:
        return f"{told}, and recovery has no more to do with it"
    return told if evidence.is_on_disk(transaction) else f"{told}, but recovery does not come to it"


def _at_the_cut(tale: Tale) -> list[str]:
    """What could have been lost, and what was."""
    evidence, cut = tale.evidence, tale.state.cut
    open_writes = [e for e in evidence.writes if e.event < cut and evidence.fate(e.event) is not Fate.DURABLE]
    if not open_writes:
        return ["When the power went the device's cache was empty: everything that had been sent was durable."]
    if not evidence.lost:
        some = f"{len(open_writes):,} write{'s' * (len(open_writes) > 1)}"
        kept = "is on the disk" if len(open_writes) == 1 else "are on the disk"
        return [f"The cut lost nothing: the {some} in the device's cache {kept}."]
    what = told_of(pieces_of(evidence.lost), evidence) or "what is not known"
    where = events_told(entry.event for entry in evidence.lost)
    part = f" ({events_told(evidence.torn)} in part)" if evidence.torn else ""
    many = f"{len(open_writes):,} writes" if len(open_writes) > 1 else "1 write"
    return [f"Of {many} in the device's cache the cut lost {len(evidence.lost):,}{part}: {what} ({where})."]


def _ending(tale: Tale, cause: Cause) -> str:
    if tale.finding is None:
        return ""
    what = told(tale.finding).rstrip(".")
    if not tale.broken.text:
        return f"So the disk was rejected: {what}."
    if tale.plan:
        returned = f"; that call had returned at event {tale.broken.event:,}" if tale.broken.event >= 0 else ""
        return f"Broken is: {what}{returned}."
    if tale.broken.named:
        return f"{'That broke' if cause.shown else 'Broken is'} {tale.broken.text}: {what}."
    last = f"The last promise made before the cut was {tale.broken.text}"
    return f"So the disk was rejected: {what}. {last}; whether it is the broken one, the check does not say."

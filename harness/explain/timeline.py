"""The block log as a report shows it: events with what they were, operations with when they began and ended."""

import errno
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

from harness.blocklog import BlockLog, Kind, Mark
from harness.blocklog.format import JSON, PROMISE
from harness.explain.explained import Entry, Step
from harness.layout.kinds import Named
from harness.plan.operations import persists
from harness.plan.plan import OUTCOME, Outcome, Plan, begin_mark
from harness.trial.recording import Recording

TEXT_MAX = 200
_WHAT = {Kind.WRITE: "write", Kind.DISCARD: "discard", Kind.FLUSH: "flush"}


def readable(raw: bytes | str, limit: int = TEXT_MAX) -> str:
    """Bytes or text from a disk or a program as one line without control characters, shortened."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    text = text[: 2 * limit].expandtabs()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= limit else f"{text[:limit]}..."


def entries_of(
    recording: Recording,
    names: Mapping[int, tuple[Named, ...]],
    cut: int,
    lost: frozenset[int],
    steps: Sequence[Step],
) -> tuple[Entry, ...]:
    """All events up to the recording's end."""
    events = recording.log.events
    marks = {mark.at: mark for mark in recording.log.marks}
    flushes = [at for at, event in enumerate(events) if event.kind is Kind.FLUSH]
    begins = [step.begin for step in steps]
    found = []
    for at in range(recording.end):
        kind, offset, length, _, _ = events[at]
        what, text = (_WHAT[kind], "") if kind is not Kind.MARK else _mark(marks.get(at))
        found.append(
            Entry(
                event=at,
                what=what,
                epoch=bisect_left(flushes, at),
                offset=offset,
                length=length,
                lost=at in lost,
                after_cut=at >= cut,
                pieces=names.get(at, ()),
                text=text,
                step=_step_at(at, begins, steps),
            )
        )
    return tuple(found)


def _step_at(at: int, begins: Sequence[int], steps: Sequence[Step]) -> int:
    number = bisect_left(begins, at + 1) - 1
    return number if number >= 0 and (steps[number].end < 0 or at <= steps[number].end) else -1


def _mark(mark: Mark | None) -> tuple[str, str]:
    if mark is None:
        return "mark", ""
    for prefix in (PROMISE, JSON):
        if mark.text.startswith(prefix):
            return "promise", readable(mark.text.removeprefix(prefix))
    return "mark", readable(mark.text)


def steps_of(recording: Recording, plan: Plan | None) -> tuple[Step, ...]:
    """What the workload did, in the order of time: a plan's operations, or what lies between two promises."""
    return _operations(recording.log, plan) if plan else _stretches(recording)


def _operations(log: BlockLog, plan: Plan) -> tuple[Step, ...]:
    begun = {int(mark.text.rsplit(b" ", 1)[1]): mark.at for mark in log.marks if mark.text.startswith(_BEGINS)}
    ended = outcomes_at(log)
    steps = []
    for n, operation in enumerate(plan.all):
        at, outcome = ended.get(n, (-1, None))
        steps.append(
            Step(
                text=readable(str(operation)),
                begin=begun.get(n, -1),
                end=at,
                result=_result(outcome),
                setup=n < len(plan.setup),
                promise=bool(outcome and outcome.ok and persists(operation)),
            )
        )
    return tuple(step for step in steps if step.begin >= 0)


_BEGINS = begin_mark(0).removesuffix(b"0")


def outcomes_at(log: BlockLog) -> dict[int, tuple[int, Outcome]]:
    """By the number of an operation: the event at which it had returned, and how it ended. Marks of others are none."""
    found = {}
    for mark in log.marks:
        prefix = next((prefix for prefix in (OUTCOME, JSON) if mark.text.startswith(prefix)), None)
        if prefix:
            try:
                outcome = msgspec.json.decode(mark.text[len(prefix) :], type=Outcome)
            except msgspec.DecodeError:
                continue
            found[outcome.n] = (mark.at, outcome)
    return found


def _result(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return errno.errorcode.get(outcome.errno, str(outcome.errno)) if outcome.errno else "ok"


def _stretches(recording: Recording) -> tuple[Step, ...]:
    promises = [promise for promise in recording.log.promises(recording.end) if promise.at >= recording.begin]
    made_before = len(recording.log.promises(recording.begin))
    steps = []
    begin = recording.begin
    for number, promise in enumerate(promises, made_before + 1):
        text = f"up to promise {number}: `{readable(promise.raw, 80)}`"
        steps.append(Step(text=text, begin=begin, end=promise.at, promise=True))
        begin = promise.at + 1
    if begin < recording.end:
        text = "the recovery" if is_second_crash(recording) else "the workload"
        steps.append(Step(text="after the last promise" if promises else text, begin=begin, end=-1))
    return tuple(steps)


def is_second_crash(recording: Recording) -> str:
    """The note that says so, where the power went once more during recovery; else nothing."""
    return next((note for note in recording.notes if note.startswith("second crash:")), "")

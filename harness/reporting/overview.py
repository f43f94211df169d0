"""What a bundle is, for people and as JSON: plan, volume, versions, the log by epoch, the cut, what was lost."""

import errno
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from harness.blocklog import Kind, Mark
from harness.crash import StateSpace
from harness.plan.plan import begun_before, outcomes_of
from harness.reporting import json_report
from harness.reporting.facts import EpochRow, epoch_rows, facts
from harness.reporting.terminal import Page, volume_text
from harness.reporting.text import count, of_bytes, printable, size
from harness.trial.bundle import Bundle, Manifest

_ROWS_MAX = 60
_EDGE = 15


def show(page: Page, path: str, bundle: Bundle) -> None:
    """The whole page of `harness show`."""
    manifest, recording = bundle.manifest, bundle.recording
    space = recording.space(manifest.settings)
    page.line(path, "bold")
    _plan(page, bundle)
    page.field("volume", f"{volume_text(recording)}, sectors of {manifest.spec.sector_size} B")
    tools = "".join(f", {version}" for version in dict.fromkeys(manifest.tools.values()))
    page.field("made by", f"harness {manifest.harness} on Linux {manifest.kernel}{tools}")
    page.field("model", f"{manifest.settings.model}, seed {manifest.settings.seed}")
    page.block("note", map(printable, manifest.notes))
    page.line()
    cut = manifest.state.cut if manifest.state else None
    page.line("log by epoch (an epoch ends with a flush: from there on its writes are durable)", "bold")
    for line in epoch_lines(epoch_rows(recording, space), cut):
        page.line("  " + line)
    page.line()
    _state(page, bundle, space)


def _plan(page: Page, bundle: Bundle) -> None:
    commands = bundle.manifest.commands
    for label, text in (("setup", commands.setup), ("workload", commands.workload), ("check", commands.check)):
        if text:
            page.field(label, printable(text))
    if bundle.manifest.plan:
        page.field("contract", bundle.manifest.settings.contract)
        page.block("plan", map(printable, plan_lines(bundle)))
    if bundle.manifest.test:
        page.field("test", bundle.manifest.test)
    page.block("files", (f"{file.path} ({size(len(file.content))})" for file in bundle.files))


def plan_lines(bundle: Bundle) -> Iterator[str]:
    """The plan's operations; where the power went; which of them had made what is durable."""
    manifest, log = bundle.manifest, bundle.recording.log
    assert manifest.plan is not None
    begun = begun_before(log, manifest.state.cut) if manifest.state else len(manifest.plan.all)
    outcomes = {outcome.n: outcome for outcome in outcomes_of(log)}
    for n, line in enumerate(manifest.plan.lines()):
        if n == begun:
            yield _CUT_LINE
        outcome = outcomes.get(n)
        yield line + (f"  {errno.errorcode.get(outcome.errno, outcome.errno)}" if outcome and outcome.errno else "")


def _state(page: Page, bundle: Bundle, space: StateSpace) -> None:
    manifest = bundle.manifest
    if manifest.state is None:
        page.line("a whole recording; no crash state was chosen: harness judge it", "bold")
        return
    page.line("the crash state", "bold")
    page.field("name", manifest.state.name)
    page.state(facts(bundle.recording, space, manifest.state.state()))
    page.line()
    if manifest.finding:
        page.line(str(manifest.finding.verdict), "bold")
        page.finding(manifest.finding)
        page.evidence(manifest.finding)


def epoch_lines(rows: Sequence[EpochRow], cut: int | None) -> Iterator[str]:
    """A table of the epochs; of a long log only its ends and the surroundings of the cut."""
    yield f"{'epoch':>6} {'events':>15} {'writes':>7} {'bytes':>10} {'discards':>8} {'promises':>8}  ends with"
    at = next((row.number for row in rows if cut is not None and row.start <= cut <= row.stop), 0)
    left_out = 0
    for row in rows:
        if len(rows) > _ROWS_MAX and _EDGE <= row.number < len(rows) - _EDGE and abs(row.number - at) > _EDGE:
            left_out += 1
            continue
        if left_out:
            yield f"{'...':>6} {count(left_out, 'epoch')} left out; --log lists every event"
            left_out = 0
        yield _epoch_line(row) + _cut_mark(row, cut)


def _epoch_line(row: EpochRow) -> str:
    events = f"{row.start:,}-{row.stop:,}"
    ends = "flush" if row.flushed else "the end"
    figures = f"{row.writes:>7,} {size(row.bytes):>10} {row.discards:>8,} {row.promises:>8,}"
    return f"{row.number + 1:>6,} {events:>15} {figures}  {ends}"


def _cut_mark(row: EpochRow, cut: int | None) -> str:
    return f"  <== power cut after {cut:,} events" if cut is not None and row.start <= cut <= row.stop else ""


def log_lines(bundle: Bundle) -> Iterator[str]:
    """Every event of the log, the cut and the lost writes marked."""
    recording, manifest = bundle.recording, bundle.manifest
    chosen = manifest.state.state() if manifest.state else None
    lost: dict[int, int] = {}
    if chosen:
        for atom in facts(recording, recording.space(manifest.settings), chosen).lost:
            lost[atom.event] = lost.get(atom.event, 0) + atom.length
    marks = {mark.at: mark for mark in recording.log.marks}
    for at, event in enumerate(recording.log.events):
        if chosen and at == chosen.cut:
            yield _CUT_LINE
        text = f"{at:>8}  {event.kind.name.lower():<8}"
        if event.kind is Kind.MARK:
            text += _mark_text(marks.get(at))
        elif event.kind is not Kind.FLUSH:
            text += f"{event.offset:>14,}  {size(event.length)}" + ("  FUA" if event.fua else "")
        if at in lost:
            text += "  lost" if lost[at] == event.length else f"  lost in part ({size(lost[at])})"
        yield text
    if chosen and chosen.cut >= len(recording.log.events):
        yield _CUT_LINE


_CUT_LINE = "-" * 20 + " power cut " + "-" * 20


def _mark_text(mark: Mark | None) -> str:
    return of_bytes(mark.text) if mark else "(a piece of a longer mark)"


def as_json(path: str, bundle: Bundle, *, whole_log: bool) -> dict[str, Any]:
    """The same as `show`, for programs."""
    manifest, recording = bundle.manifest, bundle.recording
    space = recording.space(manifest.settings)
    content: dict[str, Any] = {
        "schema": json_report.SCHEMA,
        "kind": "crash-harness bundle overview",
        "bundle": path,
        "manifest": _manifest(manifest),
        "recording": json_report.of_recording(recording),
        "epochs": [row._asdict() for row in epoch_rows(recording, space)],
        "promises": json_report.of_promises(recording.log.promises()),
        "state": None,
    }
    if manifest.state:
        content["state"] = json_report.of_state(facts(recording, space, manifest.state.state()))
    if whole_log:
        content["log"] = [
            {"kind": event.kind.name.lower(), "offset": event.offset, "length": event.length, "fua": event.fua}
            for event in recording.log.events
        ]
    return content


def _manifest(manifest: Manifest) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.to_builtins(manifest)
    del content["extents"]
    return content

"""The report of `harness enumerate`: how much was judged beside what others counted, and each distinct finding."""

from typing import Any

from rich.console import Console
from rich.text import Text

import harness
from harness.campaign.enumerating import Distinct, Enumerated, Progress, Request
from harness.plan import enumeration
from harness.reporting.facts import facts_of
from harness.reporting.live_view import LiveView
from harness.reporting.terminal import Page, replay_command
from harness.reporting.text import count, printable, seconds
from harness.verdict import ExitCode, Verdict

_SHOWN_MAX = 20
_PLAIN_EVERY = 5.0


class Follower(LiveView):
    """Follows a run: told after each sequence."""

    def __init__(self, out: Console, *, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet, plain_every=_PLAIN_EVERY)

    def progress(self, progress: Progress) -> None:
        """How far it is."""
        self.tell(lambda: _line(progress), lambda: _line(progress))


def _line(progress: Progress) -> Text:
    return Text(
        f"{progress.done:,} of {count(progress.total, 'sequence')}, {count(progress.states, 'state')}, "
        f"{progress.rate:,.0f} sequences/s, {count(progress.findings, 'kind')} of finding, "
        f"{seconds(progress.left)} left"
    )


def show(out: Console, outcome: Enumerated, request: Request, *, verbose: bool) -> None:
    """The verdict, what it rests on, the counts, and the findings with the commands that replay them."""
    page = Page(out, verbose=verbose)
    page.verdict(outcome.verdict, _headline(outcome))
    page.line()
    settings = request.settings
    options = "".join(f", {text}" for text in (settings.mount_options, settings.mkfs_options) if text)
    page.field("volume", f"{settings.fs}{options}" + (f", fault {settings.fault}" if settings.fault != "none" else ""))
    page.field("contract", settings.contract)
    page.field("sequences", _sequences(outcome, request))
    page.field("states", _states(outcome, request))
    page.field("speed", _speed(outcome))
    page.field("results", outcome.path)
    page.block("counts", _counts(request))
    for number, distinct in enumerate(outcome.distinct[:_SHOWN_MAX], 1):
        page.line()
        _finding(page, number, distinct, request)
    if len(outcome.distinct) > _SHOWN_MAX:
        page.line(f"and {count(len(outcome.distinct) - _SHOWN_MAX, 'further kind')} of finding, in {outcome.path}")


def _counts(request: Request) -> list[str]:
    """How many sequences there are, beside what the published generator makes of the same bounds."""
    ours = enumeration.total(request.ops, request.nested, wide=request.wide)
    if request.nested or request.wide:
        return [f"{ours:,} sequences within these bounds, which are wider than the published ones"]
    published = enumeration.PUBLISHED.get(request.ops)
    beside = f"{published:,} published" if published else "no number published"
    return [f"{ours:,} sequences within the bounds, {beside}", *enumeration.differences(request.ops)]


def _headline(outcome: Enumerated) -> str:
    bad = sum(result.verdict is Verdict.CORRUPTED for result in outcome.results)
    unknown = sum(result.verdict is Verdict.UNKNOWN for result in outcome.results)
    done = f"{len(outcome.results):,} of {count(outcome.total, 'sequence')}"
    if bad:
        return f"{count(bad, 'sequence')} of {len(outcome.results):,} judged break the contract"
    if outcome.interrupted:
        return f"interrupted: {done} judged"
    if unknown:
        return f"{count(unknown, 'sequence')} could not be judged"
    return f"no violation in {done}"


def _sequences(outcome: Enumerated, request: Request) -> str:
    index, parts = request.shard
    shard = f", shard {index}/{parts}" if parts > 1 else ""
    resumed = f", {outcome.resumed:,} of them judged before" if outcome.resumed else ""
    return f"{len(outcome.results):,} of {outcome.total:,} with {count(request.ops, 'core operation')}{shard}{resumed}"


def _states(outcome: Enumerated, request: Request) -> str:
    settings = request.settings
    whole = sum(result.complete for result in outcome.results)
    recoveries = sum(result.recoveries for result in outcome.results)
    deeper = f", {recoveries:,} of their recoveries" if recoveries else ""
    if settings.cuts == "promises":
        return f"{outcome.states:,}, right after each persistence point{deeper}"
    return f"{outcome.states:,} of the model {settings.model}{deeper}; all of {count(whole, 'sequence')}"


def _speed(outcome: Enumerated) -> str:
    if not outcome.seconds_judging or not outcome.fresh:
        return "nothing was judged now"
    took = outcome.seconds_judging
    rates = f"{outcome.fresh / took:,.0f} sequences/s, {outcome.fresh_states / took:,.0f} states/s"
    return f"{rates}, {seconds(outcome.seconds)}"


def _finding(page: Page, number: int, distinct: Distinct, request: Request) -> None:
    found, recording = distinct.found, distinct.judgement.recording
    page.line(f"{number}. {count(distinct.sequences, 'sequence')}, the smallest {distinct.first.id}", "bold")
    page.finding(found.finding)
    page.block("plan", map(printable, distinct.judgement.plan.lines()))
    if distinct.rerun:
        seen = f"{found.reproduced} on fresh disks, {distinct.rerun} recorded anew"
        page.field("seen again", seen + (", shrunk" if distinct.shrunk else ""))
    if recording:
        page.state(facts_of(found, recording, request.settings))
    page.evidence(found.finding)
    if found.bundle:
        page.field("replay", replay_command(found.bundle), "bold")


def as_json(outcome: Enumerated, request: Request, code: ExitCode) -> dict[str, Any]:
    """The same for programs; the result of each sequence stands in the results file."""
    return {
        "schema": 1,
        "kind": "crash-harness enumeration report",
        "harness": harness.__version__,
        "verdict": outcome.verdict.value,
        "exit_code": int(code),
        "ops": request.ops,
        "shard": list(request.shard),
        "fs": request.settings.fs,
        "total": outcome.total,
        "judged": len(outcome.results),
        "states": outcome.states,
        "complete": outcome.complete,
        "seconds": round(outcome.seconds, 3),
        "results": outcome.path,
        "findings": [
            {
                "kind": each.found.finding.kind.value,
                "verdict": each.found.finding.verdict.value,
                "summary": each.found.finding.summary,
                "sequences": each.sequences,
                "plan": [str(operation) for operation in each.judgement.plan.all],
                "lost": each.found.lost,
                "rerun": each.rerun,
                "bundle": each.found.bundle or None,
                "replay": replay_command(each.found.bundle) if each.found.bundle else None,
            }
            for each in outcome.distinct
        ],
    }

"""Every sequence within bounds: recorded, judged, kept; each distinct finding shown again, shrunk and bundled."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from harness.campaign.fleet import Job, judged
from harness.campaign.keeping import Keeper
from harness.campaign.results import Header, Result, Results, Seen
from harness.plan.enumeration import Sequence, sequences
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.devices import workers_wanted
from harness.trial.judging import Judge
from harness.trial.lab import Judgement, Lab, open_labs
from harness.trial.plans import plan_checker
from harness.trial.report import Found, group
from harness.trial.shrink import shown_by, shrink_plan, shrink_state
from harness.verdict import Verdict

_RERUNS = 3


class Request(NamedTuple):
    """What is to be enumerated. `shard`: part i of n, from 1. `limit`: stop after so many sequences (0: none)."""

    ops: int
    settings: Settings
    nested: bool = False
    wide: bool = False
    shard: tuple[int, int] = (1, 1)
    resume: bool = False
    limit: int = 0


class Distinct(msgspec.Struct, kw_only=True):
    """Findings of many sequences that are one: the best example, shrunk, and how many sequences show it."""

    found: Found
    judgement: Judgement
    first: Sequence
    sequences: int = 1
    rerun: str = ""
    """In how many of so many further recordings it was seen again."""
    shrunk: bool = False


class Progress(NamedTuple):
    """How far it has come. `rate` in sequences a second, `left` in seconds."""

    done: int
    total: int
    states: int
    findings: int
    rate: float
    left: float


class Enumerated(msgspec.Struct, kw_only=True):
    """The whole of a run."""

    total: int
    resumed: int = 0
    fresh: int = 0
    fresh_states: int = 0
    seconds_judging: float = 0.0
    results: list[Result] = []
    distinct: list[Distinct] = []
    seconds: float = 0.0
    path: str = ""
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        return len(self.results) == self.total and not self.interrupted

    @property
    def verdict(self) -> Verdict:
        """INTACT only if every sequence was judged and none showed anything."""
        verdicts = {result.verdict for result in self.results}
        if Verdict.CORRUPTED in verdicts:
            # What no fresh disk showed again, or what a check said that rejects the uncut volume too, is no conviction.
            taken_back = self.distinct and all(each.found.finding.verdict is Verdict.UNKNOWN for each in self.distinct)
            return Verdict.UNKNOWN if taken_back else Verdict.CORRUPTED
        return Verdict.INTACT if self.complete and verdicts == {Verdict.INTACT} else Verdict.UNKNOWN

    @property
    def states(self) -> int:
        return sum(result.judged for result in self.results)


class Enumeration:
    """One run. `on_progress` is called in this process after each sequence; `keeper` is told what came of it."""

    def __init__(
        self,
        request: Request,
        total: int,
        reports: str,
        on_progress: Callable[[Progress], None],
        keeper: Keeper | None = None,
    ) -> None:
        self._request = request
        self._keeper = keeper
        self._reports = reports
        self._on_progress = on_progress
        self._distinct: dict[tuple[str, str], Distinct] = {}
        self._started = time.monotonic()
        self.outcome = Enumerated(total=min(total, request.limit) if request.limit else total)

    def run(self) -> Enumerated:
        """Until every sequence has a result, or Ctrl-C. Raises Misuse, RequirementMissing, OSError (full disk)."""
        request = self._request
        header = Header.of(request.ops, request.nested, request.wide, request.shard, request.settings)
        with ExitStack() as stack:
            results = stack.enter_context(Results(self._reports, header, resume=request.resume))
            self.outcome.path = results.path
            labs = stack.enter_context(open_labs(request.settings, workers_wanted(request.settings)))
            try:
                self._all(labs, results)
                self._explain(labs[0])
            except KeyboardInterrupt:
                self.outcome.interrupted = True
            if self._keeper:
                self._keeper.flush()
        self.outcome.distinct = sorted(self._distinct.values(), key=lambda d: (-d.sequences, d.found.finding.summary))
        self.outcome.seconds = time.monotonic() - self._started
        return self.outcome

    def _all(self, labs: list[Lab], results: Results) -> None:
        for sequence, judgement in judged(labs, self._jobs(results)):
            result = _result(sequence, judgement)
            results.add(result)
            if self._keeper:
                self._keeper.note(result)
            self.outcome.results.append(result)
            self.outcome.fresh += 1
            self.outcome.fresh_states += result.judged
            self.outcome.seconds_judging = time.monotonic() - self._started
            smallest = {group(found.finding): found for found in reversed(judgement.report.found)}
            for found in smallest.values():
                self._note(sequence, judgement, found)
            self._tell()

    def _jobs(self, results: Results) -> Iterator[Job[Sequence]]:
        request = self._request
        for taken, sequence in enumerate(sequences(request.ops, request.nested, wide=request.wide, part=request.shard)):
            if taken == self.outcome.total:
                return
            known = results.done.get(sequence.id)
            if known:
                self.outcome.results.append(known)
                self.outcome.resumed += 1
                if self._keeper:
                    self._keeper.note(known)
            else:
                yield Job(sequence, sequence.plan)

    def _note(self, sequence: Sequence, judgement: Judgement, found: Found) -> None:
        known = self._distinct.setdefault(
            group(found.finding), Distinct(found=found, judgement=judgement, first=sequence, sequences=0)
        )
        known.sequences += 1
        if _size(judgement, found) < _size(known.judgement, known.found):
            known.found, known.judgement, known.first = found, judgement, sequence

    def _tell(self) -> None:
        done, total = len(self.outcome.results), self.outcome.total
        seconds = time.monotonic() - self._started
        rate = self.outcome.fresh / seconds if seconds else 0.0
        left = (total - done) / rate if rate else 0.0
        self._on_progress(Progress(done, total, self.outcome.states, len(self._distinct), rate, left))

    def _explain(self, lab: Lab) -> None:
        """Each distinct finding: seen again on fresh disks and in fresh recordings, shrunk, saved as a bundle."""
        if self._keeper:
            self._keeper.flush()
        for distinct in self._distinct.values():
            if distinct.judgement.recording:
                explain(distinct, lab, self._request.settings, self._reports)
                self._keep(distinct)

    def _keep(self, distinct: Distinct) -> None:
        judgement = distinct.judgement
        if self._keeper and judgement.recording:
            self._keeper.explained(
                distinct.first.id, distinct.found, judgement.recording, judgement.plan, distinct.rerun
            )


def explain(distinct: Distinct, lab: Lab, settings: Settings, reports: str) -> None:
    """Show the finding again, shrink it, save it. One that no fresh disk shows again becomes UNKNOWN."""
    finding = distinct.found.finding
    again = [shown_by(lab.judge(distinct.judgement.plan), finding) is not None for _ in range(_RERUNS)]
    distinct.rerun = f"{sum(again)}/{_RERUNS}"
    smaller = shrink_plan(distinct.judgement.plan, finding, lab.judge) if all(again) else None
    if smaller and (found := shown_by(smaller, finding)) and smaller.recording:
        distinct.judgement, distinct.found, distinct.shrunk = smaller, found, True
    judgement, found, recording = distinct.judgement, distinct.found, distinct.judgement.recording
    assert recording is not None
    its = found.deeper or recording
    judge = Judge(its, settings, plan_checker(judgement.plan, recording, settings.contract))
    if found.deeper is None:
        found.state = shrink_state(judge, found.finding, found.state)
        found.lost = judge.lost(found.state)
    judge.confirm_soundly(msgspec.structs.replace(judgement.report, found=[found]))
    content = bundles.pack(its, settings, state=found.state, finding=found.finding, plan=judgement.plan)
    name = f"{its.spec.fs}-{found.finding.kind.lower()}-{found.state.name[:10]}-{distinct.first.id}{bundles.SUFFIX}"
    found.bundle = bundles.save(os.path.join(reports, name), content)


def _result(sequence: Sequence, judgement: Judgement) -> Result:
    report = judgement.report
    return Result(
        id=sequence.id,
        number=sequence.number,
        text=sequence.text,
        verdict=report.verdict,
        judged=report.judged,
        recoveries=report.recoveries.judged if report.recoveries else 0,
        complete=report.complete,
        seconds=round(report.seconds, 4),
        findings=tuple(
            Seen(kind=f.finding.kind, summary=f.finding.summary, group=" ".join(group(f.finding)), states=f.states)
            for f in report.found
        ),
    )


def _size(judgement: Judgement, found: Found) -> tuple[int, int, int]:
    return (len(judgement.plan.all), found.lost, found.state.cut)

"""The plans of one shard: drawn, judged, judged again where there was no verdict; each kind of finding shrunk once."""

import os
import shutil
import time
from collections.abc import Callable

import msgspec
import xxhash

from harness.campaign.enumerating import Distinct, explain
from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.shards import Message, ShardResult, Task, Working, coverage_of
from harness.campaign.signatures import file_system_of, sighting_of
from harness.errors import HarnessError
from harness.plan.enumeration import Sequence
from harness.plan.plan import Plan
from harness.trial.lab import Judgement, Lab
from harness.trial.recording import Recording
from harness.trial.report import Found, group
from harness.trial.report import signature as shape_of
from harness.verdict import Verdict

_AGAIN_TRIES = 3
_EXPLAINING_SECONDS = 900.0

Group = tuple[str, str]


class PlanShard:
    """One shard in the hands of a server. `folder` is a place on a private tmpfs for bundles on their way."""

    def __init__(self, task: Task, lab: Lab, folder: str, tell: Callable[[Message], None]) -> None:
        self._task = task
        self._shard = task.shard
        self._lab = lab
        self._folder = folder
        self._tell = tell
        self._result = ShardResult(shard=task.shard.name)
        self._failing: list[Judgement] = []
        self._signatures: dict[Group, BugSignature] = {
            known.group: known.signature for known in task.known if known.source == task.shard.source
        }
        if task.shard.again:
            self._signatures[task.shard.group] = task.shard.again

    def judge(self) -> ShardResult:
        """Every plan; a canary's shard ends with the first that is convicted."""
        started = time.monotonic()
        self._working(self._lab.patience)
        for plan in self._shard.contents():
            judgement = self._judged(plan)
            self._note(judgement)
            self._working(self._lab.patience)
            if self._shard.canary and judgement.report.verdict is Verdict.CORRUPTED:
                break
        self._result.judging_seconds = time.monotonic() - started
        try:
            for judgement in sorted(self._failing, key=lambda judgement: len(judgement.plan.all)):
                sightings = self._sightings(judgement)
                self._result.trials.append((self._trial(judgement, sightings), sightings))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._result

    def _judged(self, plan: Plan) -> Judgement:
        """What could not be judged is tried once more; a plan that failed before, up to three times until it does."""
        judgement = self._lab.judge(plan)
        tries = _AGAIN_TRIES if self._shard.again else 2
        wanted = Verdict.CORRUPTED if self._shard.again else Verdict.INTACT
        while tries > 1 and judgement.report.verdict not in (wanted, Verdict.CORRUPTED):
            self._working(self._lab.patience)
            judgement = self._lab.judge(plan)
            tries -= 1
        return judgement

    def _note(self, judgement: Judgement) -> None:
        report, result = judgement.report, self._result
        for key, times in coverage_of(judgement.plan).items():
            result.coverage[key] = result.coverage.get(key, 0) + times
        if report.verdict is Verdict.INTACT:
            result.keys.append(key_of(self._shard.source, judgement.plan))
            result.states.append(report.judged)
        else:
            self._failing.append(judgement)

    def _working(self, seconds: float) -> None:
        states = sum(self._result.states) + sum(judgement.report.judged for judgement in self._failing)
        plans = len(self._result.keys) + len(self._failing)
        self._tell(Working(shard=self._result.shard, plans=plans, states=states, seconds=seconds))

    def _trial(self, judgement: Judgement, sightings: list[Sighting]) -> Trial:
        report = judgement.report
        # A finding that no fresh disk showed again convicts nobody.
        taken_back = sightings and all(sighting.verdict is Verdict.UNKNOWN for sighting in sightings)
        return Trial(
            key=f"{judgement.plan.id} {self._shard.source}",
            text="; ".join(map(str, judgement.plan.all)),
            guarantee=self._shard.guarantee,
            file_system=file_system_of(self._shard.settings),
            verdict=Verdict.UNKNOWN if taken_back else report.verdict,
            expected=Verdict.CORRUPTED if self._shard.canary else Verdict.INTACT,
            judged=report.judged,
            allowed=str(report.allowed) if report.complete else f"a sample of {report.allowed:.1e}",
            complete=report.complete,
            recoveries=report.recoveries.judged if report.recoveries else 0,
            seconds=report.seconds,
        )

    def _sightings(self, judgement: Judgement) -> list[Sighting]:
        """One for each kind of finding of this plan, its best state first."""
        smallest = {group(found.finding): found for found in reversed(judgement.report.found)}
        return [self._sighting(judgement, found) for found in smallest.values()]

    def _sighting(self, judgement: Judgement, found: Found) -> Sighting:
        """The first of a kind is shrunk and gets a bundle; those behind it are counted under its signature."""
        kind = group(found.finding)
        if judgement.recording is None or found.finding.verdict is Verdict.UNKNOWN:
            return _unjudged(file_system_of(self._shard.settings), judgement, found)
        if kind in self._signatures:
            return _counted(self._signatures[kind], judgement, found)
        sighting = self._explained(judgement, judgement.recording, found)
        if sighting.verdict is Verdict.CORRUPTED:
            self._signatures[kind] = sighting.signature
            self._result.groups.append((kind, sighting.signature))
        return sighting

    def _explained(self, judgement: Judgement, recording: Recording, found: Found) -> Sighting:
        settings, plan = self._shard.settings, judgement.plan
        if self._shard.canary:
            return sighting_of(found, recording, settings, plan=plan)
        self._working(_EXPLAINING_SECONDS)
        distinct = Distinct(found=found, judgement=judgement, first=Sequence(0, plan.id, plan.all, plan, ""))
        os.makedirs(self._folder, exist_ok=True)
        try:
            explain(distinct, self._lab, settings, self._folder)
        except (HarnessError, OSError) as error:
            self._result.notes.append(f"a finding could not be shrunk and saved: {error}")
            return sighting_of(found, recording, settings, plan=plan)
        return self._with_bundle(distinct)

    def _with_bundle(self, distinct: Distinct) -> Sighting:
        found, judgement = distinct.found, distinct.judgement
        assert judgement.recording is not None
        path, found.bundle = found.bundle, ""
        with open(path, "rb") as file:
            content = file.read()
        name = os.path.basename(path)
        self._result.bundles[name] = content
        again, _, tries = distinct.rerun.partition("/")
        sighting = sighting_of(found, judgement.recording, self._shard.settings, plan=judgement.plan)
        return msgspec.structs.replace(sighting, bundle=name, size=len(content), tries=int(tries), again=int(again))


def key_of(source: str, plan: Plan) -> bytes:
    """Eight bytes that name the plan on this kind of volume: a run of the store counts each key once."""
    return xxhash.xxh3_64_digest(f"{plan.id} {source}".encode())


def _counted(signature: BugSignature, judgement: Judgement, found: Found) -> Sighting:
    return Sighting(
        signature=signature,
        kind=found.finding.kind,
        verdict=found.finding.verdict,
        summary=found.finding.summary,
        states=found.states,
        lost=found.lost,
        operations=len(judgement.plan.all),
    )


def _unjudged(file_system: str, judgement: Judgement, found: Found) -> Sighting:
    """Why there is no verdict, as a row of its own among the findings."""
    shape = shape_of(found.finding)
    rule = f"{shape.kind} {shape.summary}"
    return _counted(BugSignature(file_system=file_system, rule=rule, shape="", lost="nothing"), judgement, found)

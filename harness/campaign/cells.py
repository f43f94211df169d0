"""Litmus tests, failed fsyncs and strikes as the store keeps them.

The first two measure what a file system does, so a surprise is what was expected: but for a litmus test with the
fsync that its pattern lacks, which nothing may surprise.
"""

import os
import re
from collections.abc import Sequence

from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.signatures import NOTHING, file_system_of, rule_of, shape_of, sighting_of, size_of
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial import fsync_failure, litmus
from harness.trial.kill import Struck
from harness.verdict import Finding, Verdict, worst

Kept = tuple[Trial, Sequence[Sighting]]

_OF_ANSWER = {
    litmus.Answer.OBSERVED: Verdict.CORRUPTED,
    litmus.Answer.NOT_FOUND: Verdict.INTACT,
    litmus.Answer.UNKNOWN: Verdict.UNKNOWN,
}


def kept_litmus(cell: litmus.Cell, reports: str) -> Kept:
    """One cell of the table, whose bundle has been saved in `reports`."""
    settings = cell.configuration.settings
    name = f"litmus {cell.test.id}" + (" repaired" if cell.repaired else "")
    verdict = _OF_ANSWER[cell.answer]
    trial = Trial(
        key=f"{name}, {cell.configuration.name}",
        text=name,
        guarantee=name,
        file_system=file_system_of(settings),
        verdict=verdict,
        expected=Verdict.INTACT if cell.repaired else verdict,
        judged=cell.judged,
        complete=cell.complete,
        seconds=cell.seconds,
    )
    if cell.observation is None:
        return trial, []
    recording, found = cell.observation
    found.bundle = cell.bundle
    return trial, [sighting_of(found, recording, settings, test=name, reports=reports)]


def kept_fsync_failure(cell: fsync_failure.Cell, reports: str) -> Kept:
    """One trial, whose bundle has been saved in `reports`."""
    findings = cell.observed.findings if cell.observed else []
    verdict = Verdict.UNKNOWN if cell.error else worst([Verdict.INTACT, *(each.verdict for each in findings)])
    name = cell.case.name.partition(", ")[2]
    trial = Trial(
        key=cell.case.name,
        text=cell.case.name,
        guarantee="an fsync that succeeds covers what was written",
        file_system=file_system_of(cell.case.column.settings),
        verdict=verdict,
        expected=verdict,
        judged=1 if cell.observed else 0,
        seconds=cell.seconds,
    )
    return trial, [_sighting(each, trial.file_system, name, cell.bundle, reports) for each in findings]


def kept_strike(plan: Plan, result: Struck, settings: Settings, bundle: str, reports: str) -> Kept:
    """A live trial; `bundle`: the path of what was saved of it, if anything was."""
    spelled = str(result.fault)
    trial = Trial(
        key=f"{plan.id} {spelled}",
        text="; ".join(map(str, plan.all)) + f", struck by {spelled}",
        guarantee=f"{settings.fs} keeps what it owes any plan",
        file_system=file_system_of(settings),
        verdict=result.verdict,
        judged=1,
    )
    shape = f"{shape_of(plan, None, '')}, struck by {re.sub(r'[0-9]+', 'N', spelled)}"
    wrong = [each for each in result.findings if each.verdict is not Verdict.INTACT]
    return trial, [_sighting(each, trial.file_system, shape, bundle, reports, plan) for each in wrong]


def _sighting(
    finding: Finding, file_system: str, shape: str, bundle: str, reports: str, plan: Plan | None = None
) -> Sighting:
    return Sighting(
        signature=BugSignature(file_system=file_system, rule=rule_of(finding), shape=shape, lost=NOTHING),
        kind=finding.kind,
        verdict=finding.verdict,
        summary=finding.summary,
        operations=len(plan.all) if plan else 0,
        bundle=os.path.relpath(bundle, reports) if bundle else "",
        size=size_of(bundle),
    )

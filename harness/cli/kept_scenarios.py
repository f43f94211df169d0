"""The scenarios of `harness run` as the store keeps them: each volume that was judged is a trial, and so is each live
variant of a system under test."""

from collections.abc import Iterator, Sequence

from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.rejudging import bundle_sighting
from harness.campaign.signatures import NOTHING, rule_of
from harness.errors import HarnessError
from harness.reporting.scenarios import Scenario, Volume
from harness.reporting.systems import Row
from harness.trial import bundle as bundles
from harness.verdict import Finding, FindingKind, Verdict

Kept = tuple[Trial, Sequence[Sighting]]

_LIVE = "live"


def kept_scenarios(scenarios: Sequence[Scenario], reports: str) -> list[Kept]:
    """All of them; a test that told of no volume and no variant is a trial by itself."""
    return [kept for scenario in scenarios for kept in _kept(scenario, reports)]


def _kept(scenario: Scenario, reports: str) -> Iterator[Kept]:
    for number, volume in enumerate(scenario.volumes, 1):
        yield _of_volume(scenario, volume, number, reports)
    for row in scenario.trials:
        yield _of_variant(scenario, row)
    told = {volume.verdict for volume in scenario.volumes} | {row.verdict for row in scenario.trials}
    # A test fails for other reasons than a verdict: an error in it, a finding of another kind than was planted.
    if not told or (
        scenario.outcome != "passed" and scenario.verdict is Verdict.UNKNOWN and Verdict.UNKNOWN not in told
    ):
        yield _of_test(scenario)


def _of_volume(scenario: Scenario, volume: Volume, number: int, reports: str) -> Kept:
    verdict = _verdict(volume.verdict)
    trial = Trial(
        key=f"{scenario.test}, volume {number}",
        text=scenario.test,
        guarantee=scenario.guarantee,
        file_system=volume.fs,
        verdict=verdict,
        # A test that asks what comes of it (judge) expects whatever it is.
        expected=_verdict(volume.expected) if volume.expected in set(Verdict) else verdict,
        judged=volume.states,
        complete=volume.scope.startswith("all "),
        seconds=scenario.seconds / len(scenario.volumes),
    )
    return trial, [sighting for path in volume.bundles for sighting in _of_bundle(path, reports)]


def _of_bundle(path: str, reports: str) -> Iterator[Sighting]:
    try:
        bundle = bundles.load(path)
    except HarnessError:  # a later test of the same run, or another run, has replaced it by nothing that can be read
        return
    if bundle.manifest.state and bundle.manifest.finding:
        yield bundle_sighting(bundle, path, reports)


def _of_variant(scenario: Scenario, row: Row) -> Kept:
    verdict = _verdict(row.verdict)
    name = f"{row.system} {row.variant}"
    struck = f"{name} at {row.point}" if row.point else name
    trial = Trial(
        key=f"{scenario.test}, {struck}",
        text=struck,
        guarantee=scenario.guarantee,
        file_system=_LIVE,
        verdict=verdict,
        expected=verdict if row.as_wanted else Verdict.INTACT,
        judged=row.plans,
    )
    if verdict is Verdict.INTACT:
        return trial, []
    known = set(FindingKind)
    kind = next(
        (FindingKind(word) for word in row.finding.replace(",", " ").split() if word in known), FindingKind.HARNESS
    )
    return trial, [_sighting(Finding(kind=kind, summary=row.summary, verdict=verdict), name)]


def _of_test(scenario: Scenario) -> Kept:
    trial = Trial(
        key=scenario.test,
        text=scenario.test,
        guarantee=scenario.guarantee,
        file_system="",
        verdict=scenario.verdict,
        seconds=scenario.seconds,
    )
    if scenario.verdict is Verdict.INTACT:
        return trial, []
    finding = Finding(kind=FindingKind.HARNESS, summary=scenario.message, verdict=Verdict.UNKNOWN)
    return trial, [_sighting(finding, scenario.test)]


def _sighting(finding: Finding, shape: str) -> Sighting:
    return Sighting(
        signature=BugSignature(file_system=_LIVE, rule=rule_of(finding), shape=shape, lost=NOTHING),
        kind=finding.kind,
        verdict=finding.verdict,
        summary=finding.summary,
    )


def _verdict(text: str) -> Verdict:
    return Verdict(text) if text in set(Verdict) else Verdict.UNKNOWN

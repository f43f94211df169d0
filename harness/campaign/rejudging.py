"""Bundles judged again, with the kernel, the tools and the oracle of now; and bundles as sightings."""

import os
from collections.abc import Callable, Sequence

import msgspec

from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.signatures import rule_of, sighting_of
from harness.campaign.store import BugRow, BundleRow
from harness.errors import HarnessError
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.trial.check import replay
from harness.trial.recording import lost_atoms
from harness.trial.report import Found
from harness.verdict import Finding, Verdict

GUARANTEE = "what a stored bundle showed is gone"

ReplayTest = Callable[[str, str], Verdict]
"""Runs the test (its id) on the disk of the bundle (its path). Raises HarnessError where it gives no verdict."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that is to be judged again, and what is known of it. `path`: where it is from here."""

    path: str
    recorded: Verdict | None = None
    signature: BugSignature | None = None
    canary: bool = False


class Rejudged(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. With `trouble` it could not be judged: UNKNOWN, and why."""

    known: Known
    recorded: Verdict
    now: Verdict
    findings: tuple[Finding, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    trouble: str = ""

    @property
    def same(self) -> bool:
        return self.now is self.recorded and not self.trouble

    def kept(self, reports: str) -> tuple[Trial, Sequence[Sighting]]:
        """As the store keeps it. What was planted is expected to be there still."""
        trial = Trial(
            key=os.path.relpath(self.known.path, reports),
            text=f"{self.known.path}: {self.recorded} then, {self.now} now"
            + (f", {self.trouble}" * bool(self.trouble)),
            guarantee=GUARANTEE,
            file_system=self.known.signature.file_system if self.known.signature else "",
            verdict=self.now,
            expected=Verdict.CORRUPTED if self.known.canary else Verdict.INTACT,
            judged=0 if self.trouble else 1,
        )
        return trial, self.sightings


def known_bundles(rows: Sequence[BundleRow], bugs: Sequence[BugRow], reports: str) -> list[Known]:
    """Every bundle of a store, as it is to be found from here."""
    by_id = {bug.signature.id: bug for bug in bugs}
    return [
        Known(
            path=os.path.join(reports, row.path),
            recorded=row.verdict,
            signature=by_id[row.signature].signature if row.signature in by_id else None,
            canary=row.signature in by_id and by_id[row.signature].canary,
        )
        for row in rows
    ]


def rejudge(known: Known, reports: str, replay_test: ReplayTest) -> Rejudged:
    """Judge one. What keeps it from a verdict makes it UNKNOWN; Ctrl-C goes through."""
    recorded = known.recorded or Verdict.UNKNOWN
    try:
        bundle = bundles.load(known.path)
        manifest = bundle.manifest
        if manifest.finding:
            recorded = manifest.finding.verdict
        elif known.recorded is None:
            recorded = Verdict.INTACT
        if manifest.test and not manifest.commands.check:
            return _by_test(known, bundle, recorded, reports, replay_test)
        replayed = replay(bundle)
    except HarnessError as error:
        return Rejudged(known=known, recorded=recorded, now=Verdict.UNKNOWN, trouble=error.cause)
    wrong = tuple(finding for finding in replayed.findings if finding.verdict is not Verdict.INTACT)
    return Rejudged(
        known=known,
        recorded=recorded,
        now=replayed.verdict,
        findings=wrong,
        sightings=tuple(_sighting(known, bundle, finding, reports) for finding in wrong),
    )


def _by_test(known: Known, bundle: Bundle, recorded: Verdict, reports: str, replay_test: ReplayTest) -> Rejudged:
    """The check of such a bundle is a Python function, which only its test has. It tells a verdict and no more."""
    now = replay_test(bundle.manifest.test, known.path)
    finding = bundle.manifest.finding
    wrong = (finding,) if finding and now is finding.verdict and now is not Verdict.INTACT else ()
    return Rejudged(
        known=known,
        recorded=recorded,
        now=now,
        findings=wrong,
        sightings=tuple(_sighting(known, bundle, finding, reports) for finding in wrong),
    )


def _sighting(known: Known, bundle: Bundle, finding: Finding, reports: str) -> Sighting:
    """Of the bug that the bundle was kept for, if it is the same; else of another."""
    sighting = bundle_sighting(bundle, known.path, reports, finding)
    then = bundle.manifest.finding
    if known.signature and then and rule_of(then) == rule_of(finding):
        sighting = msgspec.structs.replace(sighting, signature=known.signature)
    return msgspec.structs.replace(sighting, tries=1, again=1)


def bundle_sighting(bundle: Bundle, path: str, reports: str, finding: Finding | None = None) -> Sighting:
    """The finding in a bundle (or another one, of the same disk) as a sighting. The bundle must hold a state."""
    manifest, recording = bundle.manifest, bundle.recording
    finding = finding or manifest.finding
    assert manifest.state is not None
    assert finding is not None
    state = manifest.state.state()
    lost = len(lost_atoms(recording.space(manifest.settings), state))
    twice = any(note.startswith("second crash") for note in recording.notes)
    found = Found(finding=finding, state=state, lost=lost, bundle=path, deeper=recording if twice else None)
    return sighting_of(
        found,
        recording,
        manifest.settings,
        plan=manifest.plan,
        commands=manifest.commands,
        test=manifest.test,
        reports=reports,
    )

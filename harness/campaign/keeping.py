"""What an enumeration hands to the store: its sequences as trials, some at a time, and its findings.

A finding is handed on at once, under a signature without a shape, so that a kill loses none. Once its smallest plan is
known, all its sightings of this run are put under the signature of that plan.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.results import Result, Seen
from harness.campaign.signatures import UNKNOWN, file_system_of, rule_of, sighting_of
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.recording import Recording
from harness.trial.report import Found
from harness.verdict import Finding, FindingKind, Verdict

NOT_SHRUNK = "not shrunk"
_TRIALS_MAX = 50
_SECONDS_MAX = 1.0


class Sink(Protocol):
    """Where it goes: a run in the store."""

    def add(self, trials: Sequence[tuple[Trial, Sequence[Sighting]]]) -> None:
        """One transaction."""

    def restate(self, before: BugSignature, trial: str, sighting: Sighting) -> None:
        """As Store.restate."""


class Keeper:
    """Collects results; hands them on by fifties, or once a second."""

    def __init__(self, sink: Sink, settings: Settings, reports: str) -> None:
        self._sink = sink
        self._settings = settings
        self._reports = reports
        self._file_system = file_system_of(settings)
        self._waiting: list[tuple[Trial, Sequence[Sighting]]] = []
        self._flushed_at = time.monotonic()

    def note(self, result: Result) -> None:
        """One sequence. Those of a run that is resumed may come again: the store counts them once."""
        trial = Trial(
            key=result.id,
            text=result.text,
            guarantee=f"{self._settings.fs} keeps what it owes any plan",
            file_system=self._file_system,
            verdict=result.verdict,
            judged=result.judged,
            complete=result.complete,
            recoveries=result.recoveries,
            seconds=result.seconds,
        )
        self._waiting.append((trial, [self._sighting(seen, result.verdict) for seen in result.findings]))
        if len(self._waiting) >= _TRIALS_MAX or time.monotonic() - self._flushed_at > _SECONDS_MAX:
            self.flush()

    def flush(self) -> None:
        """Hand on what waits."""
        waiting, self._waiting = self._waiting, []
        self._sink.add(waiting)
        self._flushed_at = time.monotonic()

    def explained(self, first: str, found: Found, recording: Recording, plan: Plan, rerun: str) -> None:
        """A finding as it was shrunk and saved; `first`: the id of the sequence, `rerun`: how often it came again."""
        again, _, tries = rerun.partition("/")
        sighting = sighting_of(found, recording, self._settings, plan=plan, reports=self._reports)
        sighting = msgspec.structs.replace(sighting, tries=int(tries), again=int(again))
        self._sink.restate(self._signature(found.finding), first, sighting)

    def _sighting(self, seen: Seen, verdict: Verdict) -> Sighting:
        finding = Finding(kind=FindingKind(seen.kind), summary=seen.summary)
        convicts = verdict is Verdict.CORRUPTED and finding.kind is not FindingKind.HARNESS
        return Sighting(
            signature=self._signature(finding),
            kind=finding.kind,
            verdict=Verdict.CORRUPTED if convicts else Verdict.UNKNOWN,
            summary=seen.summary,
            states=seen.states,
        )

    def _signature(self, finding: Finding) -> BugSignature:
        return BugSignature(file_system=self._file_system, rule=rule_of(finding), shape=NOT_SHRUNK, lost=UNKNOWN)

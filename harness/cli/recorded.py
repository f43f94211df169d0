"""The door by which commands record a run in the store of their reports directory.

A store that cannot be written is told once, beside the verdict, which stands: only INTACT turns into UNKNOWN then
(Recorder.settled), as where a bundle could not be saved.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import xxhash

from harness.campaign.records import BugSignature, RunInfo, Sighting, Trial
from harness.campaign.signatures import file_system_of, sighting_of
from harness.campaign.store import Store
from harness.cli.verdicts import could_not_write
from harness.crash import show_count
from harness.machine.sandbox import interrupts_held
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.verdict import ExitCode, Verdict


class Recorder:
    """One run on its way into the store. Without a store (--no-store) all of it does nothing."""

    def __init__(self, reports: str, info: RunInfo | None, *, resume: bool = False) -> None:
        """`resume`: go on with the last run of the same kind and settings, if there is one."""
        self.reports = reports
        self.run = 0
        """Its number in the store; 0 until it has begun."""
        self.whole = True
        """Nothing that was to be kept could not be written."""
        self._info = info
        self._resume = resume
        self._store: Store | None = None
        self._ended = False
        self._reported: list[tuple[Trial, list[Sighting]]] = []

    def begin(self) -> None:
        """From now on the run is in the store, even if it is killed. Raises Misuse for a store that is none, or newer.

        To be called when the work begins; what is recorded before calls it too.
        """
        info = self._info
        if self.run or info is None or not self.whole:
            return

        def begin() -> None:
            self._store = Store.open(self.reports)
            self.run = (self._last(self._store, info) if self._resume else 0) or self._store.begin(info)

        self._try(begin)

    @staticmethod
    def _last(store: Store, info: RunInfo) -> int:
        same = [run.id for run in store.runs(info.kind) if run.settings == info.settings]
        return same[-1] if same else 0

    def report(
        self,
        report: Report,
        recording: Recording,
        settings: Settings,
        text: str,
        guarantee: str,
        *,
        plan: Plan | None = None,
        commands: Commands | None = None,
        test: str = "",
        expected: Verdict = Verdict.INTACT,
    ) -> None:
        """Keep one trial with its findings: the report, whose bundles have been saved. It is written with end()."""
        if self._info is None:
            return
        trial = Trial(
            key=plan.id if plan else xxhash.xxh3_64_hexdigest(recording.log.view[: recording.log.size]),
            text=text,
            guarantee=guarantee,
            file_system=file_system_of(settings, recording.spec),
            verdict=report.verdict,
            expected=expected,
            judged=report.judged,
            allowed=show_count(report.allowed),
            complete=report.complete,
            recoveries=report.recoveries.judged if report.recoveries else 0,
            seconds=report.seconds,
        )
        sightings = [
            sighting_of(found, recording, settings, plan=plan, commands=commands, test=test, reports=self.reports)
            for found in report.found
            if found.finding.verdict is not Verdict.INTACT
        ]
        self._reported.append((trial, sightings))

    def add(self, trials: Sequence[tuple[Trial, Sequence[Sighting]]]) -> None:
        """Keep what was judged, in one transaction."""
        if trials:
            self._do(lambda store: store.add(self.run, trials))

    def restate(self, before: BugSignature, trial: str, sighting: Sighting) -> None:
        """As Store.restate."""
        self._do(lambda store: store.restate(self.run, before, trial, sighting))

    def end(self, verdict: Verdict, *, interrupted: bool = False, figures: Mapping[str, float] | None = None) -> None:
        """The run is over. A run that ends in an exception needs no call."""
        self._ended = True
        self._do(
            lambda store: store.end(self.run, verdict, interrupted=interrupted, figures=figures, trials=self._reported)
        )

    def abandon(self, error: BaseException) -> None:
        """The run ends in this exception: UNKNOWN, if it had begun and was not over."""
        if self.run and not self._ended:
            self.end(Verdict.UNKNOWN, interrupted=isinstance(error, KeyboardInterrupt))

    def settled(self, code: ExitCode) -> ExitCode:
        """The exit code: INTACT needs a store that holds it."""
        return ExitCode.UNKNOWN if code is ExitCode.INTACT and not self.whole else code

    def _do(self, write: Callable[[Store], object]) -> None:
        self.begin()
        store = self._store
        if store is not None and self.run:
            self._try(lambda: write(store))

    def _try(self, write: Callable[[], object]) -> None:
        try:
            # Between what the store has and what is known of it here no Ctrl-C may strike: the run would never end.
            with interrupts_held():
                write()
        except OSError as error:
            if self.whole:
                could_not_write("the store", self.reports, error)
            self.whole = False


@contextmanager
def recorded(
    reports: str, kind: str, seed: int, settings: msgspec.Struct | None, *, store: bool = True, resume: bool = False
) -> Iterator[Recorder]:
    """A run of this command. It begins with Recorder.begin() and ends with Recorder.end(), or with an exception."""
    info = RunInfo(
        kind=kind,
        command=shlex.join(["harness", *sys.argv[1:]]),
        seed=seed,
        settings=msgspec.json.encode(settings).decode() if settings else "{}",
    )
    recorder = Recorder(reports, info if store else None, resume=resume)
    try:
        yield recorder
    except BaseException as error:
        recorder.abandon(error)
        raise

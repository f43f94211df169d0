"""The `crash_volume` fixture's object: record on a real volume, then judge every disk that a power cut may leave."""

import contextlib
import weakref

import pytest

from harness.errors import HarnessError, Misuse, RequirementMissing
from harness.machine import requirements
from harness.plugin import options
from harness.plugin.checks import Check, checker_factory
from harness.plugin.failure import CrashFailure, door
from harness.plugin.live import LiveVolume, Recorder, Setup, prepared
from harness.plugin.replaying import Replay
from harness.plugin.skips import MISSING
from harness.plugin.text import failure_text, shown_path, title_of
from harness.reporting.terminal import replay_command
from harness.settings import Settings
from harness.trial import check as trial
from harness.trial.commands import Commands, attachments, resolve
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.verdict import FindingKind, Verdict

__all__ = ["Case", "CrashVolume"]

_ANY = "ANY"


class Case:
    """What all crash volumes of one test share: the test, the volume that is mounted now, what is to be freed."""

    def __init__(self, item: pytest.Item, replay: Replay | None) -> None:
        self.item = item
        self.replay = replay
        self.live: LiveVolume | None = None
        self.directory = str(item.path.parent)
        self.reports = options.reports_folder(item.config)
        self.volumes = 0
        self.stack = contextlib.ExitStack()

    def note(self, name: str, value: str | int) -> None:
        self.item.user_properties.append((name, value))

    def close(self) -> None:
        """Take away whatever the test forgot to."""
        self.live = None
        self.stack.close()


class CrashVolume:
    """A volume to record on, with the settings of the test's marker. `settings` is what it is made and judged with."""

    def __init__(self, settings: Settings, case: Case) -> None:
        self.settings = settings
        self._case = case
        self._recording: Recording | None = None
        self._number = 0
        self._judged = 0
        # What a recording holds goes with the test, with this object, or with the next recording: a loop over many
        # volumes does not pile them up.
        self._held = contextlib.ExitStack()
        case.stack.callback(self._held.close)
        weakref.finalize(self, self._held.close).atexit = False

    @door
    def using(self, **changes: object) -> "CrashVolume":
        """Another crash volume, with some settings changed: using(fs="xfs"). Raises Misuse for unknown names."""
        return CrashVolume(options.changed(self.settings, changes), self._case)

    @property
    def recording(self) -> Recording:
        """The finished recording. Raises Misuse while there is none."""
        if self._case.live:
            raise Misuse("the recording is not over", "leave the with-block of record() before you judge it")
        if self._recording is None:
            raise Misuse("nothing was recorded", "first: with crash_volume.record() as volume: …")
        return self._recording

    @door
    def record(self, setup: Setup | None = None) -> Recorder:
        """A context manager: inside it the volume is mounted and every write to it recorded.

        `setup(path)` may put files on the volume before that; they are durable when the recording begins. The last
        recording is the one that is judged. An exception in the block goes on to the test; nothing is kept then.
        """
        return Recorder(lambda: self._start(setup), self._keep)

    @door
    def verify(self, check: Check = None, *, command: str | None = None) -> Report:
        """Every disk that a power cut may leave must satisfy `check`; else CrashFailure, which is the finding.

        `check`: a callable that is given the recovered state (`path`, `promises`) and says no by a false result, an
        AssertionError or pytest.fail; or a shell command, run in the volume's root, that exits non-zero (names of
        files beside the test module are found); or nothing: only mount, kernel log and fsck are asked. UNKNOWN fails
        too. Checks run in forked processes: what they change in memory is not seen here.
        """
        report, title = self._judge(check if command is None else command, Verdict.INTACT)
        if title and report.verdict is not Verdict.INTACT:
            raise CrashFailure(self._text(title, report))
        return report

    @door
    def judge(self, check: Check = None, *, command: str | None = None) -> Report:
        """As verify, but the report is returned whatever the verdict. Raises CheckUnsound if the control fails."""
        report, title = self._judge(check if command is None else command, _ANY)
        if self._case.replay and title and report.verdict is not Verdict.INTACT:
            raise CrashFailure(self._text(title, report))
        return report

    @door
    def convict(
        self,
        check: Check = None,
        *,
        command: str | None = None,
        kind: FindingKind | str | None = None,
        contains: str | None = None,
    ) -> Report:
        """The planted bug must be found: CORRUPTED, by a finding of this kind whose summary has this text.

        In a replay it shows the finding, as verify does.
        """
        wanted = _Wanted(kind, contains)
        report, title = self._judge(check if command is None else command, Verdict.CORRUPTED)
        if self._case.replay:
            if title and report.verdict is not Verdict.INTACT:
                raise CrashFailure(self._text(title, report))
        elif not wanted.met_by(report):
            raise CrashFailure(self._text(f"expected {wanted}, but the verdict is {title}", report))
        return report

    def _start(self, setup: Setup | None) -> LiveVolume:
        __tracebackhide__ = True
        case = self._case
        if case.live:
            raise Misuse("a recording is going on already", "leave its with-block first: one volume at a time")
        require(self.settings.fs)
        self._recording = None
        self._held.close()
        spec, base = prepared(self.settings, setup)
        self._held.callback(base.close)
        case.live = LiveVolume(self.settings, base, spec, case.directory)
        self._held.callback(case.live.free)
        case.volumes += 1
        self._number, self._judged = case.volumes, 0
        return case.live

    def _keep(self, live: LiveVolume | None) -> None:
        self._case.live = None
        if live:
            self._recording = live.finished()

    def _judge(self, check: Check, expected: str) -> tuple[Report, str]:
        """The report and its headline. No headline: a replay of another judgement, so that nothing was judged here."""
        __tracebackhide__ = True
        recording = self.recording
        self._judged += 1
        check = resolve(check, self._case.directory) if isinstance(check, str) else check
        place = f"volume {self._number}, judgement {self._judged} of the test"
        try:
            if self._case.replay:
                return self._replay(self._case.replay, check, place, expected)
            factory = checker_factory(check, self.settings)
            report = trial.judge(recording, self.settings, factory)
            self._save(report, check, place)
        except HarnessError:
            self._properties(None, expected, "nothing was judged")
            raise
        self._properties(report, expected, report.scope)
        if report.interrupted:
            raise KeyboardInterrupt
        return report, title_of(report)

    def _replay(self, replay: Replay, check: Check, place: str, expected: str) -> tuple[Report, str]:
        if not replay.is_of(self.recording.spec, place):
            return replay.elsewhere(), ""
        factory = checker_factory(check, replay.bundle.manifest.settings)
        report = replay.judged(factory)
        self._properties(report, expected, replay.scope)
        title = f"{report.verdict}: {replay.compared(report)}"
        self._case.note("crash_replayed", title)
        return report, title

    def _save(self, report: Report, check: Check, place: str) -> None:
        """Bundles of what was found. Not being able to write them does not change what was found."""
        commands = Commands(check=check) if isinstance(check, str) else Commands()
        placed = self.recording._replace(notes=(*self.recording.notes, place))
        files = attachments([commands.check])
        test = self._case.item.nodeid
        try:
            trial.save_findings(
                report, placed, self.settings, self._case.reports, commands=commands, files=files, test=test
            )
        except OSError as error:
            report.notes.append(f"the bundles could not be saved: {error}")

    def _properties(self, report: Report | None, expected: str, scope: str) -> None:
        """What `harness run` and a JUnit file are told of this judgement."""
        note = self._case.note
        note("crash_verdict", str(report.verdict if report else Verdict.UNKNOWN))
        note("crash_states", report.judged if report else 0)
        note("crash_expected", str(expected))
        note("crash_fs", describe_volume(self.settings))
        note("crash_scope", scope)
        for found in report.found if report else ():
            if found.bundle:
                note("crash_bundle", found.bundle)
                note("crash_replay", replay_command(shown_path(found.bundle)))

    def _text(self, title: str, report: Report) -> str:
        replay = self._case.replay
        if replay and replay.bundle:
            return failure_text(title, report, replay.bundle.recording, replay.bundle.manifest.settings, replay.scope)
        return failure_text(title, report, self.recording, self.settings, report.scope)


class _Wanted:
    """What convict asks for."""

    def __init__(self, kind: FindingKind | str | None, contains: str | None) -> None:
        try:
            self._kind = None if kind is None else FindingKind(kind)
        except ValueError:
            raise Misuse(f"{kind!r} is no kind of finding", "known: " + ", ".join(FindingKind)) from None
        self._contains = contains

    def met_by(self, report: Report) -> bool:
        return any(
            found.finding.verdict is Verdict.CORRUPTED
            and self._kind in (None, found.finding.kind)
            and (self._contains is None or self._contains in found.finding.summary)
            for found in report.found
        )

    def __str__(self) -> str:
        kind = f" by {self._kind}" if self._kind else ""
        text = f" with {self._contains!r} in its summary" if self._contains is not None else ""
        return f"CORRUPTED{kind}{text}"


def describe_volume(settings: Settings) -> str:
    """`ext4`, or `ext4 -o data=journal, mkfs -O ^has_journal`."""
    mount = f" -o {settings.mount_options}" if settings.mount_options else ""
    mkfs = f", mkfs {settings.mkfs_options}" if settings.mkfs_options else ""
    return f"{settings.fs}{mount}{mkfs}"


_met: dict[str, RequirementMissing | None] = {}


def require(fs: str) -> None:
    """Skip the test, with every reason and remedy, where this machine cannot do it. Asked once for a file system.

    Raises Misuse for a file system that the harness does not know.
    """
    __tracebackhide__ = True
    if fs not in _met:
        try:
            requirements.require(fs)
            _met[fs] = None
        except RequirementMissing as error:
            _met[fs] = error
    missing = _met[fs]
    if missing:
        pytest.skip(missing_text(missing))


def missing_text(error: RequirementMissing) -> str:
    """One screen: each thing that is missing, why it is needed, and how to get it."""
    lines = [f"  {missing.what}: {missing.why}\n    remedy: {missing.remedy}" for missing in error.missing]
    return "\n".join([MISSING, *lines])


def open_crash_volume(item: pytest.Item) -> tuple[Case, CrashVolume]:
    """The fixture's beginning. Raises Misuse for settings that make no sense; skips where requirements are missing."""
    settings = options.item_settings(item)
    require(settings.fs)
    path = options.replay_path(item.config)
    case = Case(item, Replay(path) if path else None)
    return case, CrashVolume(settings, case)

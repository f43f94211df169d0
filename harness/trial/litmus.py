"""Litmus tests as trials: record the pattern on a volume, judge every crash state by "the surprise is not there".

Each test is recorded in two environments: *alone*, where nothing is committed after the pattern but by the kernel's own
sync before the unmount; and *beside a neighbour*, which makes the file system commit after each operation. The
neighbour stands for the other programs on a volume and for the file system's own timer (ext4 commits every 5 s, xfs and
btrfs every 30 s): a commit that falls between an operation and the writeback of its data. On ext4 and xfs it changes
the mode of a file of its own and fsyncs it, which commits all metadata and no other file's data. On btrfs, whose fsync
writes one file's log tree, it asks for what the timer does: BTRFS_IOC_START_SYNC starts a transaction commit, which
without the mount option flushoncommit writes out no delayed data (btrfs_start_delalloc_flush in
fs/btrfs/transaction.c). The neighbour is the environment, not part of the pattern, and promises nothing.

Some surprises are races between a commit and data that are on their way, so what was not seen is recorded again.
"""

import enum
import errno
import fcntl
import os
import re
import shlex
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import msgspec

from harness.blocklog.format import JSON
from harness.errors import HarnessError, InternalError, WorkloadFailed
from harness.machine.filesystems import lookup
from harness.machine.image import Image
from harness.oracle.litmus_check import LitmusCheck, is_surprise
from harness.plan.interpreter import run_plan
from harness.plan.litmus import NEIGHBOUR, Litmus
from harness.plan.plan import OUTCOME, START, Outcome, Plan
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.check import judge
from harness.trial.commands import Attachment, Commands
from harness.trial.recorder import prepare, recording_of
from harness.trial.recording import Recording
from harness.trial.report import Found, Report, Signature, signature
from harness.volume import RecordedVolume, VolumeSpec

# linux/btrfs.h: _IOR(0x94, 24, __u64) and _IOW(0x94, 22, __u64).
_BTRFS_IOC_START_SYNC = 0x80089418
_BTRFS_IOC_WAIT_SYNC = 0x40089416
_STATES = {"ext4": 400}
_STATES_ELSEWHERE = 150
"""States judged at most of one recording: mounting xfs and btrfs takes some times as long as mounting ext4."""


class Configuration(NamedTuple):
    """A file system with its mount options."""

    fs: str
    mount_options: str = ""

    @property
    def name(self) -> str:
        return f"{self.fs} {self.mount_options or 'default'}"

    @property
    def settings(self) -> Settings:
        """fsck is off: what is asked is what the files hold."""
        states = _STATES.get(self.fs, _STATES_ELSEWHERE)
        return Settings(fs=self.fs, mount_options=self.mount_options, max_states=states, fsck=False)


CONFIGURATIONS = (
    Configuration("ext4"),
    Configuration("ext4", "data=journal"),
    Configuration("ext4", "data=writeback"),
    Configuration("ext4", "nodelalloc"),
    Configuration("ext4", "noauto_da_alloc"),
    Configuration("xfs"),
    Configuration("btrfs"),
)


def configurations(file_systems: Iterable[str]) -> list[Configuration]:
    """Those of these file systems, or all. Raises Misuse for a file system that the harness does not know."""
    wanted = [lookup(fs).name for fs in file_systems]
    if not wanted:
        return list(CONFIGURATIONS)
    known = {configuration.fs for configuration in CONFIGURATIONS}
    others = [Configuration(fs) for fs in dict.fromkeys(wanted) if fs not in known]
    return [configuration for configuration in CONFIGURATIONS if configuration.fs in wanted] + others


class Answer(enum.StrEnum):
    """What one cell of the table says. UNKNOWN: it could not be judged, so nothing is claimed."""

    OBSERVED = "OBSERVED"
    NOT_FOUND = "NOT_FOUND"
    UNKNOWN = "UNKNOWN"


class Observation(NamedTuple):
    """The crash state of a recording that shows the surprise with the fewest lost writes."""

    recording: Recording
    found: Found


class Cell(msgspec.Struct, kw_only=True):
    """One test on one configuration, with or without the fsync that it lacks."""

    test: Litmus
    configuration: Configuration
    repaired: bool
    judged: int = 0
    observed: int = 0
    """How many of these states show the surprise."""
    complete: bool = True
    """Whether these are all states that the model allows for the recordings."""
    error: str = ""
    seconds: float = 0.0
    surprises: dict[Signature, str] = {}
    """What was found, in one line for each distinct kind of it."""
    observation: Observation | None = None
    bundle: str = ""

    @property
    def answer(self) -> Answer:
        if self.error or not self.judged:
            return Answer.UNKNOWN
        return Answer.OBSERVED if self.observed else Answer.NOT_FOUND


class Bed:
    """One configuration's fresh volume, on which each test is recorded anew."""

    def __init__(self, configuration: Configuration, settings: Settings | None = None, *, rounds: int = 1) -> None:
        """`rounds`: record so often in each environment until the surprise is seen.

        Raises RequirementMissing where the file system is not to be had, Misuse for options it does not take.
        """
        self.configuration = configuration
        self._rounds = rounds
        self.settings = settings or configuration.settings
        self._spec: VolumeSpec
        self._base: Image
        self._spec, self._base = prepare(self.settings)

    def run(self, test: Litmus, *, repaired: bool = False) -> Cell:
        """Record and judge. What keeps it from an answer stands in the cell's `error`; Ctrl-C goes through."""
        cell = Cell(test=test, configuration=self.configuration, repaired=repaired)
        started = time.monotonic()
        try:
            for _ in range(self._rounds):
                for recording in self.recordings(test, repaired=repaired):
                    self._judge(cell, recording)
                if cell.observed or cell.error:
                    break
        except HarnessError as error:
            cell.error = error.cause
        except OSError as error:  # the neighbour's: the volume is full, or its engine is gone
            cell.error = f"the pattern could not be recorded: {error}"
        cell.seconds = time.monotonic() - started
        return cell

    def recordings(self, test: Litmus, *, repaired: bool = False) -> Iterator[Recording]:
        """The pattern alone and beside a neighbour. Raises what recording a volume raises."""
        for neighbour in (False, True):
            yield self._record(test, repaired=repaired, neighbour=neighbour)

    def _record(self, test: Litmus, *, repaired: bool, neighbour: bool) -> Recording:
        plan = test.plan(repaired=repaired)
        with RecordedVolume(self._spec, self._base, log_max=self.settings.log_max) as volume:
            with _Environment(volume, neighbour=neighbour) as environment:
                outcomes = run_plan(plan, volume.path, environment.mark)
            volume.finish()
        if volume.error:
            raise volume.error
        _expect_success(plan, outcomes)
        recording = recording_of(volume, self._spec, self._base)
        begin = recording.log.find(START)
        if begin is None:
            raise InternalError("the recording has no mark where the pattern's setup is done")
        notes = (*recording.notes, _note(test, repaired=repaired, neighbour=neighbour))
        return recording._replace(begin=begin, notes=notes)

    def _judge(self, cell: Cell, recording: Recording) -> None:
        check = LitmusCheck(cell.test, repaired=cell.repaired)
        report = judge(recording, self.settings, lambda _workspace: check)
        if report.interrupted:
            raise KeyboardInterrupt
        cell.judged += report.judged
        cell.complete &= report.complete
        cell.error = cell.error or _trouble(report)
        for found in report.found:
            if is_surprise(found.finding):
                cell.observed += found.states
                cell.surprises.setdefault(signature(found.finding), found.finding.summary)
                cell.observation = _better(cell.observation, Observation(recording, found))

    def close(self) -> None:
        """Free the volume's memory. What came of it can no longer be saved then."""
        self._base.close()


def _better(old: Observation | None, new: Observation) -> Observation:
    """That with fewer lost writes; of equals the later one: what is seen beside the neighbour is rarely a race."""
    return old if old and old.found.lost < new.found.lost else new


def save(cell: Cell, settings: Settings, reports: str) -> None:
    """A bundle of the cell's observation, if it has one; the test goes along, so it replays on any machine.

    OSError as writing a file raises it.
    """
    if cell.observation is None:
        return
    recording, found = cell.observation
    place = f"/litmus/{cell.test.id}.json"
    content = msgspec.json.format(msgspec.json.encode(cell.test))
    packed = bundles.pack(
        recording,
        settings,
        state=found.state,
        finding=found.finding,
        commands=Commands(check=_verify(place, repaired=cell.repaired)),
        files=[Attachment(place, content)],
    )
    words = [*re.findall(r"\w+", cell.configuration.name), *(["repaired"] if cell.repaired else [])]
    name = f"litmus-{cell.test.id.lower()}-{'-'.join(words)}{bundles.SUFFIX}"
    cell.bundle = bundles.save(os.path.join(reports, name), packed)


def _verify(place: str, *, repaired: bool) -> str:
    """The check of a bundle. What is neither yes (0) nor no (1) becomes "could not be run", which is UNKNOWN.

    PATH: where the harness was called by its full path, the shell would not find it.
    """
    here = shlex.quote(os.path.dirname(sys.executable))
    words = f"harness litmus --verify {place}" + (" --repaired" if repaired else "")
    return f'PATH="$PATH":{here}; {words}; s=$?; [ $s -le 1 ] || s=126; exit $s'


def _trouble(report: Report) -> str:
    """What in a report is neither the surprise nor its absence."""
    for found in report.found:
        if not is_surprise(found.finding) or not _certain(found):
            return f"{found.finding.kind}: {found.finding.summary}"
    return "" if report.judged == report.selected > 0 else "not all states were judged"


def _certain(found: Found) -> bool:
    return not found.reproduced.startswith("0/")


def _expect_success(plan: Plan, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if not outcome.ok:
            why = f"{plan.all[outcome.n]}: {os.strerror(outcome.errno)}"
            raise WorkloadFailed(f"an operation of the pattern failed: {why}", "correct the test's operations")


def _note(test: Litmus, *, repaired: bool, neighbour: bool) -> str:
    calls = "; ".join(map(str, test.operations(repaired=repaired)))
    where = "beside a neighbour that makes the file system commit after each call" if neighbour else "alone"
    return f"litmus test {test.id}{' repaired' if repaired else ''}, {where}: {calls}"


class _Environment:
    """Passes a plan's marks on to the log; once the plan's setup is done, the neighbour has its turn behind each call.

    A context manager: the neighbour holds its file open meanwhile.
    """

    def __init__(self, volume: RecordedVolume, *, neighbour: bool) -> None:
        self._volume = volume
        self._wanted = neighbour
        self._neighbour: Neighbour | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._neighbour:
            self._neighbour.close()

    def mark(self, text: bytes) -> None:
        # Before the mark, which waits for the engine: meanwhile the data would be written that are still on their way.
        if self._neighbour and text.startswith(OUTCOME):
            self._neighbour.make_commit()
        self._volume.mark(text)
        # After a promise: it must not rest on what the neighbour made durable.
        if self._neighbour and text.startswith(JSON):
            self._neighbour.make_commit()
        if text == START and self._wanted:
            self._neighbour = Neighbour(self._volume.path, self._volume.spec.fs)


class Neighbour:
    """Another program on the volume: it makes the file system commit, and writes out no other file's data."""

    def __init__(self, root: str, fs: str) -> None:
        """Its file is there: Litmus.plan makes it in the setup."""
        self._commit = self._of_btrfs if fs == "btrfs" else self._by_fsync
        self._fd = os.open(os.path.join(root, NEIGHBOUR), os.O_RDONLY | os.O_CLOEXEC)
        self._mode = 0o600

    def make_commit(self) -> None:
        """All metadata of the file system as they are now become durable."""
        self._commit()

    def close(self) -> None:
        os.close(self._fd)

    def _by_fsync(self) -> None:
        # The inode must change, or fsync would find nothing to commit. It has no data of its own to wait for.
        self._mode ^= stat.S_IXUSR
        os.fchmod(self._fd, self._mode)
        os.fsync(self._fd)

    def _of_btrfs(self) -> None:
        started = bytearray(8)
        fcntl.ioctl(self._fd, _BTRFS_IOC_START_SYNC, started)
        try:
            fcntl.ioctl(self._fd, _BTRFS_IOC_WAIT_SYNC, bytes(started))
        except OSError as error:
            if error.errno != errno.EINVAL:  # that commit is done, and forgotten already
                raise

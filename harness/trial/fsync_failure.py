"""What file systems do when one block write of an fsync fails: the trials of `harness fsync-failure`.

Each trial runs on a fresh volume. Where the workload's new block goes is learned from a run without a fault;
the same calls on the same image put it there again, so the fault is addressed by place, and a trial whose fault was not
hit is UNKNOWN. That block of the free space is filled with `stale` beforehand: what the medium held before is told from
zeros.
"""

import enum
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from harness.blocklog import BlockLog, Kind
from harness.closing import Closing
from harness.engine.rules import Rule
from harness.errors import HarnessError, InternalError, Misuse, TrialUnknown
from harness.extents import Extent
from harness.machine.filesystems import lookup
from harness.machine.process import describe_status
from harness.machine.sandbox import answer_of
from harness.oracle.fsync_check import BLOCK, FILE, fill
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.commands import Commands
from harness.trial.fsync_blocks import Places, places
from harness.trial.fsync_live import OK, OLD_TIME, PAGES, Observed, Order, observe
from harness.trial.recording import Recording, whole
from harness.volume import VolumeSpec, make_base, mounted_plain

SECONDS = 30.0
"""What one trial may take before it counts as hung."""
_SILENT_SECONDS = 6.0
_AGAIN_SECONDS = 0.5


class Column(NamedTuple):
    """A file system as it is made and mounted."""

    fs: str
    mount_options: str = ""

    @property
    def name(self) -> str:
        return f"{self.fs} {self.mount_options}".strip()

    @property
    def settings(self) -> Settings:
        return Settings(fs=self.fs, mount_options=self.mount_options, fsck=False)


COLUMNS = (Column("ext4", "data=ordered"), Column("ext4", "data=journal"), Column("xfs"), Column("btrfs"))


def columns(file_systems: Iterable[str]) -> list[Column]:
    """Those of these file systems, or all. Raises Misuse for one that is not among them."""
    wanted = [lookup(fs).name for fs in file_systems]
    known = {column.fs for column in COLUMNS}
    for fs in wanted:
        if fs not in known:
            raise Misuse(f"nothing is published about {fs} after a failed fsync", "choose " + ", ".join(sorted(known)))
    return [column for column in COLUMNS if not wanted or column.fs in wanted]


class Workload(enum.StrEnum):
    """The two workloads of the paper."""

    UPDATE = "update"
    APPEND = "append"

    @property
    def at(self) -> int:
        """Where in the file the new block goes."""
        return BLOCK if self is Workload.UPDATE else PAGES * BLOCK


class Target(enum.StrEnum):
    """Which write fails. NONE: no write, the control."""

    NONE = "none"
    DATA = "data"
    JOURNAL = "journal"
    METADATA = "metadata"
    SUPERBLOCK = "superblock"


class Case(NamedTuple):
    """One trial. `lasting`: the write fails whenever it is tried, not once."""

    column: Column
    workload: Workload
    target: Target = Target.NONE
    lasting: bool = False

    @property
    def name(self) -> str:
        """`ext4 data=ordered, append: a data block fails once`."""
        how = "no fault"
        if self.target is not Target.NONE:
            how = f"a {self.target} block fails {'for ever' if self.lasting else 'once'}"
        return f"{self.column.name}, {self.workload}: {how}"

    @property
    def file_name(self) -> str:
        """`fsync-ext4-data-ordered-append-data-once.crash`."""
        how = [] if self.target is Target.NONE else ["lasting" if self.lasting else "once"]
        words = [*re.findall(r"\w+", self.column.name), self.workload, self.target, *how]
        return f"fsync-{'-'.join(words)}{bundles.SUFFIX}"


def cases(column: Column) -> list[Case]:
    """The controls of a column, then its trials."""
    targets = [Target.DATA, Target.JOURNAL, Target.METADATA]
    if column.fs == "btrfs":  # its fsync writes the superblock too (btrfs_sync_log in fs/btrfs/tree-log.c)
        targets.append(Target.SUPERBLOCK)
    found = [Case(column, workload) for workload in Workload]
    return found + [
        Case(column, workload, target, lasting)
        for target in targets
        for workload in Workload
        for lasting in (False, True)
    ]


class Cell(msgspec.Struct, kw_only=True):
    """A trial and what it showed. With an `error` it showed nothing: UNKNOWN."""

    case: Case
    observed: Observed | None = None
    error: str = ""
    seconds: float = 0.0
    bundle: str = ""


class Bed(Closing):
    """One column's volume, fresh for each trial."""

    def __init__(self, column: Column) -> None:
        """Raises RequirementMissing where the file system or its tools are not to be had."""
        self.column = column
        self.spec = VolumeSpec.of(column.settings)
        self._base = make_base(self.spec)
        with mounted_plain(self._base, self.spec) as root:
            inode = _make_file(f"{root}/{FILE}")
        self._places = places(self.spec, self._base, inode)
        self._data: dict[Workload, Extent] = {}
        self._patient = True

    def run(self, case: Case) -> Cell:
        """One trial. What keeps it from an answer stands in the cell's `error`; Ctrl-C goes through."""
        cell = Cell(case=case)
        started = time.monotonic()
        try:
            cell.observed = self._observe(case, self._rule(case))
            if case.target is Target.DATA and self._patient:
                cell.observed = self._until_logged(case, cell.observed)
            cell.error = trouble(case, cell.observed)
        except HarnessError as error:
            cell.error = error.cause
        cell.seconds = time.monotonic() - started
        return cell

    def close(self) -> None:
        """Free the volume's memory."""
        self._base.close()

    def _until_logged(self, case: Case, observed: Observed) -> Observed:
        """Once a column: the same trial again, until the kernel logs something of it, or clearly does not.

        It prints at most 10 such lines in 5 seconds, of all devices together (printk_ratelimited; ratelimit_types.h).
        """
        self._patient = False
        give_up_at = time.monotonic() + _SILENT_SECONDS
        while observed.hits and observed.log_read and not observed.logged and time.monotonic() < give_up_at:
            time.sleep(_AGAIN_SECONDS)
            observed = self._observe(case, self._rule(case))
        return observed

    def _rule(self, case: Case) -> Rule | None:
        data = self._scouted(case.workload)
        extents = {
            Target.DATA: (data,),
            Target.JOURNAL: self._places.journal,
            Target.METADATA: self._places.metadata,
            Target.SUPERBLOCK: self._places.superblock,
        }
        if case.target is Target.NONE:
            return None
        if not extents[case.target]:
            raise Misuse(
                f"fsync writes no {case.target} of its own on {case.column.fs}", "choose another block to fail"
            )
        return Rule(action="error", on="write", extents=extents[case.target], count=0 if case.lasting else 1)

    def _scouted(self, workload: Workload) -> Extent:
        """Where the new block goes; on the first call that is found out, and the block filled with `stale`."""
        if workload not in self._data:
            scout = self._observe(Case(self.column, workload), None)
            found = _data_block(BlockLog.parse(scout.log), self._places)
            self._data[workload] = found
            if self._base.read(*found) != fill("old"):
                os.pwrite(self._base.fd, fill("stale"), found[0])
        return self._data[workload]

    def _observe(self, case: Case, rule: Rule | None) -> Observed:
        """Raises TrialUnknown for a trial that hangs or dies, and what the trial itself ended with."""
        of_commit = self.column.fs == "btrfs" and case.target is Target.METADATA
        never = case.target is Target.METADATA and case.lasting
        order = Order(
            self.spec,
            self._base,
            at=case.workload.at,
            appends=case.workload is Workload.APPEND,
            rule=rule,
            arm="settle" if of_commit else "fsync 1",
            push=self.column.fs == "xfs" and not never,
        )
        return _in_a_process(lambda: observe(order))

    def save(self, cell: Cell, reports: str) -> None:
        """A bundle of the cell: the disk at the end, all of the log on the medium. The log is let go of.

        OSError as writing a file raises it.
        """
        if cell.observed is None:
            return
        log = BlockLog.parse(cell.observed.log)
        recording = Recording(
            self.spec,
            self._base,
            log,
            begin=0,
            end=len(log.events),
            orderly=cell.observed.umount == OK,
            notes=(cell.case.name,),
        )
        settings = self.column.settings
        space = recording.space(settings)
        packed = bundles.pack(
            recording,
            settings,
            state=space.named(whole(space, recording)),
            finding=next(iter(cell.observed.findings), None),
            commands=Commands(check=_verify()),
        )
        cell.bundle = bundles.save(os.path.join(reports, cell.case.file_name), packed)
        cell.observed.log = b""


def _make_file(path: str) -> int:
    """The file before the trial, written long ago. Returns its inode's number."""
    with open(path, "wb") as file:
        file.write(fill("old") * PAGES)
    os.utime(path, (OLD_TIME, OLD_TIME))
    return os.stat(path).st_ino


def _data_block(log: BlockLog, places: Places) -> Extent:
    """The block of the device, outside the journal, to which the file's new block was written."""
    for event in log.events:
        if event.kind is Kind.WRITE:
            found = bytes(log.data(event)).find(fill("new"))
            at = event.offset + found
            if found >= 0 and not any(start <= at < start + length for start, length in places.journal):
                return at, BLOCK
    raise InternalError("with no fault, the new block was never written")


def trouble(case: Case, observed: Observed) -> str:
    """Why nothing may be concluded from a trial. The control must show a file system at its best."""
    if case.target is not Target.NONE:
        return "" if observed.hits else "the fault was never hit"
    well = {*observed.fsyncs, observed.sync, observed.writable, observed.readable, observed.umount} == {OK}
    if not well or observed.findings or {observed.final.block, observed.memory} != {"new"}:
        return "without a fault, fsync failed or the block is not there"
    return ""


def _in_a_process(run: Callable[[], Observed]) -> Observed:
    def life() -> bytes:
        try:
            return msgspec.msgpack.encode(run())
        except (HarnessError, OSError) as error:
            return msgspec.msgpack.encode(str(error))

    told, status = answer_of(life, SECONDS, name="harness-fsync")
    if not told:
        how = f"did not end within {SECONDS:.0f} s" if status is None else f"died: {describe_status(status)}"
        raise TrialUnknown(f"the process of the trial {how}", "run it again")
    found = msgspec.msgpack.decode(told, type=Observed | str)
    if isinstance(found, str):
        raise TrialUnknown(found, "run it again")
    return found


def _verify() -> str:
    """The check of a bundle. PATH: where the harness was called by its full path, the shell would not find it."""
    here = shlex.quote(os.path.dirname(sys.executable))
    return f'PATH="$PATH":{here}; harness fsync-failure --verify'

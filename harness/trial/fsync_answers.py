"""The questions of `harness fsync-failure`: what is published for Linux 5.2, what the trials here answer, and why.

Published: A. Rebello, Y. Patel, R. Alagappan, A. C. Arpaci-Dusseau, R. H. Arpaci-Dusseau: Can Applications Recover from
fsync Failures? USENIX ATC 2020, section 3 and its table. Explanations name the kernel's source and commit.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from harness.oracle.fsync_check import BLOCK
from harness.trial.fsync_failure import Case, Cell, Column, Target, cases
from harness.trial.fsync_live import OK, OLD_TIME, PAGES, Observed
from harness.verdict import FindingKind

UNKNOWN = "UNKNOWN"
_SHUT_DOWN = re.compile(r"[Ss]hut(?:ting)? down")

Answer = Callable[[Sequence[Cell]], str]


class Question(NamedTuple):
    """One row of the table. `published` is by the column's name; empty: the paper's table does not ask this."""

    key: str
    text: str
    answer: Answer
    targets: tuple[Target, ...] = (Target.DATA,)
    """Whose trials answer it; none: all."""
    published: tuple[str, str, str, str] | tuple[()] = ()
    either: bool = False
    """Those in which the write fails once and those in which it fails for ever answer it together."""

    def published_for(self, column: Column) -> str:
        """The paper's word for a column of ours."""
        order = ("ext4 data=ordered", "ext4 data=journal", "xfs", "btrfs")
        return self.published[order.index(column.name)] if self.published else ""


class Answered(NamedTuple):
    """What stands in the table for one question and column."""

    question: Question
    column: Column
    measured: str
    lasting: str
    """The same where the write fails for ever."""
    published: str
    explanation: str
    """Why the two differ; of a difference that is not known, that."""

    @property
    def differs(self) -> bool:
        return bool(self.published) and self.measured not in (self.published, UNKNOWN)


def answered(question: Question, column: Column, cells: Iterable[Cell]) -> Answered:
    """UNKNOWN where a trial on which the answer rests, or a control, showed nothing or was not run."""
    done = {cell.case: cell for cell in cells}
    measured, lasting = (_asked(question, column, done, lasting=each) for each in (False, True))
    published = question.published_for(column)
    found = Answered(question, column, measured, lasting, published, "")
    if not found.differs:
        return found
    return found._replace(explanation=_EXPLANATIONS.get((question.key, column.name, measured), _NOT_KNOWN))


def _asked(question: Question, column: Column, done: Mapping[Case, Cell], *, lasting: bool) -> str:
    controls = [case for case in cases(column) if case.target is Target.NONE]
    asked = [
        case
        for case in cases(column)
        if case.target is not Target.NONE
        and (question.either or case.lasting == lasting)
        and (not question.targets or case.target in question.targets)
    ]
    if any(case not in done or done[case].error for case in (*controls, *asked)):
        return UNKNOWN
    return question.answer([done[case] for case in asked])


def _which(test: Callable[[Observed], object]) -> Answer:
    """The targets for which it is so in some trial: `data, journal`."""

    def answer(cells: Sequence[Cell]) -> str:
        found = {cell.case.target for cell in cells if cell.observed and test(cell.observed)}
        return ", ".join(target for target in Target if target in found) or "none"

    return answer


def _each(word: Callable[[Cell, Observed], str]) -> Answer:
    """The word if it is the same for both workloads, else both: `update: old, append: zeros`."""

    def answer(cells: Sequence[Cell]) -> str:
        words = {cell.case.workload: word(cell, cell.observed) for cell in cells if cell.observed}
        if len(set(words.values())) == 1:
            return next(iter(words.values()))
        return ", ".join(f"{workload}: {each}" for workload, each in words.items())

    return answer


def _fsync_failed(observed: Observed) -> bool:
    return any(result != OK for result in observed.fsyncs)


def _metadata(cell: Cell, observed: Observed) -> str:
    """Appended: the size, or an extent for the block. Updated: the time of the last write."""
    settled = observed.settled
    if cell.case.workload.at < PAGES * BLOCK:
        kept = settled.mtime != OLD_TIME
    else:
        kept = settled.size > cell.case.workload.at or settled.extent != "hole"
    return "yes" if kept else "no"


def _page(_: Cell, observed: Observed) -> str:
    return "dirty" if observed.rewritten else "clean"


def _memory(_: Cell, observed: Observed) -> str:
    return "yes" if observed.memory == observed.final.block else "no"


def _reported(_: Cell, observed: Observed) -> str:
    """By the fsync during which the write failed, or by one after it."""
    failed = [f"fsync {number}" for number, result in enumerate(observed.fsyncs, 1) if result != OK]
    if not failed:
        return "no fsync"
    return "this fsync" if failed[0] == observed.struck else "the next fsync"


def _logged(cells: Sequence[Cell]) -> str:
    """The kernel limits how often it prints such lines, over all devices: that there is none shows nothing."""
    return "yes" if any(cell.observed and cell.observed.logged for cell in cells) else UNKNOWN


def unavailable(observed: Observed) -> str:
    """How the file system is unavailable at the end; empty if it is not."""
    if observed.writable_again == OK:
        return "shutdown (at unmount)" if any(map(_SHUT_DOWN.search, observed.kernel_late)) else ""
    if observed.readable != OK:
        return "shutdown"
    options = observed.options.split(",")
    return "remount read-only" if {"ro", "emergency_ro"} & set(options) else f"writes get {observed.writable_again}"


def _how(cells: Sequence[Cell]) -> str:
    found = {unavailable(cell.observed).partition(" (")[0]: None for cell in cells if cell.observed}
    return ", ".join(filter(None, found)) or "not at all"


def _fsck(_: Cell, observed: Observed) -> str:
    if observed.final.block == "new":
        return "nothing lost"
    if observed.fsck == "unknown":
        return UNKNOWN
    return "yes" if observed.fsck == "complains" or observed.repaired == "new" else "no"


def _lied(observed: Observed) -> bool:
    return any(finding.kind is FindingKind.FALSE_SUCCESS for finding in observed.findings)


QUESTIONS = (
    Question(
        "fails",
        "block failures that make fsync fail",
        _which(_fsync_failed),
        (),
        ("data, journal", "data, journal", "data, journal", "data, journal"),
    ),
    Question(
        "metadata", "metadata persisted although data failed", _each(_metadata), published=("yes", "yes", "yes", "no")
    ),
    Question("page", "page after the failure", _each(_page), published=("clean", "clean", "clean", "clean")),
    Question("memory", "memory matches disk", _each(_memory), published=("no", "no", "no", "yes")),
    Question(
        "reported",
        "error reported by",
        _each(_reported),
        published=("this fsync", "the next fsync", "this fsync", "this fsync"),
    ),
    Question("logged", "in the kernel log", _logged, published=("yes", "yes", "yes", "yes"), either=True),
    Question(
        "unavailable",
        "block failures that make the file system unavailable",
        _which(unavailable),
        (),
        ("journal", "journal", "journal, metadata", "journal, metadata"),
    ),
    Question(
        "how",
        "how it is unavailable",
        _how,
        (),
        ("remount read-only", "remount read-only", "shutdown", "remount read-only"),
    ),
    Question("fsck", "fsck helps", _each(_fsck), published=("no", "no", "no", "yes")),
    Question("lied", "a later fsync succeeds and the block is lost, after a failure of", _which(_lied), ()),
    Question("cut", "the block after a power cut, all settled", _each(lambda _, observed: observed.settled.block)),
    Question("block", "the block after an unmount", _each(lambda _, observed: observed.final.block)),
    Question("direct", "the block as O_DIRECT reads it before the unmount", _each(lambda _, observed: observed.direct)),
    Question("syncfs", "syncfs, on a descriptor opened after the failure", _each(lambda _, observed: observed.sync)),
)

_NOT_KNOWN = "Not explained: docs/fsync-failure.md knows this difference of no kernel."

_EXT4_METADATA = """\
jbd2 watches for errors of the writes that put metadata in their places: the next change of metadata aborts the \
journal (jbd2_check_fs_dev_write_error, asked in jbd2_journal_get_write_access, fs/jbd2/transaction.c; since Linux \
5.9 by commit bc71726c7257, then in fs/ext4). On 5.2 nobody looked."""

_EXT4_JOURNAL_NEXT = """\
Since Linux 6.4 fsync also writes pages of data=journal to their places once they are in the journal (commits \
1f1a55f0bf06 and e360c6ed7274; ext4_sync_file, fs/ext4/fsync.c), so the failed write is its own. On 5.2 it returned \
when the journal had them; the write in place came, and failed, later."""

_BTRFS_LOG_TREE = """\
A log tree block that cannot be written makes fsync commit the whole transaction instead (btrfs_sync_log sets \
full_commit, fs/btrfs/tree-log.c; btrfs_sync_file then commits, fs/btrfs/file.c), which succeeds if the fault struck \
once. For the superblock, which fsync writes too, there is no such way out; nor for a log tree whose writes fail for \
ever."""

_BTRFS_MEMORY = """\
Since Linux 6.6 a page that could not be written stays up to date (commit b595d2599632, "btrfs: don't clear uptodate \
on write errors"): reads show the new block until it is evicted. On 5.2 the next read fetched the old one from the \
disk."""

_BTRFS_FSCK = """\
btrfs check finds nothing, here with --check-data-csum: the trees never refer to the block that failed, so nothing \
in them is inconsistent. The file has a hole, which the default format records by the absence of an extent \
(no-holes, since btrfs-progs 5.15), or ends before the block."""

_XFS_METADATA = """\
A write of metadata that fails is tried again at once, and then for ever (xfs_buf_ioend_handle_error, \
fs/xfs/xfs_buf.c; /sys/fs/xfs/*/error), so one that fails once does no harm. One that fails for ever shuts the file \
system down at unmount (fail_at_unmount)."""

_EXPLANATIONS = {
    ("fails", "ext4 data=ordered", "data, journal, metadata"): _EXT4_METADATA,
    ("fails", "ext4 data=journal", "data, journal, metadata"): _EXT4_METADATA,
    ("unavailable", "ext4 data=ordered", "journal, metadata"): _EXT4_METADATA,
    ("unavailable", "ext4 data=journal", "journal, metadata"): _EXT4_METADATA,
    ("reported", "ext4 data=journal", "this fsync"): _EXT4_JOURNAL_NEXT,
    ("unavailable", "xfs", "journal"): _XFS_METADATA,
    ("fails", "btrfs", "data, superblock"): _BTRFS_LOG_TREE,
    ("unavailable", "btrfs", "metadata, superblock"): _BTRFS_LOG_TREE,
    ("memory", "btrfs", "no"): _BTRFS_MEMORY,
    ("fsck", "btrfs", "no"): _BTRFS_FSCK,
}
"""By question, column and what was measured: another answer is not explained by the same words."""

"""After a failed fsync: the answers drawn from the trials, and the page. No volume is touched."""

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from harness.blocklog import BlockLog, LogWriter
from harness.oracle.fsync_check import BLOCK, fill
from harness.reporting.fsync_failure import FsyncPage, as_json, exit_code
from harness.trial.fsync_answers import QUESTIONS, UNKNOWN, Answered, answered
from harness.trial.fsync_failure import COLUMNS, Case, Cell, Column, Target, Workload, cases, trouble
from harness.trial.fsync_live import OLD_TIME, Look, Observed, read_log
from harness.verdict import ExitCode, Finding, FindingKind

ORDERED, _, _, BTRFS = COLUMNS
AT = 3 * BLOCK


def cell(case: Case, **shown: Any) -> Cell:
    """A trial as it may be, without a volume."""
    told = Observed(fsyncs=["ok"] * 3, writable="ok", writable_again="ok", readable="ok", umount="ok", hits=1)
    return Cell(case=case, observed=msgspec.structs.replace(told, **shown))


def table(column: Column = ORDERED, **shown: Any) -> list[Cell]:
    return [cell(case, **(shown if case.target is not Target.NONE else {})) for case in cases(column)]


def answer(key: str, cells: list[Cell], column: Column = ORDERED) -> Answered:
    return answered(next(question for question in QUESTIONS if question.key == key), column, cells)


LINE = "EXT4-fs warning (device loop0): ext4_end_bio:368: I/O error 10 writing to inode 12 starting block 2066)"
FALSE = Finding(kind=FindingKind.FALSE_SUCCESS, summary="FALSE_SUCCESS")
OTHER = Finding(kind=FindingKind.META, summary="mounted with errors")


@pytest.mark.parametrize(
    ("key", "shown", "told"),
    [
        ("fails", {}, "none"),
        ("fails", {"fsyncs": ["ok", "EIO", "ok"]}, "data, journal, metadata"),
        ("metadata", {"settled": Look("old", AT, OLD_TIME, "hole")}, "no"),
        ("metadata", {"settled": Look("old", AT, OLD_TIME + 1, "unwritten")}, "yes"),
        ("metadata", {"settled": Look("old", AT, OLD_TIME + 1, "hole")}, "update: yes, append: no"),
        ("page", {}, "clean"),
        ("page", {"rewritten": True}, "dirty"),
        ("memory", {"memory": "new", "final": Look("old")}, "no"),
        ("memory", {"memory": "old", "final": Look("old")}, "yes"),
        ("reported", {"struck": "fsync 1"}, "no fsync"),
        ("reported", {"struck": "fsync 1", "fsyncs": ["EIO", "ok", "ok"]}, "this fsync"),
        ("reported", {"struck": "settle", "fsyncs": ["ok", "ok", "EIO"]}, "the next fsync"),
        ("logged", {"kernel": ["EXT4-fs (loop0): mounted filesystem"]}, UNKNOWN),
        ("logged", {"kernel": [LINE]}, "yes"),
        ("unavailable", {"writable": "EIO"}, "none"),
        ("unavailable", {"writable_again": "EROFS"}, "data, journal, metadata"),
        ("how", {"writable_again": "EROFS", "options": "rw,emergency_ro"}, "remount read-only"),
        ("how", {"writable_again": "EIO", "options": "ro,ssd"}, "remount read-only"),
        ("how", {"writable_again": "EIO", "options": "rw", "readable": "EIO"}, "shutdown"),
        ("how", {"writable_again": "ENOSPC", "options": "rw,errors=remount-ro"}, "writes get ENOSPC"),
        ("how", {"kernel_late": ["XFS (loop0): Metadata I/O Error.  Shutting down filesystem."]}, "shutdown"),
        ("how", {"kernel_late": ["XFS (loop0): Unmounting Filesystem"]}, "not at all"),
        ("fsck", {"final": Look("new")}, "nothing lost"),
        ("fsck", {"final": Look("old"), "fsck": "clean", "repaired": "old"}, "no"),
        ("fsck", {"final": Look("old"), "fsck": "clean", "repaired": "new"}, "yes"),
        ("fsck", {"final": Look("old"), "fsck": "complains", "repaired": "old"}, "yes"),
        ("fsck", {"final": Look("old"), "fsck": "unknown", "repaired": "old"}, UNKNOWN),
        ("lied", {"findings": [OTHER]}, "none"),
        ("lied", {"findings": [FALSE]}, "data, journal, metadata"),
    ],
)
def test_answers_follow_from_what_was_observed(key: str, shown: dict[str, Any], told: str) -> None:
    assert answer(key, table(**shown)).measured == told


def test_one_trial_that_showed_nothing_makes_its_answers_unknown() -> None:
    cells = table()
    journal = next(each for each in cells if each.case.target is Target.JOURNAL and not each.case.lasting)
    journal.error = "the fault was never hit"
    assert answer("fails", cells).measured == UNKNOWN and answer("fails", cells).lasting == "none"
    assert answer("page", cells).measured == "clean"
    assert exit_code(cells) is ExitCode.UNKNOWN


def test_what_was_not_run_is_not_answered() -> None:
    """Ctrl-C in the middle of a column."""
    cells = table()[:4]
    assert answer("fails", cells).measured == answer("page", cells).measured == UNKNOWN


def test_without_a_control_nothing_is_known() -> None:
    cells = table()
    cells[0].error = "without a fault, fsync failed or the block is not there"
    assert {answered(question, ORDERED, cells).measured for question in QUESTIONS} == {UNKNOWN}
    assert exit_code(cells) is exit_code([]) is ExitCode.UNKNOWN


def test_a_difference_that_nobody_knows_is_not_explained_away() -> None:
    known = answer("memory", table(BTRFS, memory="new", final=Look("old")), BTRFS)
    unknown = answer("page", table(rewritten=True))
    assert known.differs and "b595d2599632" in known.explanation
    assert unknown.differs and unknown.explanation.startswith("Not explained")
    assert not answer("page", table()).differs and not answer("page", table()).explanation


def test_a_fault_that_was_not_hit_and_a_control_that_fails_are_told() -> None:
    control, data = Case(ORDERED, Workload.UPDATE), Case(ORDERED, Workload.UPDATE, Target.DATA)
    good = {"sync": "ok", "memory": "new", "final": Look("new")}
    assert "never hit" in trouble(data, Observed())
    assert not trouble(data, Observed(hits=1))
    assert not trouble(control, cell(control, **good).observed or Observed())
    for spoiled in (
        {"fsyncs": ["ok", "ok", "EIO"]},
        {"final": Look("old")},
        {"findings": [FALSE]},
        {"umount": "EBUSY"},
    ):
        assert trouble(control, cell(control, **(good | spoiled)).observed or Observed())


@pytest.mark.parametrize(
    ("after", "rewritten"),
    [
        ([b"step: fsync 2", b"step: fsync 3", fill("next")], False),
        ([b"step: fsync 2", fill("old") + fill("new"), b"step: fsync 3"], True),
        ([b"step: fsync 2", b"step: fsync 3", fill("new")], True),
        ([b"step: fsync 2", b"fault: error", b"step: fsync 3"], True),
        ([b"step: fsync 2", b"step: fsync 3", b"fault: error"], False),
    ],
    ids=["clean", "by-the-second", "by-the-third", "tried-again", "another-block"],
)
def test_a_page_that_is_still_dirty_would_be_seen(after: list[bytes], rewritten: bool) -> None:
    """On this kernel none is: the log of one that would be."""
    memory = bytearray(1 << 17)
    log = LogWriter(memory)
    for each in [b"step: fsync 1", fill("new"), b"fault: error", *after]:
        if len(each) >= BLOCK:
            log.write(0, each)
        else:
            log.mark(each)
    shown = Observed()
    read_log(BlockLog.parse(memory), shown)
    assert shown.rewritten is rewritten and shown.struck == "fsync 1"


def page(cells: list[Cell], *, brief: bool = False) -> str:
    out = io.StringIO()
    FsyncPage(Console(file=out, width=140), brief=brief).show(cells, 61.0)
    return out.getvalue()


def test_the_page_can_be_read_in_140_columns() -> None:
    worst = {"final": Look("absent"), "direct": "zeros", "writable_again": "EROFS", "options": "ro", "kernel": [LINE]}
    cells = [each for column in COLUMNS for each in table(column, fsyncs=["EROFS"] * 3, **worst)]
    for each in cells:
        each.bundle = f"reports/{each.case.file_name}"
    text = page(cells)
    assert max(map(len, text.splitlines())) <= 140
    for wanted in (
        "data=journal",
        "Linux 5.2",
        "[1]",
        "this fsync",
        "reports/fsync-xfs-append-data-once.crash",
        "USENIX ATC",
    ):
        assert wanted in text
    assert len(page(cells, brief=True)) < len(text)


def test_what_is_unknown_is_said() -> None:
    cells = table()
    cells[3].error = "the engine is gone"
    text = page(cells)
    assert "UNKNOWN: ext4 data=ordered, update: a data block fails for ever" in text and "the engine is gone" in text
    assert as_json(cells, ExitCode.UNKNOWN, 1.0)["trials"][3]["error"] == "the engine is gone"

"""After a failed fsync: the trials on each file system, the check of their bundles, the command."""

import functools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_support import Ran, harness

from harness.errors import Misuse
from harness.oracle.fsync_check import BLOCK, WORDS, Covered, broken, fill, word_of
from harness.trial.fsync_answers import QUESTIONS, UNKNOWN, Answered, answered
from harness.trial.fsync_failure import COLUMNS, Bed, Case, Cell, Column, Target, Workload, cases, columns
from harness.trial.fsync_live import OLD_TIME, Look, Observed
from harness.verdict import ExitCode, FindingKind

ORDERED, JOURNAL, XFS, BTRFS = COLUMNS
BOTH = list(Workload)


@functools.cache
def measured(column: Column) -> dict[Case, Cell]:
    """All trials of a column; they take some two seconds."""
    with Bed(column) as bed:
        return {case: bed.run(case) for case in cases(column)}


def observed(column: Column, workload: Workload, target: Target, *, lasting: bool = False) -> Observed:
    cell = measured(column)[Case(column, workload, target, lasting)]
    assert not cell.error and cell.observed
    return cell.observed


def answers(column: Column) -> dict[str, Answered]:
    return {question.key: answered(question, column, measured(column).values()) for question in QUESTIONS}


def kinds(shown: Observed) -> list[FindingKind]:
    return [finding.kind for finding in shown.findings]


# The trials


@pytest.mark.root
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@pytest.mark.parametrize("workload", BOTH)
def test_without_a_fault_fsync_keeps_its_word(column: Column, workload: Workload) -> None:
    shown = observed(column, workload, Target.NONE)
    assert shown.fsyncs == ["ok"] * 3 and shown.umount == shown.writable == shown.sync == "ok"
    assert (shown.memory, shown.direct, shown.dropped) == ("new", "new", "new")
    assert shown.settled.block == shown.final.block == "new" and shown.settled.mtime != OLD_TIME
    assert not shown.findings and not shown.hits and not shown.logged and shown.fsck == "clean"


@pytest.mark.root
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@pytest.mark.parametrize("workload", BOTH)
def test_the_second_fsync_succeeds_and_the_data_are_gone(column: Column, workload: Workload) -> None:
    """What the literature is known for: the page is clean, memory shows what the medium never got."""
    shown = observed(column, workload, Target.DATA)
    assert shown.fsyncs == ["EIO", "ok", "ok"] and shown.struck == "fsync 1" and shown.hits == 1
    assert not shown.rewritten
    assert shown.memory == "new" != shown.final.block == shown.dropped
    assert kinds(shown) == [FindingKind.FALSE_SUCCESS] and shown.findings[0].summary.startswith("FALSE_SUCCESS fsync 3")
    assert shown.repaired == shown.final.block
    assert shown.writable == "ok"


@pytest.mark.root
def test_what_is_left_of_the_block_on_ext4() -> None:
    update, append = (observed(ORDERED, workload, Target.DATA) for workload in BOTH)
    assert update.final.block == update.direct == "old"
    assert append.settled == Look("zeros", 4 * BLOCK, append.settled.mtime, "unwritten")
    assert append.final == Look("zeros", 5 * BLOCK, append.final.mtime, "unwritten")


@pytest.mark.root
def test_data_journal_shows_what_the_medium_held_before() -> None:
    """Replay would bring the block back; the unmount drops it from the journal."""
    update, append = (observed(JOURNAL, workload, Target.DATA) for workload in BOTH)
    assert (update.settled.block, update.final.block) == ("new", "old")
    assert (append.settled.block, append.final.block, append.final.extent) == ("new", "stale", "written")
    assert update.direct == append.direct == "new"


@pytest.mark.root
@pytest.mark.parametrize(("column", "second"), [(ORDERED, "ok"), (JOURNAL, "EROFS")], ids=lambda each: str(each))
def test_a_failed_journal_block_makes_ext4_read_only(column: Column, second: str) -> None:
    """In ordered mode the second fsync succeeds before anybody has noticed that the journal is aborted."""
    shown = observed(column, Workload.APPEND, Target.JOURNAL)
    assert shown.fsyncs[0] != "ok" and shown.fsyncs[1:] == [second, "EROFS"]
    assert shown.writable == "EROFS" and shown.readable == "ok" and "emergency_ro" in shown.options
    assert shown.final.block == "absent"
    assert (FindingKind.FALSE_SUCCESS in kinds(shown)) == (second == "ok")


@pytest.mark.root
def test_a_failed_journal_block_shuts_xfs_down() -> None:
    shown = observed(XFS, Workload.APPEND, Target.JOURNAL)
    assert shown.fsyncs == ["EIO"] * 3 and shown.readable == shown.memory == "EIO"
    assert not shown.findings and shown.final.block == "absent"


@pytest.mark.root
def test_xfs_writes_metadata_again() -> None:
    once, for_ever = (observed(XFS, Workload.APPEND, Target.METADATA, lasting=lasting) for lasting in (False, True))
    assert once.struck == "settle" and once.hits == 1 and once.writable == "ok"
    assert for_ever.struck == "umount" and for_ever.hits == 2
    assert once.final.block == for_ever.final.block == "new"


@pytest.mark.root
def test_on_btrfs_fsync_succeeds_when_nothing_can_be_saved_any_more() -> None:
    shown = observed(BTRFS, Workload.UPDATE, Target.SUPERBLOCK)
    assert shown.fsyncs == ["EIO", "ok", "ok"] and shown.writable == "EROFS" and shown.final.block == "old"
    once, for_ever = (observed(BTRFS, Workload.UPDATE, Target.JOURNAL, lasting=lasting) for lasting in (False, True))
    assert once.fsyncs[0] == "ok" and once.final.block == "new"
    assert for_ever.fsyncs[0] == "EIO" and for_ever.final.block == "old"


@pytest.mark.root
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_question_is_answered_and_every_difference_explained(column: Column) -> None:
    table = answers(column)
    unknown = [key for key, each in table.items() if UNKNOWN in (each.measured, each.lasting)]
    # Other tests may have used up what the kernel prints of xfs and btrfs; ext4 counts for each volume by itself.
    assert not unknown or (unknown == ["logged"] and column in (XFS, BTRFS))
    assert not [each for each in table.values() if each.explanation.startswith("Not explained")]


@pytest.mark.root
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (ORDERED, {"fails": "data, journal, metadata", "metadata": "yes", "lied": "data, journal"}),
        (
            JOURNAL,
            {"reported": "this fsync", "unavailable": "journal, metadata", "block": "update: old, append: stale"},
        ),
        (XFS, {"fails": "data, journal", "unavailable": "journal", "how": "shutdown"}),
        (BTRFS, {"metadata": "no", "memory": "no", "fsck": "no", "how": "remount read-only"}),
    ],
    ids=lambda each: each.name if isinstance(each, Column) else "",
)
def test_answers_on_this_kernel(column: Column, expected: dict[str, str]) -> None:
    table = answers(column)
    assert {key: table[key].measured for key in expected} == expected
    assert table["page"].measured == "clean"


@pytest.mark.root
def test_a_block_that_fsync_does_not_write_cannot_be_made_to_fail() -> None:
    with Bed(ORDERED) as bed:
        assert "fsync writes no superblock" in bed.run(Case(ORDERED, Workload.UPDATE, Target.SUPERBLOCK)).error


def test_trials_have_names_of_their_own() -> None:
    every = [case for column in COLUMNS for case in cases(column)]
    assert len(every) == 60
    assert len({case.name for case in every}) == len({case.file_name for case in every}) == 60
    assert Case(JOURNAL, Workload.APPEND, Target.DATA).file_name == "fsync-ext4-data-journal-append-data-once.crash"


def test_columns_by_file_system() -> None:
    assert columns([]) == list(COLUMNS)
    assert columns(["xfs", "ext4"]) == [ORDERED, JOURNAL, XFS]
    with pytest.raises(Misuse, match="ext3"):
        columns(["ext3"])
    with pytest.raises(Misuse, match="zfs"):
        columns(["zfs"])


# The check of a bundle


@pytest.mark.parametrize("word", WORDS)
def test_blocks_have_words(word: str) -> None:
    assert word_of(fill(word)) == word
    assert word_of(fill(word)[:-1]) == "absent"
    assert word_of(fill(word)[:-1] + b"?") == "mixed"


def promised(fsync: int, *blocks: tuple[int, str]) -> bytes:
    return msgspec.json.encode(Covered(fsync=fsync, blocks=blocks))


def test_the_last_broken_promise_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(fill("old") + fill("new"))
    assert not broken([promised(1, (0, "old")), promised(2, (0, "old"), (BLOCK, "new"))], str(tmp_path))
    found = broken([promised(1, (0, "new")), promised(2, (BLOCK, "new"), (2 * BLOCK, "next"))], str(tmp_path))
    assert found == "fsync 2 returned 0; the block at 8192 of file is absent, not next"


def verify(volume: Path) -> Ran:
    promises = str(volume / "promises")
    return harness("fsync-failure", "--verify", cwd=volume, HARNESS_VOLUME=str(volume), HARNESS_PROMISES=promises)


@pytest.mark.parametrize(("word", "status"), [("new", 0), ("zeros", 1)])
def test_the_check_as_a_command(tmp_path: Path, word: str, status: int) -> None:
    (tmp_path / "file").write_bytes(fill(word))
    (tmp_path / "promises").write_bytes(promised(1, (0, "new")) + b"\n")
    ran = verify(tmp_path)
    assert ran.status == status, ran
    assert ran.out.startswith("FALSE_SUCCESS fsync 1 returned 0") == (status == 1)


@pytest.mark.parametrize("promises", [None, "no promise\n"])
def test_a_check_that_cannot_say_is_neither_yes_nor_no(tmp_path: Path, promises: str | None) -> None:
    if promises is not None:
        (tmp_path / "promises").write_text(promises)
    assert verify(tmp_path).status == 126


# The command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fs", "zfs"), "zfs"),
        (("--fs", "ext2"), "nothing is published about ext2"),
        (("--fsx", "ext4"), "did you mean --fs?"),
        (("ext4",), "unexpected extra argument"),
    ],
)
def test_misuse_is_told_on_one_screen(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    ran = harness("fsync-failure", *words, cwd=tmp_path)
    assert ran.status == 2, ran
    assert told in ran.err
    ran.assert_one_screen()


def test_help_says_what_it_is(tmp_path: Path) -> None:
    ran = harness("fsync-failure", "--help", cwd=tmp_path)
    assert ran.status == 0 and "one block write fail" in ran.out and "--verify" not in ran.out


@pytest.mark.root
def test_the_command_makes_the_table_and_bundles_that_replay(tmp_path: Path) -> None:
    ran = harness("fsync-failure", "--fs", "ext4", "--json", "r.json", cwd=tmp_path)
    assert ran.status == 0, ran
    told: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert len(told["trials"]) == len(ran.err.splitlines()) == 28
    assert told["answers"][0]["column"] == "ext4 data=ordered" and told["answers"][0]["differs"]
    bundles = {trial["bundle"] for trial in told["trials"]}
    assert len(bundles) == 28 and all(bundle in ran.out for bundle in bundles)
    _replay(tmp_path, "reports/fsync-ext4-data-ordered-append-data-once.crash", ExitCode.CORRUPTED)
    _replay(tmp_path, "reports/fsync-ext4-data-ordered-append-none.crash", ExitCode.INTACT)
    shown = harness("show", "reports/fsync-ext4-data-journal-append-data-once.crash", "--log", cwd=tmp_path)
    assert shown.status == 0 and "fault: error: write of 4096" in shown.out and "step: fsync 3" in shown.out


def _replay(folder: Path, bundle: str, code: ExitCode) -> None:
    replayed = harness("replay", bundle, cwd=folder)
    assert replayed.status == code and "the verdict recorded in the bundle" in replayed.out
    assert ("FALSE_SUCCESS fsync 3 returned 0" in replayed.out) == (code is ExitCode.CORRUPTED)

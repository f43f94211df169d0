"""A volume's journal: cut at any byte it opens to a legal earlier state; damaged it says where; one process writes."""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadJournal, HarnessError, Misuse
from harness.oracle.checks import RecoveredState
from harness.plugin.volume import CrashVolume
from harness.verdict import ExitCode
from harness.volume.journal import Journal, locker, parse, read


class Step(msgspec.Struct, frozen=True):
    """A record of these tests."""

    name: str
    number: int = 0


STEPS = [Step("created"), Step("attached", 1), Step("ü\n\0\\", -(2**40)), Step("x" * 40), Step("detached")]


def written(folder: Path, steps: list[Step] = STEPS) -> bytes:
    """The bytes of a journal of these steps."""
    path = folder / "written.journal"
    with Journal(str(path), Step) as journal:
        for step in steps:
            journal.append(step)
    return path.read_bytes()


def reopened(folder: Path, content: bytes) -> list[Step]:
    """Its records, and that it can be gone on with: what stands there afterwards is whole."""
    path = folder / "reopened.journal"
    path.write_bytes(content)
    with Journal(str(path), Step) as journal:
        records = list(journal.records)
        journal.append(Step("next"))
    assert read(str(path), Step) == [*records, Step("next")]
    return records


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    content = written(tmp_path)
    assert reopened(tmp_path, content) == STEPS
    assert content.count(b"\n") == len(STEPS)


def test_cut_at_any_byte_it_opens_to_the_records_that_are_whole(tmp_path: Path) -> None:
    content = written(tmp_path)
    for cut in range(len(content) + 1):
        assert reopened(tmp_path, content[:cut]) == STEPS[: content[:cut].count(b"\n")], cut


def test_sectors_of_the_last_record_that_were_never_written_are_a_torn_end(tmp_path: Path) -> None:
    content = written(tmp_path)
    last = content.rindex(b"\n", 0, -1) + 1
    for start in range(last, len(content)):
        holed = content[:start] + bytes(len(content) - start)
        assert reopened(tmp_path, holed) == STEPS[:-1]
        beginning_lost = content[:last] + bytes(start - last + 1) + content[start + 1 :]
        assert reopened(tmp_path, beginning_lost) == STEPS[:-1]


def test_every_changed_byte_that_is_not_of_a_torn_end_is_refused_where_it_stands(tmp_path: Path) -> None:
    content = written(tmp_path)
    chance = random.Random(7)
    starts = [0, *(at + 1 for at, byte in enumerate(content) if byte == ord("\n"))]
    for at in range(len(content) - 1):
        flipped = bytearray(content)
        flipped[at] ^= 1 << chance.randrange(8)
        with pytest.raises(BadJournal) as caught:
            parse(bytes(flipped), Step, "j")
        # A newline that is made or lost moves the beginning of the line that is wrong, never before the damage's own.
        begin = max(start for start in starts if start <= at)
        named = int(caught.value.cause.partition("damaged at byte ")[2].partition(":")[0])
        assert begin <= named <= at + 1, at


def test_of_a_torn_end_no_acknowledged_record_is_part(tmp_path: Path) -> None:
    lines = written(tmp_path).splitlines(keepends=True)
    grown_together = b"".join(lines[:-2]) + lines[-2].replace(b"\n", b"#") + lines[-1][:-1]
    with pytest.raises(BadJournal, match=f"byte {len(b''.join(lines[:-2]))}:"):
        parse(grown_together, Step, "j")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda lines: [lines[0], *lines[2:]], "record 3 stands where record 2", id="a-record-is-missing"),
        pytest.param(lambda lines: [lines[0], lines[0], *lines[1:]], "record 1 stands where record 2", id="twice"),
        pytest.param(lambda lines: lines[1:], "record 2 stands where record 1", id="the-first-is-missing"),
        pytest.param(lambda lines: [lines[0], b"{}\n", *lines[1:]], "missing required field", id="another-line"),
        pytest.param(lambda lines: [b"\n", *lines], "damaged at byte 0", id="an-empty-line"),
        pytest.param(
            lambda lines: [lines[0].replace(b'{"crash-harness":1', b'{"crash-harness":2')],
            "another version",
            id="newer",
        ),
    ],
)
def test_damage_in_the_middle_is_refused_with_its_place_and_a_remedy(
    change: Callable[[list[bytes]], list[bytes]], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.journal"
    damaged = b"".join(change(written(tmp_path).splitlines(keepends=True)))
    path.write_bytes(damaged)
    with pytest.raises(BadJournal, match="damaged at byte") as caught:
        Journal(str(path), Step)
    assert said in caught.value.cause
    assert "move it away" in caught.value.remedy
    assert caught.value.exit_code is ExitCode.MISUSE
    assert path.read_bytes() == damaged, "what is refused is left as it is"


@pytest.mark.parametrize("content", [b"root:x:0:0", b"hello\n", b"\x7fELF\0\0\0", b'{"a": 1}', b"\0\0x"])
def test_a_file_that_is_no_journal_is_never_cut(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(BadJournal, match="byte 0"):
        Journal(str(path), Step)
    assert path.read_bytes() == content


@given(st.lists(st.builds(Step, st.text(max_size=40), st.integers(-(2**60), 2**60)), max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_any_prefix_of_any_journal_is_a_journal(steps: list[Step], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = written(Path(folder), steps)
        cut = data.draw(st.integers(0, len(content)))
        assert reopened(Path(folder), content[:cut]) == steps[: content[:cut].count(b"\n")]


def test_a_second_opener_is_told_who_has_it(tmp_path: Path) -> None:
    path = str(tmp_path / "a.journal")
    with Journal(path, Step):
        with pytest.raises(Misuse, match=rf"is open in process {os.getpid()}\b"):
            Journal(path, Step)
        program = f"from harness.volume.journal import *; import msgspec; Journal({path!r}, msgspec.Struct)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert f"is open in process {os.getpid()}" in done.stderr
        assert read(path, Step) == [], "reading needs no lock"
        assert locker(path) == os.getpid()
    assert locker(path) == 0
    with Journal(path, Step):
        pass


def test_the_child_of_a_writer_keeps_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "a.journal")
    ready, announce = os.pipe()
    pid = os.fork()
    if pid == 0:
        journal = Journal(path, Step)
        journal.append(Step("by the first"))
        if os.fork() == 0:
            os.write(announce, b"%d" % os.getpid())
        signal.pause()
    os.close(announce)
    child = int(os.read(ready, 20))
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.kill(child, 0)
        with Journal(path, Step) as journal:
            assert journal.records == [Step("by the first")]
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(ready)


def test_a_journal_that_is_removed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with Journal(str(path), Step) as journal:
        journal.append(Step("first"))
        path.unlink()
        with Journal(str(path), Step) as other:
            assert other.records == []


def test_after_a_failed_append_nothing_is_appended_until_it_is_opened_again(tmp_path: Path) -> None:
    path = str(tmp_path / "a.journal")
    with Journal(path, Step) as journal:
        journal.append(Step("first"))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 10, before[1]))
        try:
            with pytest.raises(OSError, match=r"."):
                journal.append(Step("second"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert journal.records == [Step("first")]
        with pytest.raises(Misuse, match="failed before"):
            journal.append(Step("third"))
    with Journal(path, Step) as journal:
        assert journal.records == [Step("first")]
        journal.append(Step("second"))
    assert read(path, Step) == [Step("first"), Step("second")]


@pytest.mark.root
@pytest.mark.parametrize(
    "given_volume",
    [
        pytest.param({"fs": "ext4"}, id="ext4"),
        pytest.param({"fs": "ext4", "model": "torn"}, id="torn"),
        pytest.param({"fs": "xfs"}, id="xfs"),
        pytest.param({"fs": "btrfs"}, id="btrfs"),
    ],
)
def test_after_a_power_cut_every_acknowledged_record_is_there(
    given_volume: dict[str, object], crash_volume: CrashVolume
) -> None:
    steps = [Step("step", number) for number in range(12)]
    crashed = crash_volume.using(**given_volume, max_states=120)
    with crashed.record() as volume, Journal(f"{volume.path}/a.journal", Step) as journal:
        for step in steps:
            journal.append(step)
            volume.promise(step.number)
    crashed.verify(lambda state: opens_to(state, steps))


@pytest.mark.root
def test_a_journal_without_fsync_would_be_convicted(crash_volume: CrashVolume, tmp_path: Path) -> None:
    steps = [Step("step", number) for number in range(4)]
    with crash_volume.record() as volume:
        for number, line in enumerate(written(tmp_path, steps).splitlines(keepends=True)):
            with open(f"{volume.path}/a.journal", "ab") as file:
                file.write(line)
            volume.promise(number)
    crash_volume.convict(lambda state: opens_to(state, steps))


def opens_to(state: RecoveredState, steps: list[Step]) -> None:
    """The journal on a recovered volume holds the first of these steps, and all that were promised."""
    if not state.promises and not os.path.exists(f"{state.path}/a.journal"):
        return
    with Journal(f"{state.path}/a.journal", Step) as journal:
        assert journal.records == steps[: len(journal.records)]
        assert len(journal.records) >= len(state.promises), "LOST_ACKED a record"


def test_where_the_folder_is_missing_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no such folder"):
        Journal(str(tmp_path / "gone" / "a.journal"), Step)

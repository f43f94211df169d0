"""A committed finding stays: the store's log cut at every byte, every disk of a power cut, SIGKILL anywhere."""

import contextlib
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_support import INFO, Writer, whole

from harness.campaign.store import NAME, Store
from harness.oracle.checks import RecoveredState
from harness.plugin.live import LiveVolume
from harness.plugin.volume import CrashVolume

_TURNS = 2
"""Findings of each writer where the power is cut."""
_FRAME = 24 + 4096
_HEADER = 32
"""https://sqlite.org/fileformat2.html#walformat"""
_STRIDE = 499


class Cut:
    """The store as it was before the log, and any beginning of the log, in a folder in memory."""

    def __init__(self, folder: Path, before: bytes, log: bytes) -> None:
        self.folder = folder
        self._before = before
        self._log = log

    def at(self, length: int) -> None:
        """New files: what an earlier look left of the old ones is no part of the disk."""
        for path in self.folder.iterdir():
            path.unlink()
        (self.folder / NAME).write_bytes(self._before)
        (self.folder / f"{NAME}-wal").write_bytes(self._log[:length])

    def every_length(self) -> Iterator[tuple[int, list[str]]]:
        """From the whole log down to none of it: the length, and the findings that SQLite then finds, by itself."""
        self.at(len(self._log))
        log, index = self.folder / f"{NAME}-wal", self.folder / f"{NAME}-shm"
        for length in range(len(self._log), -1, -1):
            os.truncate(log, length)
            # Read-only: what is not whole in the log is not written into the store, and the log stays.
            with contextlib.closing(sqlite3.connect(f"file:{self.folder / NAME}?mode=ro", uri=True)) as store:
                rows = store.execute("SELECT shape FROM sighting JOIN signature ON id = signature").fetchall()
            index.unlink()
            yield length, sorted(name for (name,) in rows)


def findings(folder: str) -> list[str]:
    """Of a store that is whole: every finding has its trial, its signature and its bundle."""
    store = Store.read(folder)
    bugs = store.bugs()
    with contextlib.closing(sqlite3.connect(store.path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    names = [bug.signature.shape for bug in bugs]
    trials = {trial.key for run in store.runs() for trial in store.trials(run.id)}
    assert trials == set(names)
    assert {f"{name}.crash" for name in names} == {row.path for row in store.bundles()}
    assert {bug.bundle for bug in bugs} == {row.path for row in store.bundles()}
    return sorted(names)


def written_in_turn(folder: Path) -> tuple[bytes, bytes, list[tuple[str, int]]]:
    """The store before, the log of two writers behind it, and each finding with the size of the log at its commit.

    Three of them: a commit is 16 KB of log, and the log is cut at each of its bytes.
    """
    with Writer(folder, "a") as one, Writer(folder, "b") as other:
        before = (folder / NAME).read_bytes()
        assert not (folder / f"{NAME}-wal").exists()
        # As long as someone has the store open, nobody moves the log into it.
        with contextlib.closing(sqlite3.connect(folder / NAME, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM run").fetchone()
            committed = [writer.turn() for writer in (one, other, one)]
            log = (folder / f"{NAME}-wal").read_bytes()
    return before, log, committed


def test_a_log_cut_at_any_byte_holds_every_finding_committed_by_then(tmp_path: Path, memory: Path) -> None:
    before, log, committed = written_in_turn(tmp_path)
    sizes = [size for _, size in committed]
    assert sizes == sorted(set(sizes)) and sizes[-1] == len(log)

    def expected(length: int) -> list[str]:
        return sorted(name for name, size in committed if size <= length)

    cut = Cut(memory, before, log)
    lengths = 0
    for length, found in cut.every_length():
        assert found == expected(length), length
        lengths += 1
    assert lengths == len(log) + 1
    # By the store's own door, and in full: beside each end of a frame, and at others.
    for length in range(len(log) + 1):
        if (length - _HEADER + 1) % _FRAME <= 2 or length % _STRIDE == 0:
            cut.at(length)
            assert findings(str(memory)) == expected(length), length


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where that is to be had: 50,000 stores are looked at in it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


def in_turn_on(volume: LiveVolume) -> None:
    """Two processes share a store on the volume; each finding is promised once its commit has returned."""
    folder = f"{volume.path}/reports"
    with Writer(folder, "a") as one, Writer(folder, "b") as other:
        for _ in range(_TURNS):
            for writer in (one, other):
                volume.promise(writer.turn()[0])
        one.finish()
        other.finish()


def keeps_what_was_promised(state: RecoveredState) -> None:
    """Every promised finding is in the store, whole, and at most the one behind them."""
    folder = f"{state.path}/reports"
    found = findings(folder) if state.promises or os.path.exists(f"{folder}/{NAME}") else []
    lost = set(state.promises) - set(found)
    assert not lost, f"LOST_ACKED {len(lost)} findings"
    assert len(found) <= len(state.promises) + 1, "a finding is there that was not written yet"


@pytest.mark.root
@pytest.mark.parametrize(("fs", "states"), [("ext4", 250), ("xfs", 40), ("btrfs", 40)])
def test_a_power_cut_costs_no_finding_that_was_committed(crash_volume: CrashVolume, fs: str, states: int) -> None:
    volume = crash_volume.using(fs=fs, max_states=states, fsck=False)
    with volume.record() as live:
        in_turn_on(live)
    report = volume.verify(keeps_what_was_promised)
    assert report.judged > states // 2
    assert report.promises == 2 * _TURNS


def test_a_killed_writer_costs_no_finding_that_it_told_of(tmp_path: Path) -> None:
    """SIGKILL at random instants of a busy writer, with another one beside it that goes on."""
    chance = random.Random(5)
    told: list[str] = []
    with Writer(tmp_path, "other") as other:
        for number in range(12):
            with Writer(tmp_path, f"w{number}-", 10_000) as writer:
                heard = [writer.hear() for _ in range(chance.randrange(1, 6))]
                time.sleep(chance.random() / 100)
                heard += writer.kill()
            names = [line.split()[0] for line in heard if line.endswith("\n")]
            found = [name for name in findings(str(tmp_path)) if name.startswith(f"w{number}-")]
            assert set(names) <= set(found) and len(found) <= len(names) + 1
            told += [*names, other.turn()[0]]
    assert set(told) <= set(findings(str(tmp_path)))
    assert {run.verdict for run in Store.read(str(tmp_path)).runs()} == {None}


def test_a_store_whose_making_was_killed_is_made_at_the_next_time(tmp_path: Path) -> None:
    """What SIGKILL leaves of a new store is an empty file, or one of SQLite with nothing in it."""
    (tmp_path / NAME).touch()
    assert Store.read(str(tmp_path)).runs() == []
    (tmp_path / NAME).unlink()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
    store = Store.open(str(tmp_path))
    store.add(store.begin(INFO), [whole("a")])
    assert findings(str(tmp_path)) == ["a"]

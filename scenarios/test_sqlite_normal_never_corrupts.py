"""SQLite with synchronous=NORMAL is whole after a power cut and holds a prefix of the commits; the last may be lost.

Fault: power cut at every point of 12 transactions over two tables, the making of the database included.
Rests on https://sqlite.org/pragma.html#pragma_synchronous: "WAL mode is safe from corruption with synchronous=NORMAL,
and probably DELETE mode is safe too on modern filesystems"; WAL "does lose durability". For the rollback modes it
speaks of "a very small (though non-zero) chance" of corruption "on an older filesystem": on these three file systems
none is found, and durability, of which it says nothing there, is not asked for.
"""

import pytest

from fixtures.programs import sqlite_ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.parametrize("mode", sqlite_ledger.JOURNAL_MODES)
def test_sqlite_normal_never_corrupts(default_volume: CrashVolume, mode: str) -> None:
    with default_volume.record() as volume:
        sqlite_ledger.write(volume.path, volume.promise, mode, "NORMAL", transactions=12)
    default_volume.verify(lambda state: sqlite_ledger.verify(state.path, state.promises, mode, "NORMAL"))


@pytest.mark.crash_volume(fs="ext4")
def test_sqlite_normal_in_wal_mode_loses_the_last_commits(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        sqlite_ledger.write(volume.path, volume.promise, "WAL", "NORMAL")
    crash_volume.convict(
        lambda state: sqlite_ledger.verify(state.path, state.promises, "WAL", "FULL"),
        contains="commits were acknowledged",
    )

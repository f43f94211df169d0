"""SQLite with synchronous=FULL is whole after a power cut and keeps each commit, in DELETE mode all but the last.

Fault: power cut at every point of 12 transactions over two tables, the making of the database included.
Rests on https://sqlite.org/pragma.html#pragma_synchronous: FULL "ensures that an operating system crash or power
failure will not corrupt the database"; EXTRA is FULL "with the addition that the directory containing a rollback
journal is synced after that journal is unlinked to commit a transaction in DELETE mode" and "provides additional
durability if the commit is followed closely by a power loss". So DELETE with FULL may roll back its last commit, which
the third test shows; the journal of the next commit, whose directory SQLite does sync, makes the one before durable.
For WAL: "Writers sync the WAL on every transaction commit if PRAGMA synchronous is set to FULL"
(https://sqlite.org/wal.html).
"""

import pytest

from fixtures.programs import sqlite_ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.parametrize("mode", sqlite_ledger.JOURNAL_MODES)
def test_sqlite_full_keeps_what_it_committed(default_volume: CrashVolume, mode: str) -> None:
    with default_volume.record() as volume:
        sqlite_ledger.write(volume.path, volume.promise, mode, "FULL", transactions=12)
    default_volume.verify(lambda state: sqlite_ledger.verify(state.path, state.promises, mode, "FULL"))


def test_sqlite_extra_keeps_the_last_commit_too(default_volume: CrashVolume) -> None:
    with default_volume.record() as volume:
        sqlite_ledger.write(volume.path, volume.promise, "DELETE", "EXTRA", transactions=12)
    default_volume.verify(lambda state: sqlite_ledger.verify(state.path, state.promises, "DELETE", "EXTRA"))


@pytest.mark.crash_volume(fs="ext4")
def test_sqlite_full_in_delete_mode_may_roll_back_the_last_commit(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        sqlite_ledger.write(volume.path, volume.promise, "DELETE", "FULL")
    crash_volume.convict(
        lambda state: sqlite_ledger.verify(state.path, state.promises, "DELETE", "EXTRA"),
        contains="commits were acknowledged",
    )

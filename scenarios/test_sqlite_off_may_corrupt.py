"""SQLite with synchronous=OFF is corrupt after a power cut, in every journal mode.

Fault: power cut at every point of 8 transactions that change a database of 30 entries in place.
Rests on https://sqlite.org/pragma.html#pragma_synchronous: "the database might become corrupted if the operating system
crashes or the computer loses power before that data has been written to the disk surface". Nothing is fsynced, so the
kernel writes the database's pages back together when the volume is synced, in no order, after the journal is gone.
"""

from functools import partial

import pytest

from fixtures.programs import sqlite_ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.crash_volume(fs="ext4")
@pytest.mark.parametrize("mode", sqlite_ledger.JOURNAL_MODES)
def test_sqlite_off_may_corrupt(crash_volume: CrashVolume, mode: str) -> None:
    with crash_volume.record(setup=partial(sqlite_ledger.setup, journal_mode=mode, entries=30)) as volume:
        sqlite_ledger.write(volume.path, volume.promise, mode, "OFF", first=30, transactions=8)
    crash_volume.convict(
        lambda state: sqlite_ledger.verify(state.path, state.promises, mode, "OFF"),
        contains="META SQLite cannot read the database",
    )

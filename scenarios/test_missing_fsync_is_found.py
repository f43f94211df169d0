"""A program that acknowledges what it never fsynced is found out; with the fsync it is intact.

Fault: power cut at every point of 8 rounds of append, (no) fsync, acknowledge.
Rests on write(2): "A successful return from write() does not make any guarantee that data has been committed to disk."
"""

import pytest

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_missing_fsync_is_found(crash_volume: CrashVolume, fs: str) -> None:
    buggy = crash_volume.using(fs=fs, max_states=100)
    with buggy.record() as volume:
        ledger.write(volume.path, volume.promise, "no-fsync")
    buggy.convict(lambda state: ledger.verify(state.path, state.promises), contains="LOST_ACKED entry")


@pytest.mark.crash_volume(fs="ext4")
def test_with_fsync_it_is_intact(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        ledger.write(volume.path, volume.promise, "fixed")
    crash_volume.verify(lambda state: ledger.verify(state.path, state.promises))

"""A program that fsyncs another file than the one that it wrote is found out; with the right one it is intact.

Fault: power cut at every point of 8 rounds of append to the ledger, fsync of the index, acknowledge.
Rests on fsync(2): it transfers the modified data "of the file referred to by the file descriptor fd". Delayed
allocation (Documentation/admin-guide/ext4.rst) leaves the other file's data in memory, whatever else is committed.
"""

import pytest

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_fsync_of_wrong_descriptor_is_found(crash_volume: CrashVolume, fs: str) -> None:
    buggy = crash_volume.using(fs=fs, max_states=100)
    with buggy.record() as volume:
        ledger.write(volume.path, volume.promise, "wrong-descriptor")
    buggy.convict(lambda state: ledger.verify(state.path, state.promises), contains="LOST_ACKED entry")


@pytest.mark.crash_volume(fs="ext4")
def test_fsync_of_right_descriptor_is_intact(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        ledger.write(volume.path, volume.promise, "fixed")
    crash_volume.verify(lambda state: ledger.verify(state.path, state.promises))

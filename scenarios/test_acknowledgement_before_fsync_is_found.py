"""A program that acknowledges an entry just before it fsyncs it is found out; the other way round it is intact.

Fault: power cut at every point of 8 rounds, the instants between the acknowledgement and the fsync's end among them.
Rests on fsync(2): the data is durable when fsync returns ("The call blocks until the device reports that the transfer
has completed"), not when it is called.
"""

import pytest

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_acknowledgement_before_fsync_is_found(crash_volume: CrashVolume, fs: str) -> None:
    buggy = crash_volume.using(fs=fs, max_states=100)
    with buggy.record() as volume:
        ledger.write(volume.path, volume.promise, "early-ack")
    buggy.convict(lambda state: ledger.verify(state.path, state.promises), contains="LOST_ACKED entry")


@pytest.mark.crash_volume(fs="ext4")
def test_acknowledgement_after_fsync_is_intact(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        ledger.write(volume.path, volume.promise, "fixed")
    crash_volume.verify(lambda state: ledger.verify(state.path, state.promises))

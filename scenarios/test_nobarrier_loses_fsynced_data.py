"""ext4 mounted with nobarrier loses fsynced data when the device has a volatile cache.

Fault: power cut at every point of 20 rounds of append, fsync, acknowledge; the program is right, the mount is not.
Rests on Documentation/admin-guide/ext4.rst: write barriers make "volatile disk write caches safe to use"; nobarrier is
for disks that "are battery-backed in one way or another". No flush reaches the device, so nothing is ever durable.
"""

import pytest

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.crash_volume(fs="ext4", mount_options="nobarrier")
def test_nobarrier_loses_fsynced_data(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        ledger.write(volume.path, volume.promise, "fixed", entries=20)
    crash_volume.convict(
        lambda state: ledger.verify(state.path, state.promises), contains="was acknowledged and is not in the ledger"
    )

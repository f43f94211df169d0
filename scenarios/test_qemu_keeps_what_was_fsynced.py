"""What was fsynced on a disk that qemu-storage-daemon serves is there when the daemon was killed and started again.

Promised: a daemon with writeback caching honours flushes, also those of qcow2's own metadata (qemu(1), -blockdev
cache.no-flush). Fault: SIGKILL with nothing under way, between writes and fsync, amid both, and right after an fsync;
raw and qcow2, its FUSE and its NBD export, with ext4 on the disk and without.
"""

import pytest

from fixtures.systems.qemu_storage import system_at
from harness.plugin.systems import LiveTrials


@pytest.mark.system("qemu")
def test_fsynced_blocks_survive_a_killed_daemon(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(system_at("write"), "documented")

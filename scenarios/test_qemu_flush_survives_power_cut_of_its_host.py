"""What was fsynced on a disk that qemu-storage-daemon serves is there after a power cut of the daemon's host.

Promised: only cache.no-flush=on keeps flushes from the host's disk (qemu(1), -blockdev). Fault: the host's disk is
recorded while the daemon is written to, and makes a snapshot, mirrors, commits or streams; the crash model cuts it, and
the daemon is started on each chosen disk. Planted: cache.no-flush=on.
"""

import pytest

from fixtures.systems.qemu_storage import system_at
from harness.plugin.systems import LiveTrials


@pytest.mark.system("qemu")
def test_images_on_a_host_that_loses_power(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(system_at("power"), "documented")


@pytest.mark.system("qemu")
def test_no_flush_loses_what_was_fsynced(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(system_at("power"), "no-flush", points=("power:write",))

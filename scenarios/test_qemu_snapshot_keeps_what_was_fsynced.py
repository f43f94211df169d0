"""A live snapshot by qemu-storage-daemon loses nothing that was fsynced, on whichever side of it the daemon dies.

Promised: the old image becomes the backing file of an overlay, which takes the writes from then on
(qemu-storage-daemon-qmp-ref(7), blockdev-snapshot and blockdev-snapshot-sync). Fault: SIGKILL when the overlay is made,
when it is opened, while the command is carried out under a writer that does not stop, when it is answered, and later.
"""

import pytest

from fixtures.systems.qemu_storage import system_at
from harness.plugin.systems import LiveTrials


@pytest.mark.system("qemu")
def test_snapshot_killed_at_each_step(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(system_at("snapshot"), "documented")

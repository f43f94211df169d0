"""What a job has fsynced, with its directory, is on the volume after a detach by force.

Fault: hot removal of the mounted device as soon as the job is over; the volume is never unmounted.
Guards the work-around of dstack issue 1936. What was only closed may be gone, and is shown as LOST_UNACKED.
"""

import pytest

from fixtures.systems.dstack_run import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("dstack")
def test_fsynced_before_close(live_trials: LiveTrials) -> None:
    live_trials.acquit(SYSTEM, "fsync-workaround")

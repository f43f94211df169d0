"""A volume is not attached again while a file system on it is alive in any mount namespace.

Fault: a process whose own mount namespace was made after the mount, so that umount and detach both return 0 and the
device stays bound and in use.
Guards dstack issue 1936: a volume that was unmounted, as far as its host could see.
"""

import pytest

from fixtures.systems.dstack_run import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("dstack")
def test_mounted_elsewhere(live_trials: LiveTrials) -> None:
    live_trials.convict(SYSTEM, "mounted-elsewhere")

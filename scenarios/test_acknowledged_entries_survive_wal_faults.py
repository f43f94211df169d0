"""What a node has acknowledged is in its WAL after a restart, whatever its volume answered meanwhile.

Fault: as in test_wal_error_stays_in_its_partition; and a bit of an entry turns over while the node is down. Then the
volumes are mounted again, the node is started again, and in the end the medium is read behind another device.
On ext4 the second fsync after one that failed says yes, and the record is gone: it must not be believed.
Guards CubeFS issue 3515, and the ways in which its fix can go wrong.
"""

import pytest

from fixtures.systems.wal_node import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("cubefs")
@pytest.mark.parametrize("variant", ["retry-fsync-until-ok", "ack-before-persist", "stop-scan-at-bad-record-and-go-on"])
def test_acknowledged_and_gone(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict(SYSTEM, variant)

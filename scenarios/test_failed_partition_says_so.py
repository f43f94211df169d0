"""A partition whose WAL failed answers every request with an error by the deadline, takes no more, and shows its state.

Fault: as in test_wal_error_stays_in_its_partition. The deadline is one of the node's own clock, which is moved on when
nobody is left who could answer: the volume hangs, or the partition's thread has ended.
Guards what was left of CubeFS issue 3515 after its fix: the partition stopped, and nobody was told.
"""

import pytest

from fixtures.systems.wal_node import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("cubefs")
@pytest.mark.parametrize("variant", ["still-leader", "stopped-in-silence"])
def test_nobody_is_told(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict(SYSTEM, variant)

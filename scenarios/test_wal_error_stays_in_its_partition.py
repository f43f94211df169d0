"""A WAL error of one partition ends no process, and no other partition of the node feels it.

Fault: the volume of one partition answers EIO or ENOSPC, hangs, is full, or goes read-only, at a drawn write or flush,
while clients write to all; drawn too are kills of the node. Its process must stay, and the others must take everything.
Guards CubeFS issue 3515: persist() panicked on a store error, and the process exited with all its partitions.
"""

import pytest

from fixtures.systems.wal_node import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("cubefs")
def test_failed_partition_alone_stops(live_trials: LiveTrials) -> None:
    live_trials.acquit(SYSTEM, "fixed")


@pytest.mark.system("cubefs")
@pytest.mark.parametrize("variant", ["exit-on-wal-error", "double-cleanup"])
def test_whole_node_panics(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict(SYSTEM, variant)

"""A quorum of three answers with what two children agree on, or not at all, whichever of them missed writes.

Promised: a read for which fewer than vote-threshold children agree fails, and a child that failed or disagrees is
reported (qemu-storage-daemon-qmp-ref(7), BlockdevOptionsQuorum and QUORUM_REPORT_BAD). Fault: children that answer
each write with EIO (blkdebug), and SIGKILL when a write has reached one child, or two. Not promised, and shown: a block
of which three versions are left cannot be read any more, though it had been fsynced.
Planted: a vote-threshold of 1. A write that one child took is promised, and then outvoted by the two that missed it.
"""

import pytest

from fixtures.systems.qemu_storage import system_at
from harness.plugin.systems import LiveTrials


@pytest.mark.system("qemu")
def test_two_of_three_are_right(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(system_at("quorum"), "documented")


@pytest.mark.system("qemu")
def test_one_of_three_is_outvoted(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(system_at("quorum"), "threshold-1", points=("quorum:missed",))

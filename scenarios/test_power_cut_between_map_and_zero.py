"""After a power cut a thin volume holds what was promised, or older or newer data of its own; never another's bytes.

Fault: the power of the pool's disk goes after a write to a cluster, to a volume's map, to the table of volumes, or
after a flush, and any of the writes that no flush covers are lost; the store opens what is left. Guards the fix of
Longhorn issue 10135: a cluster that the map shows before it is durably cleared leaks in such a cut, and in no other.
"""

import pytest

from fixtures.systems.thin_store import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("longhorn")
def test_cleared_before_it_is_in_the_map(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(SYSTEM, "fixed")


@pytest.mark.system("longhorn")
def test_in_the_map_before_it_is_cleared(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(SYSTEM, "map-before-zero", points=("cluster", "map"))

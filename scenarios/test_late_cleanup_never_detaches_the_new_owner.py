"""The cleanup for an owner that is gone never takes the volume from the one that came after it.

Fault: the engine is killed, the pod deleted by force, and its replacement has mounted the volume, when cleanups come
that were delayed, that are duplicates, or whose supervisor had looked long before. The replacement must keep its
attachment.
Guards Longhorn issue 10751: fixed by one responsible agent, and owner and generation on what is deleted.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("longhorn")
def test_new_owner_keeps_its_attachment(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(SYSTEM, "fixed", times=1)


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("variant", ["cleanup-by-volume-name", "every-supervisor-cleans"])
def test_cleanup_of_whatever_is_there_is_found(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict_at_points(SYSTEM, variant, points=("A1", "U3"))

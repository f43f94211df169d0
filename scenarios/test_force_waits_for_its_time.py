"""A volume is forced off after the grace period, for an abort or the end of stop_duration, and not a second sooner.

Fault: holders that never let go; an abort at each second around the grace period; stop_duration 0, 300 and off; a wall
clock that is set forward and back. What was fsynced before the force is there after it; what was only closed is the
price.
Guards dstack issue 2218 (PR 2242): no force, and the volume is stuck in "detaching"; force too soon, and data are lost
that a little patience would have kept.
"""

import msgspec
import pytest

from fixtures.systems.detach_controller import SYSTEM
from fixtures.systems.detach_controller.plan import plans, stubborn
from harness.plugin.systems import LiveTrials

pytestmark = pytest.mark.system("dstack")

STUBBORN = msgspec.structs.replace(SYSTEM, plans=plans(volumes=stubborn()))


@pytest.mark.parametrize("variant", ["force-without-grace", "never-force", "trusts-wall-clock"])
def test_force_at_the_wrong_time_is_found(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict(STUBBORN, variant)


def test_force_waits_for_its_time(live_trials: LiveTrials) -> None:
    live_trials.acquit(STUBBORN, "fixed")

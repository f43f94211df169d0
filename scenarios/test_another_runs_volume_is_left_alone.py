"""The end of a run detaches the run's own volumes, and no other run's, whatever their names.

Fault: another run, on another instance, that goes on using a volume of the same name.
Guards dstack issue 3841: a volume in use by one job was detached when another one ended.
"""

import msgspec
import pytest
from hypothesis import strategies as st

from fixtures.systems.detach_controller import SYSTEM
from fixtures.systems.detach_controller.plan import plans
from harness.plugin.systems import LiveTrials

pytestmark = pytest.mark.system("dstack")

NAMESAKES = msgspec.structs.replace(SYSTEM, plans=plans(namesake=st.just(True)))


def test_detach_by_name_is_found(live_trials: LiveTrials) -> None:
    live_trials.convict(NAMESAKES, "detaches-anothers-volume")


def test_another_runs_volume_is_left_alone(live_trials: LiveTrials) -> None:
    live_trials.acquit(NAMESAKES, "fixed")

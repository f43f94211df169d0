"""At any time one live device reaches a volume's image, and an instance with volumes left takes no new run.

Fault: a second run that waits for the first one's volume or for its instance, while that volume is detaching, forced,
or said to be gone; the provider itself would attach it twice, as loop devices do.
Guards dstack issue 2218 (PR 2242): instance and volumes of a run that counts as stopped are used again.
"""

import msgspec
import pytest
from hypothesis import strategies as st

from fixtures.systems.detach_controller import SYSTEM
from fixtures.systems.detach_controller.plan import Second, plans
from harness.plugin.systems import LiveTrials

pytestmark = pytest.mark.system("dstack")

CONTENDED = msgspec.structs.replace(SYSTEM, plans=plans(second=st.sampled_from([Second.VOLUME, Second.INSTANCE])))


def test_reuse_while_detaching_is_found(live_trials: LiveTrials) -> None:
    live_trials.convict(CONTENDED, "reuse-while-detaching")


def test_image_is_attached_once(live_trials: LiveTrials) -> None:
    live_trials.acquit(CONTENDED, "fixed")

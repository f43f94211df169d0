"""A controller that is killed at any of its steps goes on where it was: nothing is attached twice, left over, or stuck.

Fault: SIGKILL to the controller's process, in one plan that takes it through all that it does (a request that raises, a
blind provider, an abort, a force, a second run that waits), at each of its steps by number: before and after each call,
and in the recording of each record, whole or cut. HARNESS_KILLS says how often at each (default 1), each time with
another cut, and another time to come back in.
Guards dstack issue 2218 (PR 2242): what a volume waits for must be in the database, not in a process.
"""

import os

import msgspec
import pytest
from hypothesis import strategies as st

from fixtures.systems.detach_controller import SYSTEM, steps
from fixtures.systems.detach_controller.plan import DetachPlan, Kill, Second, VolumePlan
from harness.plugin.systems import LiveTrials

pytestmark = pytest.mark.system("dstack")

PLAN = DetachPlan(
    volumes=(VolumePlan(held=None, blind=1), VolumePlan(held=20, refusals=1)),
    stop_duration=None,
    abort=30,
    second=Second.VOLUME,
)
BACK_AFTER = (0, 61, 1, 310)


def test_lost_memory_is_found(live_trials: LiveTrials) -> None:
    live_trials.convict(SYSTEM, "forgets-after-crash")


def test_controller_survives_sigkill_at_every_step(live_trials: LiveTrials) -> None:
    times = int(os.environ.get("HARNESS_KILLS", "1"))
    kills = [
        Kill(step=step, down=BACK_AFTER[time % len(BACK_AFTER)], kept=7 * time if time else None)
        for step in range(len(steps(PLAN)))
        for time in range(times)
    ]
    killed = [msgspec.structs.replace(PLAN, kills=(kill,)) for kill in kills]
    every_step = msgspec.structs.replace(SYSTEM, plans=st.sampled_from(killed))
    live_trials.acquit(every_step, "fixed", plans=len(killed))

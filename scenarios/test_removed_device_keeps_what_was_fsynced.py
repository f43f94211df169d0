"""What was fsynced is there after the device was pulled out under the file system.

Fault: hot removal as a drawn operation begins ("attempt to access beyond end of device"); the plan goes on against a
device that is gone. Attached again, the volume is compared with what had been promised before the first fsync failed.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults import At, Remove
from harness.plan.plan import Plan
from harness.plan.strategies import plans, register_profiles
from harness.plugin.plans import PlanJudge

register_profiles()
CI = settings(settings.get_profile("ci"), max_examples=20)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_removed_as_an_operation_begins(plan_judge: PlanJudge, fs: str) -> None:
    @settings(CI)
    @given(plan=plans(operations=(2, 12)), at=st.integers(0, 11))
    def holds(plan: Plan, at: int) -> None:
        n = len(plan.setup) + at % len(plan.operations)
        plan_judge.strike(plan, Remove(at=At.operation(n)), fs=fs)

    holds()

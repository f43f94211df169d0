"""Killing a process loses nothing that it had handed to the kernel.

Fault: SIGKILL of the writer as a drawn operation begins. Its volume lives: it is synced, taken away in order, attached
again, and every operation that had returned must be there, fsynced or not.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults import At, WriterKill
from harness.plan.plan import Plan
from harness.plan.strategies import plans, register_profiles
from harness.plugin.plans import PlanJudge

register_profiles()
CI = settings(settings.get_profile("ci"), max_examples=30)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_killed_as_an_operation_begins(plan_judge: PlanJudge, fs: str) -> None:
    @settings(CI)
    @given(plan=plans(operations=(2, 20)), at=st.integers(0, 19))
    def holds(plan: Plan, at: int) -> None:
        n = len(plan.setup) + at % len(plan.operations)
        plan_judge.strike(plan, WriterKill(at=At.operation(n)), fs=fs)

    holds()

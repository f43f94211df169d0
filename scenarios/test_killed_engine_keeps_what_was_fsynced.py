"""What was fsynced is there after the engine that serves the volume was killed.

Fault: SIGKILL of the engine, as a drawn operation begins; or at the first write of an fsync, before it is done, or done
and not answered. The volume is attached again to what the engine had answered, and compared with what was promised.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults import At, EngineKill, compose, parse_fault
from harness.plan.operations import Creat, Fsync, Write
from harness.plan.plan import Plan
from harness.plan.strategies import plans, register_profiles
from harness.plugin.failure import CrashFailure
from harness.plugin.plans import PlanJudge

register_profiles()
CI = settings(settings.get_profile("ci"), max_examples=30)

LAST = (Creat(path="last"), Write(path="last", length=8192), Fsync(path="last"))


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_killed_as_an_operation_begins(plan_judge: PlanJudge, fs: str) -> None:
    @settings(CI)
    @given(plan=plans(operations=(2, 20)), at=st.integers(0, 19))
    def holds(plan: Plan, at: int) -> None:
        n = len(plan.setup) + at % len(plan.operations)
        plan_judge.strike(plan, EngineKill(at=At.operation(n)), fs=fs)

    holds()


@pytest.mark.parametrize("done", [False, True], ids=["before", "done"])
def test_killed_at_a_write(plan_judge: PlanJudge, done: bool) -> None:
    @settings(CI)
    @given(plan=plans(operations=(2, 12)))
    def holds(plan: Plan) -> None:
        whole = Plan(setup=plan.setup, operations=(*plan.operations, *LAST))
        fsync = At.operation(len(whole.all) - 1)
        plan_judge.strike(whole, EngineKill(at=At.write(1, since=fsync), done=done), fs="ext4")

    holds()


def test_an_engine_that_had_dropped_writes_is_found(plan_judge: PlanJudge) -> None:
    plan = Plan(operations=(*LAST, Creat(path="more")))
    dropped = compose(parse_fault("drop@op:0/write:1,count=0"), EngineKill(at=At.operation(3)))
    with pytest.raises(CrashFailure, match="CORRUPTED"):
        plan_judge.strike(plan, dropped, fs="ext4")

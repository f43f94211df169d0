"""Whatever a plan of file operations does, a default volume keeps what its fsyncs promised, and stays whole.

Fault: power cut at every point of plans that Hypothesis draws: links, renames over, holes, preallocation, many fsyncs
of one file. What is owed is the contract `linux` (docs/contracts.md), each rule of which names its source.
The planted faults, a volume without barriers and a drive that lies about flushes, must be found by the same check.
"""

import pytest
from hypothesis import given, settings

from harness.plan.operations import Creat, Fsync, Mkdir, Rename, Write
from harness.plan.plan import Plan
from harness.plan.strategies import plans, register_profiles
from harness.plugin.plans import PlanJudge
from harness.verdict import FindingKind, Verdict

register_profiles()
CI = settings(settings.get_profile("ci"))

REPLACED = Plan(
    operations=(
        Mkdir(path="A"),
        Creat(path="A/foo"),
        Write(path="A/foo", length=6000),
        Fsync(path="A/foo"),
        Rename(path="A/foo", new="bar"),
        Fsync(path="bar"),
    )
)


@settings(CI, max_examples=80)
@given(plan=plans())
def test_ext4(plan_judge: PlanJudge, plan: Plan) -> None:
    plan_judge.verify(plan, fs="ext4", max_states=80)


@settings(CI, max_examples=25)
@given(plan=plans())
def test_xfs(plan_judge: PlanJudge, plan: Plan) -> None:
    plan_judge.verify(plan, fs="xfs", max_states=25)


@settings(CI, max_examples=25)
@given(plan=plans())
def test_btrfs(plan_judge: PlanJudge, plan: Plan) -> None:
    plan_judge.verify(plan, fs="btrfs", max_states=25)


@settings(CI, max_examples=10)
@given(plan=plans(operations=(1, 4)))
def test_ext4_whose_recovery_is_cut_off_too(plan_judge: PlanJudge, plan: Plan) -> None:
    plan_judge.verify(plan, fs="ext4", depth=2, max_states=40)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_a_replaced_and_renamed_file_is_kept(plan_judge: PlanJudge, fs: str) -> None:
    plan_judge.verify(REPLACED, fs=fs)


@pytest.mark.parametrize(
    "volume",
    [{"mount_options": "nobarrier"}, {"fault": "lying-flush"}, {"mkfs_options": "-O ^has_journal"}],
    ids=["nobarrier", "lying-flush", "no-journal"],
)
def test_a_volume_that_loses_what_was_fsynced_is_found(plan_judge: PlanJudge, volume: dict[str, str]) -> None:
    report = plan_judge.judge(REPLACED, fs="ext4", fsck=False, **volume)
    assert report.verdict is Verdict.CORRUPTED
    kinds = {found.finding.kind for found in report.found}
    assert kinds & {FindingKind.LOST_ACKED, FindingKind.META, FindingKind.UNAVAILABLE}, report.found

"""Labs: plans recorded and judged in a warm process, whatever became of the plan before."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness.campaign.fleet import Job, judged
from harness.machine.process import wait_readable
from harness.plan.operations import Creat, Fallocate, Fsync, Mkdir, Operation, Rename, Write
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.check import replay
from harness.trial.lab import Lab, open_labs
from harness.verdict import FindingKind, Verdict

pytestmark = pytest.mark.root

SETTINGS = Settings(fs="ext4", size=16 << 20, fsck=False, timeout=20.0, max_states=200)
FOO = Creat(path="foo")
SAVED = (FOO, Write(path="foo", length=5000), Fsync(path="foo"))


def plan(*operations: Operation) -> Plan:
    return Plan(operations=operations)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_labs(SETTINGS, 1) as (one,):
        yield one


def test_a_plan_that_persists_what_it_wrote_is_intact(lab: Lab) -> None:
    judgement = lab.judge(plan(*SAVED))
    assert judgement.report.verdict is Verdict.INTACT, judgement.report.found
    assert judgement.report.complete and judgement.report.judged > 3
    assert judgement.report.promises == 1
    assert judgement.recording is None


def test_each_plan_has_a_volume_of_its_own(lab: Lab) -> None:
    """The second and third plan would fail on what the first one left."""
    for n in range(3):
        judgement = lab.judge(plan(Mkdir(path="A"), Creat(path="A/foo", exclusive=True), Fsync(path="A")))
        assert judgement.report.verdict is Verdict.INTACT, (n, judgement.report.found)


def test_failing_operations_are_outcomes(lab: Lab) -> None:
    judgement = lab.judge(plan(Rename(path="none", new="foo"), Creat(path="A/foo"), *SAVED))
    assert judgement.report.verdict is Verdict.INTACT, judgement.report.found


def test_a_volume_that_fills_up_is_unknown_and_the_next_plan_is_judged(lab: Lab) -> None:
    more = [Write(path="foo", length=4 << 20, append=True)] * 3
    full = lab.judge(plan(FOO, Fallocate(path="foo", length=8 << 20), *more))
    assert full.report.verdict is Verdict.UNKNOWN
    assert "filled the volume" in full.report.found[0].finding.summary
    assert lab.judge(plan(*SAVED)).report.verdict is Verdict.INTACT


def test_a_lab_that_is_killed_costs_its_own_plan_alone() -> None:
    with open_labs(SETTINGS, 2) as labs:
        jobs = [Job(n, plan(*SAVED)) for n in range(6)]
        killed = labs[0]._remote.init
        labs[0].submit(plan(*SAVED))
        os.kill(killed.pid, signal.SIGKILL)
        assert wait_readable(killed.fileno(), 10)
        dead = labs[0].collect()
        assert dead.report.verdict in (Verdict.UNKNOWN, Verdict.INTACT)  # it may have answered before
        if dead.report.verdict is Verdict.UNKNOWN:
            assert "died" in dead.report.found[0].finding.summary
        answers = dict(judged(labs, jobs))
    assert {n: answer.report.verdict for n, answer in answers.items()} == dict.fromkeys(range(6), Verdict.INTACT)


def test_a_lying_flush_is_convicted_and_its_bundle_says_so(tmp_path: Path) -> None:
    lying = msgspec.structs.replace(SETTINGS, fault="lying-flush")
    with open_labs(lying, 1) as (one,):
        judgement = one.judge(plan(*SAVED))
    report, recording = judgement.report, judgement.recording
    assert report.verdict is Verdict.CORRUPTED and recording is not None
    assert report.found[0].finding.kind is FindingKind.LOST_ACKED
    assert any("lying" in note or "did not do them" in note for note in report.notes)
    found = report.found[0]
    path = str(tmp_path / "lost.crash")
    content = bundles.pack(recording, lying, state=found.state, finding=found.finding, plan=judgement.plan)
    bundle = bundles.load(bundles.save(path, content))
    assert bundle.manifest.plan == judgement.plan and bundle.manifest.spec.fault == "lying-flush"
    assert replay(bundle).same

"""Live kills: the fault strikes where it was told to, what was promised by then is there, a bundle shows the rest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profile

from harness.faults import At, Drop, EngineKill, Fault, Hang, Remove, WriterKill, compose, parse_fault
from harness.machine import loop, mounts
from harness.plan import operations as op
from harness.plan.plan import Plan
from harness.plan.strategies import plans
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.check import replay
from harness.trial.kill import KillBench, Struck, packed
from harness.trial.plans import plan_checker
from harness.verdict import FindingKind, Verdict
from harness.volume import VolumeSpec, make_base

pytestmark = pytest.mark.root

ROUNDS = Plan(
    setup=(op.Mkdir(path="A"),),
    operations=tuple(
        operation
        for n in range(5)
        for operation in (
            op.Creat(path=f"A/{n}"),
            op.Write(path=f"A/{n}", length=8192),
            op.Fsync(path=f"A/{n}"),
            op.Rename(path=f"A/{n}", new=f"{n}"),
        )
    ),
)


def engine_at(n: int) -> Fault:
    return EngineKill(at=At.operation(n))


def engine_after_write(n: int) -> Fault:
    return EngineKill(at=At.write(n), done=True)


def writer_at(n: int) -> Fault:
    return WriterKill(at=At.operation(n))


def removal_at(n: int) -> Fault:
    return Remove(at=At.operation(n))


FAULTS = {"engine": engine_at, "engine-at-write": engine_after_write, "writer": writer_at, "removal": removal_at}


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def bench(request: pytest.FixtureRequest) -> Iterator[KillBench]:
    settings = Settings(fs=request.param)
    with KillBench(settings, make_base(VolumeSpec.of(settings))) as opened:
        yield opened


@pytest.fixture(scope="module")
def checked() -> Iterator[KillBench]:
    """With fsck after each trial."""
    mounts.enter_private_mounts()
    with KillBench(Settings(), make_base(VolumeSpec.of(Settings()))) as opened:
        yield opened


@pytest.fixture(scope="module")
def ext4() -> Iterator[KillBench]:
    mounts.enter_private_mounts()
    settings = Settings(fsck=False)
    with KillBench(settings, make_base(VolumeSpec.of(settings))) as opened:
        yield opened


def kinds(struck: Struck) -> list[FindingKind]:
    return [finding.kind for finding in struck.findings]


@pytest.mark.parametrize("kind", FAULTS)
def test_what_was_promised_before_the_kill_is_there(bench: KillBench, kind: str) -> None:
    for n in (4, 8, 12):
        struck = bench.trial(ROUNDS, FAULTS[kind](n))
        assert (struck.verdict, struck.findings) == (Verdict.INTACT, [])
        assert struck.hits == 1


def test_the_kill_comes_at_the_operation_that_was_named(ext4: KillBench) -> None:
    for fault in (engine_at(9), writer_at(9)):
        struck = ext4.trial(ROUNDS, fault)
        assert struck.plan.operations[:8] == ROUNDS.operations[:8]
        assert not any(mark.text.startswith(b"op:begin 10") for mark in struck.recording.log.marks)


def test_a_removed_device_answers_nothing_and_the_kernel_says_so(ext4: KillBench) -> None:
    struck = ext4.trial(ROUNDS, removal_at(11))
    assert len(struck.plan.all) == len(ROUNDS.all), "the writer lives, and goes on"
    failed = [
        mark.text for mark in struck.recording.log.marks if b'"errno":5' in mark.text or b'"errno":30' in mark.text
    ]
    assert failed
    assert any("Aborting journal" in line or "beyond end of device" in line for line in struck.kernel)


@profile(max_examples=25, deadline=None, database=None, derandomize=True)
@given(plan=plans(operations=(3, 12)))
def test_no_drawn_plan_is_a_false_alarm(ext4: KillBench, plan: Plan) -> None:
    n = len(plan.setup) + len(plan.operations) // 2
    for fault in (engine_at(n), writer_at(n)):
        struck = ext4.trial(plan, fault)
        assert struck.verdict is Verdict.INTACT, struck.findings


def losing(plan: Plan) -> Fault:
    """The device drops every write, then the engine dies at the last operation."""
    return compose(Drop(count=0), engine_at(len(plan.all) - 1))


def test_a_device_that_lost_writes_is_found_and_its_bundle_shows_it_again(ext4: KillBench, tmp_path: Path) -> None:
    struck = ext4.trial(ROUNDS, losing(ROUNDS))
    assert struck.verdict is Verdict.CORRUPTED, struck.findings
    content = packed(struck, Settings(fsck=False))
    bundle = bundles.load(bundles.save(str(tmp_path / "lost.crash"), content))
    again = replay(bundle, plan_checker(struck.plan, bundle.recording, "linux"))
    assert again.verdict is Verdict.CORRUPTED
    assert kinds(struck)[0] in [finding.kind for finding in again.findings]


def test_a_kill_that_never_came_is_unknown(ext4: KillBench) -> None:
    for fault in (engine_after_write(10_000), engine_at(500)):
        struck = ext4.trial(ROUNDS, fault)
        assert struck.verdict is Verdict.UNKNOWN
        assert "was never met" in struck.findings[0].summary


def test_a_killed_writer_loses_nothing_that_it_did_not_even_sync(ext4: KillBench) -> None:
    plan = Plan(operations=(op.Creat(path="a"), op.Write(path="a", length=4096), op.Creat(path="b")))
    struck = ext4.trial(plan, writer_at(2))
    assert struck.verdict is Verdict.INTACT
    assert struck.plan.operations[-1] == op.Sync(), "and so everything is demanded of the volume"
    assert ext4.trial(plan, compose(writer_at(2), Drop(count=0))).verdict is Verdict.CORRUPTED


def test_an_operation_that_fails_of_itself_is_an_outcome(ext4: KillBench) -> None:
    plan = Plan(setup=(op.Write(path="none", length=4096),), operations=(op.Creat(path="a"),))
    assert ext4.trial(plan, engine_at(1)).verdict is Verdict.INTACT


def test_a_plan_that_hangs_is_given_its_device_back() -> None:
    settings = Settings(fsck=False, timeout=0.3)
    with KillBench(settings, make_base(VolumeSpec.of(settings))) as bench:
        struck = bench.trial(ROUNDS, Hang(at=At.operation(9)))
        assert struck.verdict is Verdict.INTACT
        assert struck.notes[0] == "the plan waited for the device for 0.3 s, then it was given back"
        assert bench.trial(ROUNDS, engine_at(4)).verdict is Verdict.INTACT, "and the next one works"


@pytest.mark.parametrize(
    "text", ["full@op:3", "read-only@op:3", "abort@op:3", "shutdown@op:3", "eio@journal#2", "late@write:4"]
)
def test_other_faults_break_no_promise_that_was_made(checked: KillBench, text: str) -> None:
    struck = checked.trial(ROUNDS, parse_fault(text))
    assert (struck.verdict, struck.findings) == (Verdict.INTACT, [])


def test_nothing_is_left(ext4: KillBench) -> None:
    for fault in FAULTS.values():
        ext4.trial(ROUNDS, fault(5))
    assert not [status for status in loop.bound() if status.label == "live"]

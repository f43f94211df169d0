"""The detach controller, its world and its judge: each rule of the judge can convict, each fault reaches its target."""

from pathlib import Path

import pytest
from kill_support import eventually

from fixtures.systems.detach_controller import SYSTEM, steps
from fixtures.systems.detach_controller import records as r
from fixtures.systems.detach_controller.controller import Memory
from fixtures.systems.detach_controller.history import Attached, Event, History, What
from fixtures.systems.detach_controller.judge import Judge, Medium
from fixtures.systems.detach_controller.messages import State
from fixtures.systems.detach_controller.plan import DetachPlan, Forced, Jump, Kill, Second, VolumePlan
from harness.machine import loop
from harness.machine.kmsg import KernelClass, classify
from harness.machine.owners import Census, Life
from harness.trial.live import Trial
from harness.verdict import Finding, FindingKind, Verdict
from harness.volume.journal import Journal

HELD = VolumePlan(held=None)
DATA = "first/data-0"

CONVICTING = {
    "done-on-request": DetachPlan(volumes=(HELD,)),
    "exception-means-detached": DetachPlan(volumes=(VolumePlan(held=50, blind=1),)),
    "force-without-grace": DetachPlan(volumes=(VolumePlan(held=50),), abort=5),
    "never-force": DetachPlan(volumes=(HELD,), stop_duration=0),
    "reuse-while-detaching": DetachPlan(volumes=(HELD,), second=Second.VOLUME),
    "detaches-anothers-volume": DetachPlan(namesake=True),
    "trusts-wall-clock": DetachPlan(volumes=(VolumePlan(held=50),), jumps=(Jump(at=5, by=3600),)),
    "forgets-after-crash": DetachPlan(volumes=(HELD,), kills=(Kill(step=20),)),
}


@pytest.mark.root
@pytest.mark.parametrize("variant", [variant.name for variant in SYSTEM.variants if variant.finding])
def test_each_fault_shows_as_what_it_is_and_the_right_one_is_acquitted(variant: str) -> None:
    plan = CONVICTING[variant]
    assert SYSTEM.variant(variant).finding in SYSTEM.trial(variant, plan).convictions
    expect_intact(SYSTEM.trial("fixed", plan))


@pytest.mark.root
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(DetachPlan(volumes=(HELD,), jumps=()), id="clock"),
        pytest.param(DetachPlan(volumes=(HELD,), kills=()), id="kill"),
    ],
)
def test_clock_and_kill_are_what_shows_those_two_faults(plan: DetachPlan) -> None:
    for variant in ("trusts-wall-clock", "forgets-after-crash"):
        expect_intact(SYSTEM.trial(variant, plan))


@pytest.mark.root
def test_lie_that_can_be_seen_through_is_and_one_that_cannot_is_nobodys_fault() -> None:
    short = SYSTEM.trial("fixed", DetachPlan(volumes=(VolumePlan(held=None, lies_from=20, lies_for=10),)))
    expect_intact(short)
    assert FindingKind.FALSE_SUCCESS not in [finding.kind for finding in short.findings]
    long = SYSTEM.trial("fixed", DetachPlan(volumes=(VolumePlan(held=None, lies_from=20, lies_for=40),)))
    expect_intact(long)
    excused = [finding.summary for finding in long.findings if finding.kind is FindingKind.FALSE_SUCCESS]
    assert excused and all(summary.endswith("its lie)") for summary in excused)


@pytest.mark.root
@pytest.mark.parametrize(
    ("volume", "again", "seen"),
    [
        pytest.param(VolumePlan(held=None, lies_from=30, lies_for=5), 33, ["30", "70"], id="two-looks-within-one"),
        pytest.param(
            VolumePlan(held=None, lies_from=30, lies_for=5, lies_every=20), None, ["30", "50", "70"], id="two"
        ),
    ],
)
def test_two_lies_that_the_truth_or_no_time_parts_are_seen_through(
    volume: VolumePlan, again: int | None, seen: list[str]
) -> None:
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(volume,), stop_duration=0, again=again))
    expect_intact(trial)
    assert [line.split()[0] for line in lines(trial, "observed detached")] == seen
    assert ended(trial) == 80


@pytest.mark.root
def test_truth_that_was_lost_with_the_controller_does_not_join_two_lies() -> None:
    """Lies at 30 s and 50 s; the answer at 40 s was given, and the controller killed before it could read it."""
    volume = VolumePlan(held=None, lies_from=30, lies_for=5, lies_every=20)
    plan = DetachPlan(volumes=(volume,), stop_duration=0)
    fifth = [step for step, name in enumerate(steps(plan)) if name == "after describe"][4]
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(volume,), stop_duration=0, kills=(Kill(step=fifth, down=10),)))
    expect_intact(trial)
    assert lines(trial, "controller killed: after describe")[0].split()[0] == "40"


@pytest.mark.root
def test_off_never_forces_and_waits_for_the_holder() -> None:
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(VolumePlan(held=400),), stop_duration=None))
    expect_intact(trial)
    assert not lines(trial, "force requested")
    assert ended(trial) == 410  # seen at 400, and again


@pytest.mark.root
@pytest.mark.parametrize(
    ("volume", "end"),
    [
        pytest.param(VolumePlan(), 10, id="no-fault"),
        pytest.param(VolumePlan(held=25), 40, id="held"),
        pytest.param(VolumePlan(completes=25), 40, id="completes-late"),
        pytest.param(VolumePlan(refusals=2), 30, id="request-raises"),
        pytest.param(VolumePlan(held=None, refusals=99), 80, id="request-always-raises"),
        pytest.param(VolumePlan(held=None, refusals=7), 80, id="request-taken-after-force"),
        pytest.param(VolumePlan(blind=3), 40, id="describe-raises"),
        pytest.param(VolumePlan(stale=40), 50, id="describe-stale"),
        pytest.param(VolumePlan(held=None), 80, id="force-works"),
        pytest.param(VolumePlan(held=None, forced=Forced.LATE), 120, id="force-late"),
        pytest.param(VolumePlan(held=None, lies_from=30, lies_for=11), 40, id="describe-lies"),
    ],
)
def test_each_fault_of_the_provider_tells_in_when_the_run_ends(volume: VolumePlan, end: int) -> None:
    """Seen at one poll and again at the next; forced after 60 s."""
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(volume,), stop_duration=0))
    expect_intact(trial)
    assert ended(trial) == end


@pytest.mark.root
@pytest.mark.parametrize("done_anyway", [True, False])
def test_request_that_raises_may_have_been_carried_out(done_anyway: bool) -> None:
    volume = VolumePlan(refusals=1, done_anyway=done_anyway)
    released = lines(SYSTEM.trial("fixed", DetachPlan(volumes=(volume,))), "released")
    assert [line.split()[0] for line in released] == ["0" if done_anyway else "10"]


@pytest.mark.root
def test_controller_that_comes_back_late_goes_on_from_what_it_had_recorded() -> None:
    """Killed once the request was recorded, back after the grace period: it forces at once."""
    plan = DetachPlan(volumes=(HELD,), stop_duration=0)
    step = steps(plan).index("before describe")
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(HELD,), stop_duration=0, kills=(Kill(step=step, down=75),)))
    expect_intact(trial)
    assert lines(trial, "force requested")[0].split()[0] == "75"


@pytest.mark.root
@pytest.mark.parametrize(
    ("plan", "forced"),
    [
        pytest.param(DetachPlan(volumes=(HELD,), stop_duration=None, abort=59), 60, id="abort-59"),
        pytest.param(DetachPlan(volumes=(HELD,), stop_duration=None, abort=60), 60, id="abort-60"),
        pytest.param(DetachPlan(volumes=(HELD,), stop_duration=None, abort=61), 61, id="abort-61"),
        pytest.param(DetachPlan(volumes=(HELD,), stop_duration=None, abort=5, again=9), 60, id="stop-after-abort"),
        pytest.param(DetachPlan(volumes=(HELD,), stop_duration=303), 303, id="stop-duration"),
        pytest.param(DetachPlan(volumes=(VolumePlan(held=None, refusals=3),), stop_duration=0), 60, id="raised-before"),
    ],
)
def test_force_comes_in_the_first_second_that_it_may(plan: DetachPlan, forced: int) -> None:
    trial = SYSTEM.trial("fixed", plan)
    expect_intact(trial)
    assert lines(trial, "force requested")[0].split()[0] == str(forced)


@pytest.mark.root
def test_report_says_who_held_it_what_force_cost_and_what_the_kernel_said() -> None:
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(HELD,), stop_duration=0, data=5000))
    assert lines(trial, "(instance a): descriptor 3 ") and lines(trial, "(instance a): mount ")
    assert [finding.summary for finding in trial.findings] == [f"{DATA}: the forced detach cost 1 file, 5,000 bytes"]
    assert KernelClass.IO_ERROR in [classify(line) for line in trial.kernel]  # the holder went on writing


@pytest.mark.root
@pytest.mark.parametrize("outcome", [Forced.NEVER, Forced.RAISES])
def test_force_that_does_not_work_leaves_it_stopping_and_is_told(outcome: Forced) -> None:
    trial = SYSTEM.trial("fixed", DetachPlan(volumes=(VolumePlan(held=None, forced=outcome),), stop_duration=0))
    expect_intact(trial)
    assert lines(trial, "forced detach does not work: first/data-0")
    assert not lines(trial, "terminated")


@pytest.mark.root
def test_kill_strikes_at_the_step_that_it_names() -> None:
    names = steps(DetachPlan())
    for step in range(0, len(names), 6):
        trial = SYSTEM.trial("fixed", DetachPlan(kills=(Kill(step=step),)))
        expect_intact(trial)
        assert trial.facts["killed"] == names[step]
    late = SYSTEM.trial("fixed", DetachPlan(kills=(Kill(step=len(names) + 100),)))
    expect_intact(late)
    assert late.facts["killed"] == "idle"


@pytest.mark.root
@pytest.mark.parametrize(("kept", "requests"), [(None, 1), (0, 2), (60, 2)])
def test_record_that_was_cut_is_as_if_it_was_never_written(kept: int | None, requests: int) -> None:
    """Of the request for a detach: it is made once more."""
    kill = Kill(step=steps(DetachPlan()).index("recording Requested"), kept=kept)
    trial = SYSTEM.trial("fixed", DetachPlan(kills=(kill,)))
    expect_intact(trial)
    assert [line.endswith("2 times") for line in lines(trial, "detach requested")] == [requests == 2]


@pytest.mark.root
def test_nothing_is_left_of_a_trial() -> None:
    SYSTEM.trial("fixed", DetachPlan(volumes=(HELD, VolumePlan(held=None, forced=Forced.NEVER)), namesake=True))
    assert eventually(lambda: not orphans())


def orphans() -> list[loop.Status]:
    """Devices of trials that are over; others may be going on."""
    census = Census()
    mine = [status for status in loop.bound() if status.label.startswith(("first/", "other/", "second/"))]
    return [status for status in mine if status.owner and census.life(status.owner) is Life.DEAD]


def test_plan_is_its_json() -> None:
    for plan in CONVICTING.values():
        assert SYSTEM.plan(SYSTEM.text(plan)) == plan


RECORDS: list[r.Record] = [
    r.Submitted("first", "a", {"data-0": "vol-0"}, 300),
    r.Placed("first"),
    r.Running("first"),
    r.Stopping("first", aborted=False),
    r.Requested(DATA, 0, accepted=False),
    r.Requested(DATA, 0, accepted=True),
    r.Forced(DATA, 300),
    r.Detached(DATA),
    r.Released("first"),
]


def test_journal_cut_at_any_byte_is_the_state_after_its_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    ends = [0]
    with Journal(str(path), r.Entry) as journal:
        for record in RECORDS:
            journal.append(r.Entry(record))
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        count = max(number for number, end in enumerate(ends) if end <= size)
        with Journal(str(path), r.Entry) as journal:
            assert [entry.record for entry in journal.records] == RECORDS[:count]
            for record in RECORDS[count:]:
                journal.append(r.Entry(record))
        assert path.read_bytes() == whole


def test_records_applied_again_from_the_start_come_to_the_same() -> None:
    one, other = Memory(), Memory()
    for record in RECORDS:
        one.apply(record)
    for record in [*RECORDS, *RECORDS]:
        other.apply(record)
    assert one.runs["first"].state is other.runs["first"].state is State.TERMINATED


def event(at: int, what: What, subject: str, text: str = "", live: tuple[str, ...] = (), note: str = "") -> Event:
    return Event(at, what, subject, text, live, note)


def published(at: int, subject: str, state: State, live: tuple[str, ...] = (), note: str = "") -> Event:
    return event(at, What.PUBLISHED, subject, state, live, note)


ASKED = [event(0, What.ORDERED, "first", "stop"), event(0, What.REQUESTED, DATA)]
GONE = event(5, What.GONE, DATA, "released")
TERMINATED = published(30, "run first", State.TERMINATED)
WAITING = event(20, What.ORDERED, "second", "submit")


def judged(*events: Event, plan: DetachPlan | None = None, medium: tuple[int, int] = (9, 9)) -> list[Finding]:
    """Findings that convict, in a history of three attachments; `medium`: bytes of 9 that are left of the first."""
    names = {DATA: ("vol-0", "a"), "second/data-0": ("vol-0", "b"), "other/data-0": ("vol-other", "a")}
    attached = [
        Attached(id=name, volume=volume, instance=instance, owner=number, device="/dev/loop0")
        for number, (name, (volume, instance)) in enumerate(names.items())
    ]
    history = History(events=[*ASKED, *events], attached=attached)
    media = {DATA: Medium(size=9, fsynced=medium[0], closed=medium[1])}
    findings = Judge(plan or DetachPlan(), history, media).findings()
    return [finding for finding in findings if finding.verdict is Verdict.CORRUPTED]


def kinds(*events: Event, plan: DetachPlan | None = None, medium: tuple[int, int] = (9, 9)) -> list[FindingKind]:
    return [finding.kind for finding in judged(*events, plan=plan, medium=medium)]


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        pytest.param(published(1, f"volume {DATA}", State.DETACHED, (DATA,)), FindingKind.FALSE_SUCCESS, id="volume"),
        pytest.param(published(1, "run first", State.TERMINATED, (DATA,)), FindingKind.FALSE_SUCCESS, id="run"),
        pytest.param(published(31, "run first", State.STOPPING), FindingKind.FALSE_SUCCESS, id="backwards"),
        pytest.param(event(1, What.ATTACHED, "second/data-0", "b", (DATA,)), FindingKind.SPLIT, id="split"),
        pytest.param(event(1, What.ATTACHED, "other/data-0", "a", (DATA,)), FindingKind.BLAST, id="instance-reused"),
        pytest.param(published(1, "instance a", State.IDLE, (DATA,)), FindingKind.BLAST, id="instance-idle"),
        pytest.param(event(1, What.REQUESTED, "other/data-0"), FindingKind.BLAST, id="anothers"),
        pytest.param(event(299, What.FORCED, DATA), FindingKind.FALSE_SUCCESS, id="forced-for-nothing"),
        pytest.param(WAITING, FindingKind.STUCK, id="second-waits"),
    ],
)
def test_judge_finds_what_is_planted_and_nothing_without_it(planted: Event, kind: FindingKind) -> None:
    assert kinds(GONE, TERMINATED) == []
    assert kind in kinds(GONE, TERMINATED, planted)


def test_judge_weighs_the_data_by_how_the_device_went() -> None:
    fenced = event(300, What.GONE, DATA, "fenced")
    assert kinds(GONE, TERMINATED, medium=(9, 0)) == [FindingKind.LOST_CLEAN]
    assert kinds(event(300, What.FORCED, DATA), fenced, TERMINATED, medium=(9, 0)) == []
    assert kinds(event(300, What.FORCED, DATA), fenced, TERMINATED, medium=(3, 0)) == [FindingKind.LOST_ACKED]
    assert kinds(event(299, What.FORCED, DATA), fenced, TERMINATED, medium=(9, 0)) == [FindingKind.LOST_CLEAN]


@pytest.mark.parametrize(
    ("plan", "forced", "early"),
    [
        pytest.param(DetachPlan(stop_duration=0), 59, True, id="grace"),
        pytest.param(DetachPlan(stop_duration=0), 60, False, id="after-grace"),
        pytest.param(DetachPlan(stop_duration=300), 299, True, id="duration"),
        pytest.param(DetachPlan(stop_duration=None), 600, True, id="off"),
    ],
)
def test_judge_knows_when_force_is_due(plan: DetachPlan, forced: int, early: bool) -> None:
    events = [event(forced, What.FORCED, DATA), event(forced, What.GONE, DATA, "fenced"), TERMINATED]
    assert bool(kinds(*events, plan=plan, medium=(9, 0))) is early
    aborted = [event(70, What.ORDERED, "first", "abort"), *events]
    assert bool(kinds(*aborted, plan=plan, medium=(9, 0))) is (forced < 60)


def test_judge_tells_who_waits_in_vain_from_who_must_wait() -> None:
    off = DetachPlan(stop_duration=None)
    deaf = DetachPlan(volumes=(VolumePlan(forced=Forced.NEVER),), stop_duration=0)
    assert kinds() == [FindingKind.STUCK]  # force was due, and would have worked
    assert kinds(GONE) == [FindingKind.STUCK]
    assert kinds(plan=off) == []
    assert kinds(plan=deaf) == [FindingKind.STUCK]  # stays stopping, and says nothing
    assert kinds(published(130, "run first", State.STOPPING, note="force fails"), plan=deaf) == []


@pytest.mark.parametrize(
    ("told", "excused"),
    [
        pytest.param([(0, State.DETACHED), (10, State.DETACHED)], True, id="twice"),
        pytest.param([(0, State.DETACHED), (5, ""), (10, State.DETACHED)], True, id="raised-between"),
        pytest.param([(0, State.DETACHED)], False, id="once"),
        pytest.param([(0, State.DETACHED), (9, State.DETACHED)], False, id="too-close"),
        pytest.param([(0, State.DETACHED), (5, State.DETACHING), (10, State.DETACHED)], False, id="taken-back"),
        pytest.param([], False, id="never-asked"),
    ],
)
def test_judge_excuses_only_what_nobody_could_see_through(told: list[tuple[int, str]], excused: bool) -> None:
    answers = [event(at, What.TOLD, DATA, text) for at, text in told]
    end = published(30, "run first", State.TERMINATED, (DATA,))
    assert kinds(*answers, end, GONE) == ([] if excused else [FindingKind.FALSE_SUCCESS])


def expect_intact(trial: Trial) -> None:
    wrong = [finding for finding in trial.findings if finding.verdict is not Verdict.INTACT]
    assert trial.verdict is Verdict.INTACT, "\n".join([*map(str, wrong), *trial.story])


def ended(trial: Trial) -> int:
    return int(lines(trial, "run first is terminated")[0].split()[0])


def lines(trial: Trial, text: str) -> list[str]:
    return [line for line in trial.story if text in line]

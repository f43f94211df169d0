"""The search for a missing fsync: its order, its honesty, its candidates; plans on the real kernel; the command."""

import json
import shutil
import signal
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_support import HARNESS, harness
from hypothesis import given

from harness.advice.advised import Change, Tried
from harness.advice.plan_changes import additions_of, edits_of, removals_of
from harness.advice.plan_subject import CONTRACT_BROKEN, PlanSubject, hopeless
from harness.advice.search import Search, search
from harness.errors import TrialUnknown
from harness.plan import operations as op
from harness.plan.plan import Plan
from harness.plan.strategies import plans
from harness.settings import Settings
from harness.verdict import ExitCode

LITMUS = str(Path(__file__).parent.parent / "scenarios/litmus")
A, B, C, D, E = (Change(action="fsync", target=name, place=f"at {name}") for name in "abcde")
A_DATA = Change(action="fdatasync", target="a", place="at a")
OWN, SPARE = (Change(action="remove", target=name, place="at z") for name in ("own", "spare"))


class Table:
    """A subject that knows what it comes to: intact with any of `cures`, and without nothing but `spare`."""

    def __init__(self, *cures: set[Change], additions: Sequence[Change] = (A, B, C, D), fails: int = 8) -> None:
        self.cures = cures
        self.offered = additions
        self.fails = fails
        self.asked: list[tuple[Change, ...]] = []

    def additions(self) -> Sequence[Change]:
        return self.offered

    def removals(self) -> Sequence[Change]:
        return [OWN, SPARE]

    def judge(self, changes: Collection[Change]) -> Tried:
        self.asked.append(tuple(changes))
        return Tried(states=20, failing=self.failing(set(changes)), complete=True)

    def failing(self, changes: set[Change]) -> int:
        if OWN in changes:
            return self.fails
        if any(cure <= changes for cure in self.cures):
            return 0
        nearest = max((len(cure & changes) for cure in self.cures), default=0)
        return self.fails - nearest

    def close(self) -> None:
        pass


def test_an_intact_workload_is_judged_once_and_only_its_own_calls_are_left_out() -> None:
    subject = Table(set())
    advice = search(subject)
    assert advice.text == "nothing is missing: 0 of 20 states fail"
    assert [each.text for each in advice.superfluous] == ["without fsync(spare) at z"]
    assert subject.asked == [(), (OWN,), (SPARE,), (SPARE,), (SPARE,)]


def test_one_call_is_found_confirmed_twice_and_its_neighbour_named() -> None:
    subject = Table({A}, {A_DATA}, {C}, additions=(B, A, A_DATA, C))
    advice = search(subject, superfluous=False)
    assert advice.text == "fsync(a) at a: 0 of 20 states fail, was 8"
    assert [each.text for each in advice.others] == ["fdatasync(a) at a"]
    assert subject.asked == [(), (B,), *[(A,)] * 3, *[(A_DATA,)] * 3]
    assert advice.searched == 8 and advice.exhaustive


@pytest.mark.parametrize("cure", [{A, D}, {B, C}])
def test_two_calls_are_found_by_what_each_does_alone(cure: set[Change]) -> None:
    subject = Table(cure)
    advice = search(subject, superfluous=False)
    assert advice.best and set(advice.best.changes) == cure and advice.exhaustive
    pairs = [asked for asked in subject.asked if len(asked) == 2]
    assert set(pairs[0]) == cure  # the first that was tried


@pytest.mark.parametrize("cure", [{A, B, C}, {B, D, E}, {A, B, C, D, E}])
def test_a_larger_set_loses_what_it_does_not_need(cure: set[Change]) -> None:
    advice = search(Table(cure, additions=(A, B, C, D, E)), superfluous=False)
    assert advice.best and set(advice.best.changes) == cure
    assert not advice.exhaustive


def test_where_all_calls_together_do_not_help_it_says_so() -> None:
    subject = Table()
    search_ = Search(subject)
    advice = search_.run()
    assert advice.best is None and advice.superfluous == ()
    assert advice.why.startswith("no fsync helps: with every candidate 8 of 20 states still fail")
    assert [each.failing for each in search_.tried] == [8] * 6
    assert search(Table(), hopeless="the disk lies").why.startswith("the disk lies: no fsync helps, with every")
    assert "every change is synced already" in search(Table(additions=())).why


def test_what_would_fail_with_a_directory_is_tried_without() -> None:
    folder = Change(action="fsync directory", target=".", place="at .")

    class Harmed(Table):
        def failing(self, changes: set[Change]) -> int:
            return 8 if folder in changes else super().failing(changes)

    advice = search(Harmed({A, B}, additions=(A, folder, B)), superfluous=False)
    assert advice.best and set(advice.best.changes) == {A, B}


@pytest.mark.parametrize("lucky", [1, 2])
def test_what_is_intact_only_sometimes_is_not_advised(lucky: int) -> None:
    class Racy(Table):
        def failing(self, changes: set[Change]) -> int:
            return 1 if changes == {A} and self.asked.count((A,)) > lucky else super().failing(changes)

    advice = search(Racy({A}, {B}), superfluous=False)
    assert advice.best and advice.best.changes == (B,)


@pytest.mark.parametrize("flaw", [{"unknown": 1}, {"trouble": "it hung"}, {"states": 0}])
def test_what_was_not_wholly_judged_is_never_intact(flaw: dict[str, Any]) -> None:
    class Flawed(Table):
        def judge(self, changes: Collection[Change]) -> Tried:
            tried = {"states": 20, "failing": 0} | flaw if A in changes else {"states": 20, "failing": 5}
            return Tried(**tried)

    advice = search(Flawed())
    assert advice.best is None and advice.why

    class Unknown(Table):
        def judge(self, changes: Collection[Change]) -> Tried:
            return Tried(changes=tuple(changes), **({"states": 20} | flaw))

    advice = search(Unknown())
    assert not advice.before.intact and advice.why.startswith("it could not be judged") and advice.searched == 1


def test_the_bound_is_kept_and_told() -> None:
    for bound in range(1, 12):
        subject = Table({A, B, C, D, E}, additions=(A, B, C, D, E))
        advice = search(subject, tries_max=bound)
        assert len(subject.asked) == advice.searched == bound
        assert not advice.exhaustive and f"in {bound} run" in advice.why


def test_an_interrupt_keeps_what_is_known() -> None:
    class Interrupted(Table):
        def judge(self, changes: Collection[Change]) -> Tried:
            if OWN in changes:
                raise KeyboardInterrupt
            return super().judge(changes)

    searching = Search(Interrupted({A}))
    advice = searching.run()
    assert searching.interrupted and not advice.exhaustive
    assert advice.best and advice.best.changes == (A,)


def test_a_run_that_fails_costs_that_run_alone() -> None:
    class Failing(Table):
        def judge(self, changes: Collection[Change]) -> Tried:
            if A in changes:
                raise TrialUnknown("the program hung")
            return super().judge(changes)

    searching = Search(Failing({B}), superfluous=False)
    advice = searching.run()
    assert advice.best and advice.best.changes == (B,)
    assert searching.tried[1].trouble == "the program hung"


def plan(*operations: op.Operation, setup: tuple[op.Operation, ...] = ()) -> Plan:
    return Plan(operations=operations, setup=setup)


REPLACE = (
    op.Creat(path="new"),
    op.Write(path="new", length=4096, fill="n"),
    op.Rename(path="new", new="file"),
)


def test_the_fsync_before_what_publishes_is_the_first_candidate() -> None:
    texts = [each.change.text for each in additions_of(plan(*REPLACE))]
    assert texts == [
        "fsync(new) before rename at operation 2",
        "fdatasync(new) before rename at operation 2",
        "fsync(new) before write at operation 1",
        "fsync(file) after rename at operation 2",
        "fdatasync(file) after rename at operation 2",
        "fsync(directory .) after creat at operation 0",
        "fsync(directory .) after rename at operation 2",
        "fsync(directory .) after write at operation 1",
    ]


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        ((op.Creat(path="f"), op.Fsync(path="f")), {(2, "fsync f"), (2, "fsync ."), (3, "fsync .")}),
        ((op.Write(path="old", length=1, how="dsync"),), set()),
        ((op.Write(path="old", length=1), op.Sync()), {(2, "fsync old"), (2, "fdatasync old")}),
        ((op.Mkdir(path="A"), op.Rename(path="A", new="B")), {(2, "fsync ."), (3, "fsync .")}),
        ((op.Rename(path="old", new="A/x"),), {(2, "fsync A/x"), (2, "fsync ."), (2, "fsync A")}),
        ((op.Unlink(path="old"), op.Fsync(path="."), op.Write(path="old", length=1)), {(2, "fsync .")}),
    ],
)
def test_candidates_are_calls_on_what_was_touched_and_not_synced(
    operations: tuple[op.Operation, ...], wanted: set[tuple[int, str]]
) -> None:
    setup = (op.Creat(path="old"),) + ((op.Mkdir(path="A"),) if "A/x" in str(operations) else ())
    found = additions_of(plan(*operations, setup=setup))
    assert {(each.before - (len(setup) - 1), str(each.call)) for each in found} == wanted


@given(plans())
def test_a_change_names_one_call_at_one_place(drawn: Plan) -> None:
    found = additions_of(drawn)
    assert len({each.change for each in found}) == len(found)
    assert all(len(drawn.setup) < each.before <= len(drawn.all) for each in found)
    edits = edits_of(found, ())
    assert [n for n, _ in edits.added] == sorted(each.before for each in found)


def test_calls_that_can_be_left_out_are_named() -> None:
    calls = (op.Fsync(path="f"), op.Fdatasync(path="f"), op.Sync(), op.Write(path="f", length=1, how="sync"))
    told = {change.text: n for change, n in removals_of(plan(*calls, setup=(op.Creat(path="f"),))).items()}
    assert told == {
        "without fsync(f) at operation 1": 1,
        "without fsync(f) at operation 2, the fdatasync": 2,
        "without fsync(.) at operation 3, the sync": 3,
    }


SMALL = Settings(size=16 << 20, fsck=False, timeout=20.0, max_states=200)
KEPT = (
    op.Creat(path="f"),
    op.Write(path="f", length=5000),
    op.Fsync(path="f"),
    op.Fsync(path="."),
    op.Write(path="f", length=300, append=True),
    op.Fdatasync(path="f"),
)


@pytest.mark.root
def test_a_plan_that_is_kept_lacks_nothing_and_its_spare_fsync_is_named() -> None:
    """The promise of a call that is left out is still asked for: else every one of them could go."""
    with PlanSubject.of_plan(plan(*KEPT), SMALL) as subject:
        advice = search(subject)
        assert advice.before.intact, advice
        assert [each.text for each in advice.superfluous] == ["without fsync(.) at operation 3"]
        assert subject.judge(subject.additions()).intact  # every operation still writes what it wrote


@pytest.mark.root
@pytest.mark.parametrize(("fault", "mount_options"), [("lying-flush", ""), ("none", "nobarrier")])
def test_where_the_file_system_breaks_its_contract_no_fsync_is_advised(fault: str, mount_options: str) -> None:
    settings = Settings(fsck=False, timeout=20.0, max_states=60, fault=fault, mount_options=mount_options)
    with PlanSubject.of_plan(plan(*KEPT), settings) as subject:
        advice = search(subject, hopeless=hopeless(settings, contract=True))
    assert advice.before.failing and advice.best is None
    assert advice.why.startswith(CONTRACT_BROKEN) and "no fsync helps" in advice.why
    assert advice.searched == 2


@pytest.mark.root
def test_an_operation_that_fails_promises_nothing_when_it_is_left_out() -> None:
    with PlanSubject.of_plan(plan(*KEPT[:3], op.Fsync(path="none")), SMALL) as subject:
        named = [each.text for each in search(subject).superfluous]
    assert named == ["without fsync(none) at operation 3"]


@pytest.mark.root
def test_a_plan_that_cannot_be_recorded_is_unknown() -> None:
    full = [op.Write(path="f", length=4 << 20, append=True)] * 5
    with PlanSubject.of_plan(plan(op.Creat(path="f"), *full), SMALL) as subject:
        advice = search(subject)
    assert not advice.before.intact and "filled the volume" in advice.why and advice.searched == 1


def write_plan(folder: Path, *operations: op.Operation, setup: tuple[op.Operation, ...] = ()) -> None:
    (folder / "plan.json").write_bytes(plan(*operations, setup=setup).to_json())


@pytest.mark.root
def test_the_command_names_the_fsync_of_a_litmus_test_and_of_its_bundle(tmp_path: Path) -> None:
    file = f"{LITMUS}/atomic-create-via-rename.json"
    ran = harness("advise", file, "--json", "r.json", cwd=tmp_path)
    assert ran.status == ExitCode.CORRUPTED, ran
    text = "add fsync(tmp) before rename at operation 2: 0 of "
    assert ran.out.split("\n")[1].startswith(f" CORRUPTED   {text}")
    assert "+  fsync tmp" in ran.out and "as it is" in ran.out
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["text"].startswith(text) and told["exit_code"] == 1 and told["best"]["intact"]
    assert told["best"]["changes"][0]["action"] == "fsync" and len(told["tried"]) == 3
    assert harness("litmus", file, "--fs", "ext4", "--no-repaired", "--rounds", "1", cwd=tmp_path).status == 0
    bundle = next((tmp_path / "reports").glob("litmus-acvr-ext4-default.crash"))
    again = harness("advise", str(bundle), "--no-superfluous", "-q", cwd=tmp_path)
    assert again.status == ExitCode.CORRUPTED and text in again.out, again


@pytest.mark.root
def test_a_plan_is_held_to_its_contract_or_to_a_check(tmp_path: Path) -> None:
    old = (op.Creat(path="file"), op.Write(path="file", length=4096, fill="o"))
    write_plan(tmp_path, *REPLACE, op.Fsync(path="."), setup=old)
    contract = harness("advise", "plan.json", "--no-superfluous", "-q", cwd=tmp_path)
    assert contract.status == ExitCode.INTACT and "nothing is missing" in contract.out, contract
    check = "case $(head -c1 file)$(stat -c %s file) in o4096|n4096) ;; *) exit 1;; esac"
    fewer = ("--mount-options", "noauto_da_alloc", "--max-states", "50", "--no-fsck")
    checked = harness("advise", "plan.json", "--check", check, *fewer, cwd=tmp_path)
    assert checked.status == ExitCode.CORRUPTED, checked
    assert "add fsync(new) before rename at operation 4: 0 of" in checked.out
    assert "without fsync(.) at operation 5" in checked.out  # the check asks for old or new, not for new


@pytest.mark.root
def test_a_bundle_of_a_plan_on_a_lying_device(tmp_path: Path) -> None:
    write_plan(tmp_path, *KEPT[:3])
    found = harness("plan", "plan.json", "--fault", "lying-flush", "--max-states", "40", "--no-fsck", cwd=tmp_path)
    assert found.status == ExitCode.CORRUPTED, found
    shutil.move(next((tmp_path / "reports").glob("*.crash")), tmp_path / "found.crash")
    ran = harness("advise", "found.crash", cwd=tmp_path)
    assert ran.status == ExitCode.CORRUPTED and CONTRACT_BROKEN in ran.out, ran
    settled = harness("advise", "found.crash", "--fs", "xfs", cwd=tmp_path)
    assert settled.status == ExitCode.MISUSE and "settled" in settled.err, settled


@pytest.mark.root
def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    words = ("advise", f"{LITMUS}/atomic-replace-via-rename.json", "--json", "r.json")
    child = subprocess.Popen([HARNESS, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr
    begun = child.stderr.readline()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == ExitCode.INTERRUPTED, begun + out + err
    assert "interrupted" in err and "Traceback" not in out + err
    assert json.loads((tmp_path / "r.json").read_text())["interrupted"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there must be one workload"),
        (("x.crash", "--workload", "true"), "there must be one workload"),
        (("none.json",), "none.json"),
        (("bad.json",), "not a plan"),
        (("litmus.json",), "litmus.json"),
        (("bad.json", "--tries", "0"), "tries"),
        ((f"{LITMUS}/prefix-append.json", "--check", "true"), "brings its own check"),
    ],
)
def test_misuse_is_told_on_one_screen(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "litmus.json").write_text('{"kind": "crash-harness litmus test"}')
    ran = harness("advise", *words, cwd=tmp_path)
    assert ran.status == ExitCode.MISUSE, ran
    assert said in ran.err
    ran.assert_one_screen()

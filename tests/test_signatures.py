"""One bug has one signature, whatever the seed, the recording and the folder; two bugs have two."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from trial_support import SMALL, judge_with, keeps_promises, recorded, with_settings

from harness.campaign.records import BugSignature
from harness.campaign.signatures import file_system_of, rule_of, shape_of, sighting_of, signature_of
from harness.crash import CrashState
from harness.oracle.checks import RecoveredState
from harness.plan import operations as op
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.lab import open_labs
from harness.trial.report import Found, group
from harness.verdict import Finding, FindingKind, Verdict

NOBARRIER = Settings(mount_options="nobarrier", fsck=False)
CREATED = Plan(operations=(op.Creat(path="foo"), op.Write(path="foo", length=8192), op.Fsync(path="foo")))
RENAMED = Plan(
    operations=(
        op.Creat(path="foo"),
        op.Fsync(path="foo"),
        op.Rename(path="foo", new="bar"),
        op.Fsync(path="bar"),
    )
)
NOWHERE = CrashState(epoch=0, cut=0, kept=0, promises=0, name="")


def finding(summary: str, kind: FindingKind = FindingKind.LOST_ACKED) -> Finding:
    return Finding(kind=kind, summary=summary)


@pytest.mark.root
def test_one_bug_has_one_signature_whatever_the_seed() -> None:
    """nobarrier loses what fsync promised. Each recording is new, and each seed samples other states."""
    by_rule: dict[tuple[str, tuple[str, str]], set[BugSignature]] = {}
    for seed, states in ((1, 80), (2, 80), (3, 300)):
        settings = msgspec.structs.replace(NOBARRIER, seed=seed, max_states=states)
        with open_labs(settings, 1) as (lab,):
            for plan in (CREATED, RENAMED):
                judgement = lab.judge(plan)
                names = [f for f in judgement.report.found if "fsync-names" in f.finding.summary]
                assert names, "the planted bug was not found"
                best = min(names, key=lambda f: f.lost)
                signature = signature_of(best, judgement.recording, settings, plan=plan)
                by_rule.setdefault((plan.id, group(best.finding)), set()).add(signature)
    assert [len(signatures) for signatures in by_rule.values()] == [1, 1]
    one, other = (next(iter(signatures)) for signatures in by_rule.values())
    assert one.file_system == "ext4 -o nobarrier"
    assert one.rule == other.rule == "LOST_ACKED fsync-names"
    assert (one.shape, other.shape) == ("creat write fsync", "creat fsync rename fsync")
    assert one.id != other.id


def tears(state: RecoveredState) -> object:
    """Planted: it says no to what a missing fsync allows, in words of its own."""
    assert not state.promises or os.path.exists(f"{state.path}/ledger"), "the ledger is gone"
    return True


@pytest.mark.root
def test_planted_programs_are_told_apart_and_each_is_the_same_every_time() -> None:
    checks: list[Callable[[RecoveredState], object]] = [keeps_promises, tears]
    found: list[set[str]] = [set(), set()]
    for entries, seed in ((4, 0), (7, 5)):
        settings = with_settings(seed=seed)
        recording = recorded(settings, entries, fsync=False)
        for number, check in enumerate(checks):
            report = judge_with(recording, check, settings).all()
            assert report.verdict is Verdict.CORRUPTED
            sightings = [sighting_of(f, recording, settings, test="t.py::t") for f in report.found]
            found[number].update(sighting.signature.id for sighting in sightings)
            assert all(sighting.states for sighting in sightings)
    assert [len(ids) for ids in found] == [1, 1]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("lost [3, 4, 5] of 12", "lost [7] of 9"),
        ("/a/b is gone [rule fsync-names]", "foo -> bar: neither is there [rule fsync-names]"),
        ("page 3f2a9c01 is torn", "page 00aa12ff is torn"),
        (
            "the kernel reports: EXT4-fs error (device zram1): f:42: comm harness-lab: bad",
            "the kernel reports: EXT4-fs error (device loop7): f:43: comm python3: bad",
        ),
        ("LOST_ACKED 3 entries", "4 entries"),
    ],
)
def test_what_varies_is_not_in_the_rule(one: str, same: str) -> None:
    assert rule_of(finding(one)) == rule_of(finding(same))


def test_what_is_wrong_is_in_the_rule() -> None:
    texts = ["a [rule fsync-names]", "a [rule fsync-data]", "the name is gone", "the data is gone"]
    rules = {rule_of(finding(text, kind)) for text in texts for kind in (FindingKind.TORN, FindingKind.META)}
    assert len(rules) == 8


@pytest.mark.parametrize(
    ("command", "shape"),
    [
        ("python3 /home/me/app.py write --seed 12", "python3 app.py write --seed N"),
        ("python3 /other/place/app.py write --seed 7", "python3 app.py write --seed N"),
        ("'/with space/a.sh' x1 && cat 3", "'a.sh' x1 && cat N"),
        ("cd sub/dir; ./run", "cd sub/dir; ./run"),
    ],
)
def test_a_command_is_the_same_in_every_folder(command: str, shape: str) -> None:
    assert shape_of(None, Commands(workload=command), "") == shape


def test_the_setup_of_a_plan_is_no_part_of_its_shape() -> None:
    plan = Plan(setup=(op.Mkdir(path="d"),), operations=(op.Creat(path="d/f"), op.Fsync(path="d/f")))
    assert shape_of(plan, Commands(workload="x"), "t") == "creat fsync"
    assert shape_of(None, Commands(workload="x"), "t.py::test[1]") == "t.py::test[1]"


def test_what_changes_the_promises_is_in_the_file_system() -> None:
    told = [
        file_system_of(Settings(**changes))
        for changes in (
            {},
            {"mount_options": "nobarrier"},
            {"mkfs_options": "-O ^has_journal"},
            {"fault": "lying-flush"},
            {"model": "torn", "unit": 512},
            {"fs": "xfs"},
        )
    ]
    assert told == [
        "ext4",
        "ext4 -o nobarrier",
        "ext4 mkfs -O ^has_journal",
        "ext4 fault lying-flush",
        "ext4 torn 512",
        "xfs",
    ]
    assert file_system_of(Settings(seed=3, max_states=5, workers=1, size=1 << 30, model="prefix")) == "ext4"


@pytest.mark.root
def test_a_sighting_tells_of_its_bundle_and_how_often_it_came_again(tmp_path: Path) -> None:
    recording = recorded(SMALL, 3, fsync=False)
    report = judge_with(recording).all()
    best = report.found[0]
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "x.crash").write_bytes(b"12345")
    shown = Found(
        finding=best.finding,
        state=best.state,
        lost=best.lost,
        states=4,
        reproduced="2/3",
        bundle=str(folder / "x.crash"),
    )
    told = sighting_of(shown, recording, SMALL, plan=CREATED, reports=str(folder))
    assert (told.bundle, told.size, told.again, told.tries) == ("x.crash", 5, 2, 3)
    assert (told.states, told.operations, told.kind) == (4, 3, best.finding.kind)
    again = signature_of(shown, recording, SMALL, plan=CREATED)
    assert again == told.signature
    deeper = msgspec.structs.replace(shown, deeper=recording)
    assert signature_of(deeper, recording, SMALL, plan=CREATED).file_system == "ext4, second crash"


def test_what_was_never_recorded_has_a_signature_too() -> None:
    found = Found(finding=finding("the lab died (status 9)", FindingKind.HARNESS), state=NOWHERE, lost=0)
    signature = signature_of(found, None, NOBARRIER, plan=CREATED)
    assert signature.rule == "HARNESS the lab died (status N)"
    assert (signature.file_system, signature.lost) == ("ext4 -o nobarrier", "nothing")


def test_text_that_is_no_utf8_does_not_break_an_id() -> None:
    signature = signature_of(
        Found(finding=finding("\udcff is gone"), state=NOWHERE, lost=0),
        None,
        Settings(),
        test="t\udcff",
    )
    assert len(signature.id) == 10

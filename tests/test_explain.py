"""`harness explain`: the story names the file, the lost write or that nothing was sent, and the promise; never more."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ran, harness
from trial_support import judge_with, recorded, with_settings

from harness.crash import CrashState
from harness.explain.explained import Explained, Side
from harness.explain.explaining import explain_bundle, explained
from harness.explain.sides import sides
from harness.oracle.checks import RecoveredState
from harness.plan.operations import Creat, Fdatasync, Fsync, Mkdir, Operation, Rename, Write
from harness.plan.plan import Plan, outcomes_of
from harness.reporting.explained import brief
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.check import save_findings
from harness.trial.plans import record_plan
from harness.trial.recording import Recording
from harness.verdict import Finding, FindingKind, Verdict

pytestmark = pytest.mark.root

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "fixtures/programs"
PINNED = sorted((ROOT / "fixtures/bundles").glob("*.crash"))
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")

PLAN = Plan(
    setup=(Creat(path="foo"),),
    operations=(
        Write(path="foo", length=8192),
        Fsync(path="foo"),
        Write(path="foo", offset=8192, length=4096),
        Fdatasync(path="foo"),
        Rename(path="foo", new="bar"),
        Fsync(path="."),
    ),
)


class Program:
    """One of fixtures/programs, checked once with `harness check`; its bundles by kind of finding."""

    def __init__(self, folder: Path, name: str, variant: str, *options: str, setup: str = "setup") -> None:
        program = f"python3 {PROGRAMS / name}"
        words = ["--workload", f"{program} write {variant}", "--check", f"{program} verify {options[-1]}".strip()]
        words += ["--setup", f"{program} {setup}"] if setup else []
        ran = harness("check", *words, *options[:-1], "--reports", str(folder), "-q", cwd=folder)
        assert ran.status == 1, ran
        self.paths = sorted(folder.glob("*.crash"))

    def explained(self, kind: FindingKind) -> Explained:
        found = [explain(path) for path in self.paths]
        return next(each for each in found if each.kind is kind)


def explain(path: Path) -> Explained:
    return explain_bundle(bundles.load(str(path)), str(path))


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """ext4 without what hides a rename before fsync."""
    options = ("--mount-options", "noauto_da_alloc", "--no-fsck", "")
    return Program(tmp_path_factory.mktemp("renamed"), "replace.py", "rename-before-fsync", *options)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A plan on ext4 that never flushes: whatever it wrote may be lost."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "plan.json").write_bytes(PLAN.to_json())
    words = ("plan", "plan.json", "--mount-options", "nobarrier", "--max-states", "400", "--reports", ".", "-q")
    assert harness(*words, cwd=folder).status == 1
    return sorted(folder.glob("*.crash"))


def test_a_rename_that_overtook_its_data(renamed: Program) -> None:
    found = renamed.explained(FindingKind.TRUNCATED)
    assert re.search(
        r"name /config already led to inode \d+, with a size of 0 bytes \(journal transaction", found.headline
    )
    assert re.search(r"the data of /config \(blocks 0 to \d\) had not been sent to the device before", found.headline)
    assert not found.lost and "The cut lost nothing" in "\n".join(found.story)
    later = next(entry for entry in found.entries if any(p.path == "/config" for p in entry.pieces) and entry.after_cut)
    assert f"event {later.event:,}" in found.headline
    assert {step.state for step in found.steps} >= {"running", "not begun"}


def test_promises_without_fsync(tmp_path: Path) -> None:
    program = Program(tmp_path, "ledger.py", "no-fsync", "--cuts", "promises", "", setup="")
    found = program.explained(FindingKind.LOST_ACKED)
    assert found.headline.startswith("Promise `0` is broken (entry 0 was acknowledged")
    assert "the data of /ledger (blocks 0 to 3) had not been sent to the device" in found.headline
    assert found.broken.startswith("promise 1, `0`, made at event ")
    broken = next(step for step in found.steps if step.promise)
    assert (broken.text, broken.state) == ("up to promise 1: `0`", "in memory only")
    assert "That broke promise 1" in found.story[-1]


def test_an_acknowledgement_before_the_commit(tmp_path: Path) -> None:
    """The data may be on the disk; without the transaction the file does not know of them."""
    program = Program(tmp_path, "ledger.py", "early-ack", "--max-states", "12", "", setup="")
    headline = program.explained(FindingKind.LOST_ACKED).headline
    assert re.match(r"Promise `\d` is broken \(entry", headline) and "/ledger" in headline
    assert re.search("committed only at event|had not been sent|lost the commit block of journal transaction", headline)


def test_a_directory_that_was_never_written(tmp_path: Path) -> None:
    options = ("--fs", "ext2", "--no-fsck", "--max-states", "25", "")
    found = Program(tmp_path, "spool.py", "no-directory-fsync", *options).explained(FindingKind.STALE)
    assert "Promise `0` is broken (job 0 was done" in found.headline
    assert "directory block 0 of /jobs had not been sent" in found.headline
    assert "until then /jobs still had the name 0" in found.headline


def test_names_lost_with_their_transaction(tmp_path: Path) -> None:
    options = ("--mount-options", "nobarrier", "--max-states", "25", "create")
    program = Program(tmp_path, "names.py", "create", *options, setup="setup create")
    found = program.explained(FindingKind.LOST_ACKED)
    assert "the cut lost" in found.headline and "journal transaction" in found.headline
    story = "\n".join(found.story)
    assert "sent the device no flush at all" in story
    assert "/new-0" in story and found.broken


def test_what_a_plan_lost_is_named(planned: list[Path]) -> None:
    told = [explain(path) for path in planned]
    for found in told:
        assert found.lost and "the cut lost" in found.headline
        lost = [entry for entry in found.entries if entry.lost]
        assert {entry.event for entry in lost} == set(found.lost)
        assert all(entry.pieces for entry in lost)
    data = next(found for found in told if found.kind is FindingKind.ZEROED and found.lost_classes == ("data",))
    assert re.search(r"lost the data of /foo \(block", data.headline)
    assert "though inode 12 (/foo) was already there" in data.headline or "already led to inode" in data.headline
    commits = [found for found in told if found.lost_classes == ("journal commit",)]
    assert commits and all("lost the commit block of journal transaction" in found.headline for found in commits)
    assert all("Recovery does a transaction wholly or not at all" in "\n".join(found.story) for found in commits)
    assert any(found.broken.startswith("`fdatasync foo` (operation 4)") for found in told)


def test_writes_of_the_setup_that_were_lost_are_told(planned: list[Path]) -> None:
    """The cut's epoch began before the workload."""
    told = [found for found in map(explain, planned) if found.lost and found.lost[0] < found.begin]
    assert told and all(found.entries[0].event <= found.lost[0] for found in told)


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_pinned_bundles(path: Path) -> None:
    found = explain(path)
    assert found.story and found.headline and not found.lost
    assert "nothing that had been sent was lost" in found.headline
    if found.file_system == "ext4":
        assert "/ did not have the name log" in found.headline
    assert all(len(line) <= 112 for line in brief(found))


@pytest.mark.parametrize("fs", ["xfs", "btrfs"])
def test_other_file_systems(fs: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(PLAN.to_json())
    words = ("plan", "plan.json", "--fs", fs, "--fault", "lying-flush", "--max-states", "40", "--reports", ".", "-q")
    assert harness(*words, cwd=tmp_path).status == 1
    told = [explain(path) for path in sorted(tmp_path.glob("*.crash"))]
    assert all("acknowledged flushes and did not do them" in "\n".join(found.story) for found in told)
    assert any("/foo" in found.headline or "/bar" in found.headline for found in told)


def _durable(recording: Recording, step_durable: int, settings: Settings) -> CrashState:
    """The disk right after that flush, all that came later lost."""
    space = recording.space(settings)
    epoch = next(epoch for epoch in space.epochs if epoch.start == step_durable + 1)
    return CrashState(epoch=epoch.index, cut=step_durable + 1, kept=0, promises=0, name="")


def _as_after(plan: Plan, n: int) -> Callable[[RecoveredState], bool]:
    """A check of what operation `n` of PLAN did."""

    def check(state: RecoveredState) -> bool:
        there = {name: os.path.getsize(f"{state.path}/{name}") for name in ("foo", "bar", "A/x") if _is(state, name)}
        operation = plan.all[n]
        if isinstance(operation, Write):
            return max(there.values(), default=0) >= operation.offset + operation.length
        return "bar" in there if isinstance(operation, Rename) else os.path.isdir(f"{state.path}/A")

    return check


def _is(state: RecoveredState, name: str) -> bool:
    return os.path.exists(f"{state.path}/{name}")


@pytest.mark.parametrize("fs", ["ext4", "ext2"])
def test_what_is_called_durable_is_on_the_disk_from_then_on(fs: str) -> None:
    """And one event earlier it may be lost: the flush is the first that will do."""
    settings = with_settings(fs=fs, fsck=False)
    more: tuple[Operation, ...] = (Mkdir(path="A"), Fsync(path="."))
    plan = Plan(setup=PLAN.setup, operations=PLAN.operations + more)
    recording = record_plan(settings, plan)
    assert len(outcomes_of(recording.log)) == len(plan.all)
    end = CrashState(len(recording.space(settings).epochs) - 1, recording.end, 0, 0, "")
    found = explained(recording, settings, end, None, plan=plan)
    told = [n for n, step in enumerate(found.steps) if step.durable >= 0]
    assert [type(plan.all[n]) for n in told] == [Write, Write, Rename, Mkdir]
    for n in told:
        step = found.steps[n]
        assert step.end < step.durable and step.state == "durable"
        check = _as_after(plan, n)
        assert not judge_with(recording, check, settings).one(_durable(recording, step.durable, settings)), step
        before = max([e.event for e in found.entries if e.what == "flush" and e.event < step.durable], default=-1)
        assert before < 0 or judge_with(recording, check, settings).one(_durable(recording, before, settings)), step


def test_states_of_operations_at_the_cut() -> None:
    settings = with_settings()
    recording = record_plan(settings, PLAN)
    space = recording.space(settings)
    cut = next(mark.at for mark in recording.log.marks if mark.text == b"op:begin 5") + 1
    epoch = next(epoch.index for epoch in space.epochs if epoch.start <= cut <= epoch.stop)
    found = explained(recording, settings, CrashState(epoch, cut, 0, 2, ""), None, plan=PLAN)
    states = [step.state for step in found.steps]
    assert states[1] == states[3] == "durable" and states[5:] == ["running", "not begun"]
    assert "No finding" in found.headline and found.verdict is Verdict.INTACT


def test_a_second_crash(tmp_path: Path) -> None:
    careful = recorded(with_settings(), 2)
    deep = with_settings(depth=2, max_states=12, workers=1)

    def second_time(state: RecoveredState) -> bool:
        """Content with each disk that it sees for the first time."""
        seen = tmp_path / "-".join([*sorted(os.listdir(state.path)), str(len(state.promises))])
        known = seen.exists()
        seen.touch()
        return not known

    report = judge_with(careful, second_time, deep).all()
    report.found = [found for found in report.found if found.deeper]
    save_findings(report, careful, deep, str(tmp_path))
    found = explain(Path(report.found[0].bundle))
    assert found.story[0].startswith("The power went twice (the power went after")
    assert found.entries[0].event == found.begin and found.steps[0].text == "the recovery"


def test_files_that_differ_from_what_the_workload_left(renamed: Program) -> None:
    path = next(path for path in renamed.paths if "truncated" in path.name)
    bundle = bundles.load(str(path))
    assert bundle.manifest.state is not None
    before = Path("/proc/self/mounts").read_text()
    found = {
        side.path: side for side in sides(bundle.recording, bundle.manifest.settings, bundle.manifest.state.state())
    }
    assert Path("/proc/self/mounts").read_text() == before
    assert (found["/config"].what, found["/config"].found_size) == ("shorter", 0)
    assert found["/config"].expected.startswith(b"version 6") and not found["/config"].found
    ran = harness("explain", str(path), cwd=path.parent)
    assert ran.status == 0 and "files that differ: as the workload left it, and after the cut" in ran.out, ran


def test_files_that_are_not_as_a_plan_is_owed(planned: list[Path]) -> None:
    told: dict[tuple[FindingKind, str], Side] = {}
    for path in planned:
        bundle = bundles.load(str(path))
        manifest = bundle.manifest
        assert manifest.state is not None and manifest.finding is not None
        for side in sides(bundle.recording, manifest.settings, manifest.state.state(), manifest.plan):
            told.setdefault((manifest.finding.kind, side.what), side)
    zeroed = told[FindingKind.ZEROED, "content"]
    assert zeroed.first >= 0 and zeroed.expected != zeroed.found
    at = zeroed.first - zeroed.start
    assert zeroed.expected[:at] == zeroed.found[:at] and zeroed.expected[at] != zeroed.found[at] == 0
    assert told[FindingKind.LOST_ACKED, "missing"].path in ("/foo", "/bar")
    assert any(what == "unreadable" for _, what in told) and any(what == "shorter" for _, what in told)


def test_on_the_terminal_and_as_json(renamed: Program, tmp_path: Path) -> None:
    path = str(next(path for path in renamed.paths if "truncated" in path.name))
    ran = harness("explain", path, "--json", "told.json", "--no-sides", cwd=tmp_path)
    assert ran.status == 0 and ran.out.splitlines()[1].startswith(" CORRUPTED   TRUNCATED"), ran
    for word in ("/config", "---- power cut after", "journal commit, transaction", "harness replay"):
        assert word in ran.out
    assert "\x1b" not in ran.out and "files that differ" not in ran.out
    verbose = harness("explain", path, "-v", "--no-sides", cwd=tmp_path)
    assert "every event of the recording" in verbose.out and len(verbose.out) > len(ran.out)
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    assert (told["kind"], told["finding_kind"], told["cut"]) == ("crash-harness explanation", "TRUNCATED", told["cut"])
    alone = harness("explain", path, "--json", "-", cwd=tmp_path).json
    assert alone["headline"] == told["headline"] and alone["sides"] and not told["sides"]


def test_without_root_the_story_is_the_same(renamed: Program, tmp_path: Path) -> None:
    path = str(shutil.copy(next(path for path in renamed.paths if "truncated" in path.name), tmp_path / "b.crash"))
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    mine = harness("explain", path, "--no-sides", cwd=Path("/"))
    powerless = harness("explain", path, cwd=Path("/"), before=POWERLESS)
    assert powerless.status == 0, powerless
    assert powerless.out.startswith(mine.out)
    assert powerless.out.splitlines()[-1].startswith("the files were not compared: ")


def test_a_recording_without_a_state(tmp_path: Path) -> None:
    program = f"python3 {PROGRAMS / 'ledger.py'}"
    words = (
        "--workload",
        f"{program} write fixed",
        "--check",
        "true",
        "--max-states",
        "2",
        "--save",
        "all.crash",
        "-q",
    )
    harness("check", *words, cwd=tmp_path)
    ran = harness("explain", "all.crash", cwd=tmp_path)
    assert ran.status == 0 and "There is no cut" in ran.out and "data block 0 of /ledger" in ran.out, ran
    assert "power cut" not in ran.out


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"", None])
def test_a_wrong_file(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "b.crash").write_bytes(content)
    ran: Ran = harness("explain", "b.crash", cwd=tmp_path)
    assert ran.status == 2, ran
    ran.assert_one_screen()


def test_text_from_a_disk_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    """A name with an escape sequence, and a promise with one."""
    recording = recorded(with_settings(), 1)
    finding = Finding(kind=FindingKind.CHECK, summary="bad \x1b[31m name", output="\x1b]0;title\x07")
    state = CrashState(len(recording.space(Settings()).epochs) - 1, recording.end, 0, 1, "")
    bundles.save(str(tmp_path / "b.crash"), bundles.pack(recording, Settings(), state=state, finding=finding))
    ran = harness("explain", "b.crash", "--no-sides", cwd=tmp_path)
    assert ran.status == 0 and "\x1b" not in ran.out and r"\x1b[31m" in ran.out, ran

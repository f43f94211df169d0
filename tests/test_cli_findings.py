"""`findings`, `rejudge` and what each command leaves in the store of its reports."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import msgspec
import pytest
from cli_support import CAREFUL, CARELESS, HARNESS, bundle_of, harness, place_app
from store_support import BUG, INFO, lines, sighting, trial, whole
from test_cli_run import BAD, GOOD, project, run

from harness.campaign.rejudging import GUARANTEE
from harness.campaign.store import NAME, Store
from harness.trial import bundle as bundles
from harness.verdict import ExitCode, Verdict

pytestmark = pytest.mark.root

PLAN = '{"kind": "crash-harness plan", "operations": [{"op": "creat", "path": "a"}, {"op": "fsync", "path": "a"}]}'


def store_of(folder: Path) -> Store:
    return Store.read(str(folder / "reports"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with app.py, whose one bug was found twice: by two seeds, in two recordings."""
    folder = place_app(tmp_path_factory.mktemp("found"))
    for seed in ("1", "2"):
        assert harness(*CARELESS, "--seed", seed, "--max-states", "30", cwd=folder).status == ExitCode.CORRUPTED
    return folder


def test_a_bug_that_was_found_twice_is_one_row_with_a_command_that_shows_it(found: Path) -> None:
    ran = harness("findings", cwd=found)
    assert ran.status == 0, ran
    (bug,) = store_of(found).bugs()
    assert (bug.count, bug.rate) == (2, "6/6")
    assert bug.signature.shape == "python3 app.py careless"
    for word in (bug.signature.id, "LOST_ACKED", "python3 app.py careless", "1 bug, 2 sightings"):
        assert word in ran.out
    command = next(line.strip() for line in ran.out.splitlines() if "harness replay" in line)
    assert harness(*command.split()[1:], cwd=found).status == ExitCode.CORRUPTED


def test_runs_are_told_apart_and_told_whole(found: Path) -> None:
    store = store_of(found)
    first, second, *_ = store.runs("check")
    assert (first.seed, second.seed) == (1, 2)
    assert "--seed 1" in first.command and first.verdict is Verdict.CORRUPTED and first.ended
    (judged,) = store.trials(first.id)
    assert judged.text.endswith("app.py careless") and judged.judged > 0
    assert judged.guarantee == "python3 app.py verify"
    told = harness("findings", "--run", str(second.id), "--json", "-", cwd=found).json
    assert [(bug["id"], bug["count"]) for bug in told["bugs"]] == [(store.bugs()[0].signature.id, 1)]
    ran = harness("findings", "--run", "99", cwd=found)
    assert ran.status == ExitCode.MISUSE
    ran.assert_one_screen()


def test_the_export_is_every_row_as_json(found: Path, tmp_path: Path) -> None:
    ran = harness("findings", "--export", "-", cwd=found)
    told = lines(ran.out.encode())
    assert {row["table"] for row in told} >= {"run", "trial", "signature", "sighting", "bundle"}
    assert harness("findings", "--export", str(tmp_path / "e.jsonl"), cwd=found).status == 0
    assert [row["table"] for row in lines((tmp_path / "e.jsonl").read_bytes())] == [row["table"] for row in told]
    assert [path.name for path in tmp_path.iterdir()] == ["e.jsonl"]
    ran = harness("findings", "--export", "/dev/full/x", cwd=found)
    assert ran.status == ExitCode.UNKNOWN
    ran.assert_one_screen()


def test_findings_without_a_store_is_misuse(tmp_path: Path) -> None:
    for words in (("findings",), ("rejudge",)):
        ran = harness(*words, cwd=tmp_path)
        assert ran.status == ExitCode.MISUSE
        ran.assert_one_screen()
    assert not list(tmp_path.iterdir())


def test_canaries_are_shown_when_asked_for(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "reports"))
    store.add(store.begin(INFO), [(trial("a", expected=Verdict.CORRUPTED), [sighting()])])
    ran = harness("findings", cwd=tmp_path)
    assert "no findings" in ran.out and "--all" in ran.out and BUG.id not in ran.out
    assert BUG.id in harness("findings", "--all", cwd=tmp_path).out


def test_a_bundle_that_is_gone_is_told(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "reports"))
    store.add(store.begin(INFO), [whole("a")])
    assert "its bundle is gone: reports/a.crash" in harness("findings", cwd=tmp_path).out
    store.forget_bundle("a.crash")
    assert "no bundle of it is kept" in harness("findings", cwd=tmp_path).out


def test_rejudge_says_for_each_bundle_whether_the_verdict_is_the_recorded_one(found: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(found, place)
    first = min(row.path for row in store_of(place).bundles())
    (place / "reports" / first).rename(place / "away")
    ran = harness("rejudge", "--json", "r.json", cwd=place)
    told = json.loads((place / "r.json").read_text())
    by_path = {each["bundle"]: each for each in told["bundles"]}
    gone = by_path.pop(f"reports/{first}")
    assert (gone["now"], gone["same"]) == ("UNKNOWN", False) and "no such file" in gone["trouble"]
    assert all((each["now"], each["same"]) == ("CORRUPTED", True) for each in by_path.values())
    assert "no such file" in ran.out
    store = store_of(place)
    (again,) = store.runs("rejudge")
    assert {one.guarantee for one in store.trials(again.id)} == {GUARANTEE}
    expected = Verdict.CORRUPTED if by_path else Verdict.UNKNOWN
    assert again.verdict is expected and ran.status == expected.exit_code
    (bug,) = store.bugs()
    assert bug.count == 2 + len(by_path)


def test_what_is_repaired_is_intact_when_it_is_rejudged(found: Path, tmp_path: Path) -> None:
    """The check of now is another one: that of the bundle, put where the bundle looks for it first."""
    place = tmp_path / "place"
    shutil.copytree(found, place)
    for path in (place / "reports").glob("*.crash"):
        _with_check(path, "true")
    ran = harness("rejudge", cwd=place)
    assert ran.status == ExitCode.INTACT, ran
    assert "was CORRUPTED" in ran.out and "changed" in ran.out
    (bug,) = store_of(place).bugs()
    assert bug.count == 2


def _with_check(path: Path, check: str) -> None:
    bundle = bundles.load(str(path))
    manifest = bundle.manifest
    assert manifest.state is not None
    path.write_bytes(
        bundles.pack(
            bundle.recording,
            manifest.settings,
            state=manifest.state.state(),
            finding=manifest.finding,
            commands=msgspec.structs.replace(manifest.commands, check=check),
        )
    )


def test_a_bundle_of_a_test_is_rejudged_by_its_test_and_is_unknown_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    project(home, bad=BAD % "verify")
    assert run(home).status == ExitCode.CORRUPTED
    bundle = bundle_of(home)
    here = harness("rejudge", "--json", "-", cwd=home, HARNESS_NO_SKIP="", PYTEST_ADDOPTS="")
    assert here.status == ExitCode.CORRUPTED, here
    assert [each["same"] for each in here.json["bundles"]] == [True]
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(bundle, other / "b.crash")
    away = harness("rejudge", "b.crash", "--json", "-", cwd=other)
    assert away.status == ExitCode.UNKNOWN
    assert "is not here" in away.json["bundles"][0]["trouble"]


def test_the_scenarios_of_a_run_are_kept(tmp_path: Path) -> None:
    project(tmp_path, good=GOOD, bad=BAD % "verify", planted=BAD % "convict")
    assert run(tmp_path).status == ExitCode.CORRUPTED
    store = store_of(tmp_path)
    (ran,) = store.runs("run")
    kept = {one.text: one for one in store.trials(ran.id)}
    assert {one.verdict for one in kept.values()} == {Verdict.INTACT, Verdict.CORRUPTED}
    assert all(one.judged > 0 for one in kept.values())
    assert kept["scenarios/test_good.py::test_fsynced_file_survives"].guarantee == "A fsynced file survives the cut"
    assert kept["scenarios/test_planted.py::test_it"].expected is Verdict.CORRUPTED
    by_test = {bug.signature.shape: bug for bug in store.bugs()}
    assert {test: bug.canary for test, bug in by_test.items()} == {
        "scenarios/test_bad.py::test_it": False,
        "scenarios/test_planted.py::test_it": True,
    }
    assert all((tmp_path / "reports" / bug.bundle).is_file() for bug in by_test.values())


def test_the_other_commands_keep_their_runs(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(PLAN)
    lost = ("--mount-options", "nobarrier", "--no-fsck", "--max-states", "60")
    assert harness("plan", "plan.json", *lost, cwd=tmp_path).status == ExitCode.CORRUPTED
    assert harness("strike", "plan.json", "engine-kill@op:1", cwd=tmp_path).status == ExitCode.INTACT
    assert harness("litmus", "--only", "PA", "--fs", "ext4", "--rounds", "1", *_litmus(), cwd=tmp_path).status == 0
    bundle = next((tmp_path / "reports").glob("ext4-*.crash"))
    again = harness("judge", str(bundle), "--max-states", "60", cwd=tmp_path)
    assert again.status == ExitCode.CORRUPTED
    store = store_of(tmp_path)
    assert [one.kind for one in store.runs()] == ["plan", "strike", "litmus", "judge"]
    assert all(store.totals(one.id).states > 0 and one.ended for one in store.runs())
    plan, strike, litmus, judged = (list(store.trials(one.id)) for one in store.runs())
    assert plan[0].key == judged[0].key
    assert strike[0].text.endswith("struck by engine-kill@op:1")
    assert all(one.expected is one.verdict for one in litmus if "repaired" not in one.text)
    shapes = {bug.signature.shape for bug in store.bugs() if not bug.canary}
    assert shapes == {"creat fsync"}


def _litmus() -> tuple[str, ...]:
    return (str(Path(__file__).parent.parent / "scenarios/litmus"),)


ENUMERATE = ("enumerate", "--ops", "1", "--limit", "12", "--mount-options", "nobarrier", "--max-states", "40")


def test_an_enumeration_keeps_each_sequence_once_though_it_is_resumed(tmp_path: Path) -> None:
    assert harness(*ENUMERATE, "--no-fsck", cwd=tmp_path).status == ExitCode.CORRUPTED
    store = store_of(tmp_path)
    (ran,) = store.runs("enumerate")
    before, bugs = store.totals(ran.id), store.bugs()
    assert before.trials == 12
    assert bugs and all(bug.signature.shape != "not shrunk" and bug.bundle and bug.tries == 3 for bug in bugs)
    assert harness(*ENUMERATE, "--no-fsck", "--resume", cwd=tmp_path).status == ExitCode.CORRUPTED
    assert [one.id for one in store.runs("enumerate")] == [ran.id]
    assert store.totals(ran.id) == before
    assert [(bug.signature, bug.count) for bug in store.bugs()] == [(bug.signature, bug.count) for bug in bugs]


def test_without_a_store_nothing_is_made(tmp_path: Path) -> None:
    place_app(tmp_path)
    assert harness(*CAREFUL, "--no-store", "--max-states", "20", cwd=tmp_path).status == 0
    assert not (tmp_path / "reports").exists()


def test_a_store_that_cannot_be_written_is_told_and_forbids_intact(tmp_path: Path) -> None:
    place_app(tmp_path)
    (tmp_path / "full").mkdir()
    script = 'mount -t tmpfs -o size=4k none full && head -c 9999 /dev/zero > full/c; exec "$@"'
    before = ("unshare", "-m", "sh", "-c", script, "sh")
    ran = harness(*CAREFUL, "--reports", "full", "--max-states", "20", cwd=tmp_path, before=before)
    assert ran.status == ExitCode.UNKNOWN, ran
    assert ran.out.strip().startswith("INTACT")
    assert ran.err.count("the store could not be written") == 1
    ran.assert_one_screen()


def test_a_newer_store_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    place_app(tmp_path)
    store = Store.open(str(tmp_path / "reports"))
    with sqlite3.connect(store.path) as raw:
        raw.execute("PRAGMA user_version = 99")
    for words in (CAREFUL, ("findings",)):
        ran = harness(*words, cwd=tmp_path)
        assert ran.status == ExitCode.MISUSE
        assert "upgrade" in ran.err
        ran.assert_one_screen()


def test_a_run_that_fails_or_is_interrupted_is_in_the_store(tmp_path: Path) -> None:
    place_app(tmp_path)
    assert harness("check", "--workload", "exit 9", cwd=tmp_path).status == ExitCode.UNKNOWN
    words = [HARNESS, "check", "--workload", "touch here; exec sleep 30", "--reports", "reports"]
    ready = tmp_path / "reports" / NAME
    before = len(store_of(tmp_path).runs())
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, env=os.environ) as process:
        assert ready.exists()
        while len(store_of(tmp_path).runs()) == before:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == ExitCode.INTERRUPTED
    told = [(one.verdict, one.interrupted) for one in store_of(tmp_path).runs()]
    assert told == [(Verdict.UNKNOWN, False), (Verdict.UNKNOWN, True)]

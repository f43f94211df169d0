"""`harness plan`, `enumerate` and `shrink` as a user runs them, on the real kernel."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_support import HARNESS, harness

from harness.verdict import ExitCode

pytestmark = pytest.mark.root

SAVED = [
    {"op": "mkdir", "path": "A"},
    {"op": "creat", "path": "foo"},
    {"op": "write", "path": "foo", "length": 5000},
    {"op": "fsync", "path": "foo"},
]
LYING = ("--fault", "lying-flush")


def plan_file(folder: Path, operations: object = SAVED, **more: object) -> str:
    content = {"kind": "crash-harness plan", "schema": 1, "operations": operations} | more
    (folder / "plan.json").write_text(json.dumps(content))
    return "plan.json"


def test_a_plan_that_its_file_system_keeps_is_intact(tmp_path: Path) -> None:
    ran = harness("plan", plan_file(tmp_path), "--json", "-", cwd=tmp_path)
    assert ran.status == ExitCode.INTACT, ran
    assert ran.json["verdict"] == "INTACT" and ran.json["states"]["complete"]


def test_a_plan_comes_from_standard_input_too(tmp_path: Path) -> None:
    text = (tmp_path / plan_file(tmp_path)).read_text()
    ran = harness("plan", "-", "--cuts", "promises", "--no-fsck", cwd=tmp_path, stdin=text)
    assert ran.status == ExitCode.INTACT, ran


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"operations": [{"op": "creet", "path": "foo"}]}, "creet"),
        ({"operations": [{"op": "creat", "path": "../foo"}]}, "leaves the volume"),
        ({"operations": [{"op": "write", "path": "foo", "offset": -1, "length": 1}]}, "operations[0].offset"),
        ({"schema": 99}, "schema 99"),
        ({"kind": "something"}, "not a plan"),
    ],
)
def test_a_bad_plan_is_misuse(tmp_path: Path, change: dict[str, object], said: str) -> None:
    content = {"kind": "crash-harness plan", "operations": SAVED} | change
    (tmp_path / "plan.json").write_text(json.dumps(content))
    ran = harness("plan", "plan.json", cwd=tmp_path)
    assert ran.status == ExitCode.MISUSE, ran
    ran.assert_one_screen()
    assert said in ran.err


def test_a_plan_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    ran = harness("plan", "none.json", cwd=tmp_path)
    assert ran.status == ExitCode.MISUSE, ran
    ran.assert_one_screen()


def test_a_lost_promise_is_bundled_shown_replayed_and_shrunk(tmp_path: Path) -> None:
    found = harness("plan", plan_file(tmp_path), *LYING, "--max-states", "60", "--no-fsck", cwd=tmp_path)
    assert found.status == ExitCode.CORRUPTED, found
    assert "LOST_ACKED" in found.out and "did not do them" in found.out
    bundle = next((tmp_path / "reports").glob("*lost_acked*.crash"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(bundle, elsewhere / "found.crash")
    shown = harness("show", "found.crash", cwd=elsewhere)
    assert shown.status == ExitCode.INTACT, shown
    assert "fsync foo" in shown.out and "power cut" in shown.out
    for _ in range(3):
        replayed = harness("replay", "found.crash", cwd=elsewhere)
        assert replayed.status == ExitCode.CORRUPTED, replayed
        assert "the verdict recorded in the bundle" in replayed.out
    judged = harness("judge", "found.crash", "--max-states", "20", "--no-fsck", cwd=elsewhere)
    assert judged.status == ExitCode.CORRUPTED, judged
    small = harness("shrink", "found.crash", "-o", "small.crash", cwd=elsewhere)
    assert small.status == ExitCode.CORRUPTED, small
    content = harness("show", "small.crash", "--json", cwd=elsewhere).json
    assert len(content["manifest"]["plan"]["operations"]) <= 3
    assert len(content["state"]["lost"]) <= 2
    assert harness("replay", "small.crash", cwd=elsewhere).status == ExitCode.CORRUPTED


def test_enumerated_sequences_on_default_ext4_are_intact_and_counted(tmp_path: Path) -> None:
    words = ("enumerate", "--ops", "1", "--limit", "12", "--cuts", "promises", "--no-fsck", "--json", "-")
    ran = harness(*words, cwd=tmp_path)
    assert ran.status == ExitCode.INTACT, ran
    assert ran.json["judged"] == ran.json["total"] == 12
    assert "328" in ran.err and "published" in ran.err


def test_an_interrupted_enumeration_is_resumed(tmp_path: Path) -> None:
    words = ("enumerate", "--ops", "1", "--limit", "120", "--no-fsck", "-q")
    child = subprocess.Popen([HARNESS, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not _lines(tmp_path) > 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == ExitCode.INTERRUPTED, out + err
    assert "--resume" in err and "Traceback" not in err
    before = _lines(tmp_path)
    assert 10 < before <= 121
    again = harness(*words, "--resume", "--json", "report.json", cwd=tmp_path)
    assert again.status == ExitCode.INTACT, again
    assert _lines(tmp_path) == 121
    assert "judged before" in again.out


def _lines(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (folder / "reports").glob("enumerate-*.jsonl"))


def test_shards_are_parts_of_the_list(tmp_path: Path) -> None:
    whole = harness("enumerate", "--ops", "1", "--list", cwd=tmp_path).out.splitlines()
    parts = [harness("enumerate", "--ops", "1", "--list", "--shard", f"{n}/3", cwd=tmp_path).out for n in (1, 2, 3)]
    assert sorted(whole) == sorted(line for part in parts for line in part.splitlines())
    assert len(whole) == 328


@pytest.mark.parametrize(
    "words",
    [
        ("--ops", "1", "--shard", "4/3"),
        ("--ops", "1", "--shard", "x"),
        ("--ops", "4"),
        ("--ops", "1", "--contract", "none"),
        (),
    ],
)
def test_wrong_words_are_misuse(tmp_path: Path, words: tuple[str, ...]) -> None:
    ran = harness("enumerate", *words, cwd=tmp_path)
    assert ran.status == ExitCode.MISUSE, ran
    ran.assert_one_screen()


@pytest.mark.parametrize(
    "options",
    [("--mount-options", "nobarrier"), ("--mkfs-options", "-O ^has_journal"), LYING],
    ids=["nobarrier", "no-journal", "lying"],
)
def test_a_volume_that_keeps_nothing_is_convicted_and_shrunk(tmp_path: Path, options: tuple[str, str]) -> None:
    words = ("enumerate", "--ops", "1", "--limit", "8", "--max-states", "60", "--no-fsck")
    ran = harness(*words, *options, "--json", "-", cwd=tmp_path)
    assert ran.status == ExitCode.CORRUPTED, ran
    corrupted = [finding for finding in ran.json["findings"] if finding["verdict"] == "CORRUPTED"]
    assert corrupted
    assert all(len(finding["plan"]) <= 4 and finding["lost"] <= 2 for finding in corrupted), corrupted
    assert harness("replay", corrupted[0]["bundle"], cwd=tmp_path).status == ExitCode.CORRUPTED

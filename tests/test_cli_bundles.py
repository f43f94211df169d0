"""`replay`, `show`, `export` and `judge`: what a bundle is good for after the run that made it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from cli_support import CARELESS, bundle_of, harness, place_app

from harness.blocklog import BlockLog
from harness.trial import bundle as bundles
from harness.verdict import Finding, FindingKind, Verdict

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with app.py and the bundle of its one finding in reports/."""
    folder = place_app(tmp_path_factory.mktemp("found"))
    assert harness(*CARELESS, cwd=folder).status == 1
    return folder


def test_replay_gives_the_same_verdict_where_nothing_else_is(found: Path, tmp_path: Path) -> None:
    shutil.copy(bundle_of(found), tmp_path / "b.crash")
    moved = found / "app.py"
    hidden = found / "hidden.py"
    moved.rename(hidden)
    try:
        ran = harness("replay", "b.crash", "--json", "r.json", cwd=tmp_path)
    finally:
        hidden.rename(moved)
    assert ran.status == 1, ran
    assert "the verdict recorded in the bundle" in ran.out
    assert "LOST_ACKED" in ran.out
    told = json.loads((tmp_path / "r.json").read_text())
    assert (told["verdict"], told["same_verdict"], told["exit_code"]) == ("CORRUPTED", True, 1)


def test_replay_says_plainly_that_the_verdict_differs(found: Path, tmp_path: Path) -> None:
    bundle = bundles.load(str(bundle_of(found)))
    commands = msgspec.structs.replace(bundle.manifest.commands, check="true")
    state = bundle.manifest.state
    assert state is not None
    finding = Finding(kind=FindingKind.CHECK, summary="was wrong once")
    packed = bundles.pack(
        bundle.recording, bundle.manifest.settings, state=state.state(), finding=finding, commands=commands
    )
    (tmp_path / "other.crash").write_bytes(packed)
    ran = harness("replay", "other.crash", cwd=tmp_path)
    assert ran.status == 0, ran
    assert "not what was recorded: CORRUPTED" in ran.out
    assert "was wrong once" in ran.out
    assert "then" in ran.out
    assert "now" in ran.out


def test_replay_of_a_whole_recording_points_to_judge(found: Path, tmp_path: Path) -> None:
    bundle = bundles.load(str(bundle_of(found)))
    (tmp_path / "all.crash").write_bytes(bundles.pack(bundle.recording, bundle.manifest.settings))
    ran = harness("replay", "all.crash", cwd=tmp_path)
    assert ran.status == 2, ran
    assert "harness judge" in ran.err


def test_replay_of_a_test_that_is_not_here(found: Path, tmp_path: Path) -> None:
    bundle = bundles.load(str(bundle_of(found)))
    state = bundle.manifest.state
    assert state is not None
    packed = bundles.pack(bundle.recording, bundle.manifest.settings, state=state.state(), test="test_gone.py::test_it")
    (tmp_path / "t.crash").write_bytes(packed)
    ran = harness("replay", "t.crash", cwd=tmp_path)
    assert ran.status == 2, ran
    assert "test_gone.py is not here" in ran.err
    ran.assert_one_screen()


def test_show_tells_plan_epochs_cut_losses_and_verdict_without_root(found: Path) -> None:
    ran = harness("show", str(bundle_of(found)), cwd=found)
    assert ran.status == 0, ran
    for word in ("workload", "check", "app.py", "ext4 of 64 MiB", "<== power cut after", "promises", "CORRUPTED"):
        assert word in ran.out
    for folder in [found, *found.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    again = harness("show", str(bundle_of(found)), cwd=Path("/"), before=powerless)
    assert again.status == 0, again
    assert again.out == ran.out


def test_show_lists_every_event(found: Path) -> None:
    path = bundle_of(found)
    ran = harness("show", str(path), "--log", cwd=found)
    events = bundles.load(str(path)).recording.log.events
    assert f"{len(events) - 1:>8}  mark    end" in ran.out
    assert "power cut ---" in ran.out
    assert "promise:f0" in ran.out


def test_show_as_json(found: Path) -> None:
    path = bundle_of(found)
    told = harness("show", str(path), "--json", "--log", cwd=found).json
    assert told["manifest"]["finding"]["verdict"] == "CORRUPTED"
    assert len(told["log"]) == told["recording"]["events"]
    assert sum(row["promises"] for row in told["epochs"]) == len(told["promises"]) == 5


def test_show_piped_into_head_is_quiet(found: Path) -> None:
    path = bundle_of(found)
    ran = harness(cwd=found, before=("bash", "-c", f'set -o pipefail; "$0" show --log {path} | head -1'))
    assert (ran.status, ran.err) == (0, "")
    assert len(ran.out.splitlines()) == 1


def test_export_writes_files_that_other_tools_read(found: Path, tmp_path: Path) -> None:
    ran = harness("export", str(bundle_of(found)), "out", cwd=tmp_path)
    assert ran.status == 0, ran
    assert sorted(os.listdir(tmp_path / "out")) == ["base.img", "log.dmlw", "manifest.json", "state.img"]
    recording = bundles.load(str(bundle_of(found))).recording
    assert (tmp_path / "out/base.img").read_bytes() == recording.base.read(0, recording.base.size)
    assert BlockLog.parse((tmp_path / "out/log.dmlw").read_bytes()).events == recording.log.events
    assert json.loads((tmp_path / "out/manifest.json").read_text())["spec"]["fs"] == "ext4"
    sparse = os.stat(tmp_path / "out/state.img")
    assert sparse.st_size == recording.base.size
    assert sparse.st_blocks * 512 < sparse.st_size // 8
    fsck = subprocess.run(["e2fsck", "-fn", "out/base.img"], cwd=tmp_path, capture_output=True)
    assert fsck.returncode == 0
    again = harness("export", str(bundle_of(found)), "out", cwd=tmp_path)
    assert again.status == 2
    assert "is not empty" in again.err


def test_export_to_a_full_disk(found: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    script = 'mount -t tmpfs -o size=16k none full; exec "$@"'
    ran = harness(
        "export", str(bundle_of(found)), "full", cwd=tmp_path, before=("unshare", "-m", "sh", "-c", script, "sh")
    )
    assert ran.status == 3, ran
    ran.assert_one_screen()
    assert "No space left" in ran.err


def test_judge_a_bundle_again_with_another_model_and_check(found: Path, tmp_path: Path) -> None:
    path = str(bundle_of(found))
    torn = harness("judge", path, "--model", "torn", "--max-states", "10", cwd=tmp_path)
    assert torn.status == 1, torn
    assert "torn model" in torn.out
    assert len(list((tmp_path / "reports").glob("*.crash"))) >= 1
    content = harness("judge", path, "--check", "true", "-q", cwd=tmp_path)
    assert content.status == 0, content
    late = harness("judge", path, "--begin", "1000000", cwd=tmp_path)
    assert late.status == 2
    fixed = harness("judge", path, "--fs", "xfs", cwd=tmp_path)
    assert fixed.status == 2
    assert "--fs was settled" in fixed.err


def test_judge_a_foreign_log_over_a_base_image(found: Path, tmp_path: Path) -> None:
    assert harness("export", str(bundle_of(found)), "out", cwd=tmp_path).status == 0
    source = ("--base", "out/base.img", "--log", "out/log.dmlw")
    before = (tmp_path / "out/base.img").read_bytes()
    check = f"python3 {found}/app.py verify"
    own = harness("judge", str(bundle_of(found)), "--json", "-", cwd=tmp_path).json
    ran = harness("judge", *source, "--check", check, "--sector-size", "4096", "--json", "-", cwd=tmp_path)
    assert ran.status == 1, ran
    assert ran.json["states"]["judged"] == own["states"]["judged"]
    assert ran.json["findings"][0]["state"]["name"] == own["findings"][0]["state"]["name"]
    assert (tmp_path / "out/base.img").read_bytes() == before
    replayed = harness("replay", ran.json["findings"][0]["bundle"], cwd=tmp_path)
    assert replayed.status == 1, replayed
    assert harness("judge", *source, "--fs", "ext4", "-q", cwd=tmp_path).status == 0


def test_judge_rejects_what_does_not_belong_together(found: Path, tmp_path: Path) -> None:
    assert harness("export", str(bundle_of(found)), "out", cwd=tmp_path).status == 0
    log = (tmp_path / "out/log.dmlw").read_bytes()
    (tmp_path / "cut.dmlw").write_bytes(log[: len(log) // 2])
    (tmp_path / "noise").write_bytes(os.urandom(8192))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "small.img").write_bytes(bytes(64 << 10))
    for base, name, said in (
        ("out/base.img", "cut.dmlw", "cut off"),
        ("out/base.img", "noise", "magic"),
        ("out/base.img", "empty", "is empty"),
        ("small.img", "out/log.dmlw", "of the log reaches byte"),
        ("empty", "out/log.dmlw", "which is no disk"),
        ("out/base.img", "out", "directory"),
    ):
        ran = harness("judge", "--base", base, "--log", name, cwd=tmp_path)
        assert ran.status == 2, ran
        assert said in ran.err, ran
        ran.assert_one_screen()


def test_a_shell_that_reads_a_script_sees_the_recovered_volume(found: Path) -> None:
    path = bundle_of(found)
    before = path.read_bytes()
    script = 'pwd; echo "$HARNESS_VOLUME"; cat "$HARNESS_PROMISES"; touch new && ls; ps ax | wc -l\n'
    ran = harness("replay", str(path), "--shell", cwd=found, stdin=script, SHELL="/bin/sh")
    assert ran.status == 1, ran
    lines = ran.out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  exit to leave"))
    assert lines[at + 1] == lines[at + 2]
    assert "f0" in lines[at + 3 :]
    assert "new" in lines[at + 3 :]
    assert path.read_bytes() == before
    assert Verdict.CORRUPTED in ran.out

"""`harness check` as a user runs it: verdicts, exit codes, the report, JSON, what it leaves behind."""

import json
import os
from pathlib import Path

import pytest
from cli_support import CAREFUL, CARELESS, bundle_of, harness, place_app

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return place_app(tmp_path)


def test_a_careful_program_is_intact(app: Path) -> None:
    ran = harness(*CAREFUL, cwd=app)
    assert ran.status == 0, ran
    assert ran.out.strip().startswith("INTACT")
    assert "distinct states that the subset model allows" in ran.out
    assert "5 promises" in ran.out
    assert not list((app / "reports").glob("*.crash"))


def test_a_careless_program_is_corrupted_and_each_finding_names_one_replay_command(app: Path) -> None:
    ran = harness(*CARELESS, cwd=app)
    assert ran.status == 1, ran
    assert ran.out.strip().startswith("CORRUPTED")
    for word in ("LOST_ACKED", "fsynced or acknowledged, gone", "seen again 3/3", " events, in epoch", "promises"):
        assert word in ran.out
    commands = [line.split("replay", 1)[1].strip() for line in ran.out.splitlines() if "harness replay" in line]
    assert commands == [f"harness replay reports/{bundle_of(app).name}"]


def test_plain_lines_on_stderr_where_it_is_no_terminal(app: Path) -> None:
    ran = harness(*CAREFUL, cwd=app)
    lines = ran.err.splitlines()
    # A slow machine also gets a line of progress every few seconds.
    assert all(line.endswith("...") or line.startswith("judging crash states: ") for line in lines)
    assert any("recording the workload" in line for line in lines)
    assert "\x1b" not in ran.err + ran.out


def test_quiet_prints_the_report_alone(app: Path) -> None:
    ran = harness(*CAREFUL, "-q", cwd=app)
    assert ran.err == ""
    assert "INTACT" in ran.out


def test_json_on_stdout_holds_the_finding_whole(app: Path) -> None:
    ran = harness(*CARELESS, "--json", "-", "--seed", "7", cwd=app)
    report = ran.json
    assert (report["schema"], report["verdict"], report["exit_code"]) == (1, "CORRUPTED", 1)
    assert report["settings"]["seed"] == 7
    assert report["commands"]["workload"].startswith("python3 /")
    assert report["recording"]["volume"]["fs"] == "ext4"
    assert report["states"]["judged"] == report["states"]["selected"] > 0
    (finding,) = report["findings"]
    assert finding["kind"] == "LOST_ACKED"
    assert finding["replay"] == f"harness replay {finding['bundle']}"
    promises = finding["state"]["promises"]
    assert promises["made"] >= 1
    assert promises["last"][-1]["text"].startswith("f")
    assert ran.status == 1
    assert "CORRUPTED" in ran.err


def test_json_file_is_written_also_when_the_trial_ends_in_an_error(app: Path) -> None:
    ran = harness("check", "--workload", "echo something is wrong; exit 7", "--json", "out/report.json", cwd=app)
    assert ran.status == 3, ran
    ran.assert_one_screen()
    assert "something is wrong" in ran.err
    report = json.loads((app / "out/report.json").read_text())
    assert report["verdict"] == "UNKNOWN"
    assert report["exit_code"] == 3
    assert report["error"]["type"] == "WorkloadFailed"
    assert "something is wrong" in report["error"]["output"]


def test_promises_that_are_not_utf8_and_output_with_control_characters(app: Path) -> None:
    workload = r"""printf '\377\376end\n' > "$HARNESS_PROMISE"; printf x > a"""
    check = r"""grep -q end "$HARNESS_PROMISES" || exit 0; test -s a || { printf 'bad \033[2J\377\n'; exit 1; }"""
    ran = harness("check", "--workload", workload, "--check", check, "--json", "r.json", cwd=app)
    assert ran.status == 1, ran
    assert "\x1b" not in ran.out
    assert r"\xff\xfeend" in ran.out
    (finding,) = json.loads((app / "r.json").read_text())["findings"]
    assert finding["state"]["promises"]["last"][0]["base64"] == "//5lbmQ="


def test_a_check_that_says_no_without_a_cut_gives_no_verdict(app: Path) -> None:
    ran = harness("check", "--workload", "touch a", "--check", "echo never right; false", cwd=app)
    assert ran.status == 3, ran
    ran.assert_one_screen()
    assert "never right" in ran.err


def test_a_check_that_hangs_gives_unknown(app: Path) -> None:
    ran = harness("check", "--workload", "touch a", "--check", "sleep 60", "--timeout", "1", cwd=app)
    assert ran.status == 3, ran
    assert "INTACT" not in ran.out


def test_without_a_check_mount_and_fsck_judge_alone(app: Path) -> None:
    ran = harness("check", "--workload", "python3 app.py careless", "--max-states", "20", cwd=app)
    assert ran.status == 0, ran


def test_setup_and_save_and_settings(app: Path) -> None:
    words = (
        "--setup",
        "mkdir data",
        "--save",
        "all.crash",
        "--model",
        "prefix",
        "--fs",
        "ext2",
        "--no-fsck",
        "--size",
        "16M",
    )
    ran = harness("check", "--workload", "touch data/a", "--check", "test -d data", *words, cwd=app)
    assert ran.status == 0, ran
    assert "ext2 of 16 MiB" in ran.out
    assert "prefix model" in ran.out
    assert "not run (--no-fsck)" in ran.out
    shown = harness("show", "all.crash", cwd=app)
    assert "a whole recording; no crash state was chosen" in shown.out


def test_a_full_disk_under_the_reports_does_not_hide_the_verdict(app: Path) -> None:
    script = 'mount -t tmpfs -o size=4k none full && touch full/a full/b && head -c 9999 /dev/zero > full/c; exec "$@"'
    (app / "full").mkdir()
    before = ("unshare", "-m", "sh", "-c", script, "sh")
    ran = harness(*CARELESS, "--reports", "full", cwd=app, before=before)
    assert ran.status == 1, ran
    assert "CORRUPTED" in ran.out
    assert "could not be written" in ran.err
    assert "No space left" in ran.err
    assert "no bundle of this finding was saved" in ran.out
    intact = harness(*CAREFUL, "--json", "full/report.json", cwd=app, before=before)
    assert intact.status == 3, intact
    assert "INTACT" in intact.out


def test_a_full_disk_under_the_output_is_no_success(app: Path) -> None:
    words = " ".join(f"'{word}'" for word in CAREFUL)
    ran = harness(cwd=app, before=("sh", "-c", f'"$0" {words} > /dev/full'))
    assert ran.status == 3, ran
    assert "No space left" in ran.err


def test_a_reader_that_goes_away_is_no_error(app: Path) -> None:
    words = " ".join(f"'{word}'" for word in CARELESS)
    ran = harness(cwd=app, before=("bash", "-c", f'set -o pipefail; "$0" {words} | head -1'))
    assert ran.status == 1, ran
    assert "BrokenPipe" not in ran.err
    assert "Traceback" not in ran.err


def test_terminals_that_know_only_ascii(app: Path) -> None:
    ran = harness(*CARELESS, cwd=app, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert ran.status == 1, ran
    assert ran.out.isascii()


def test_nothing_is_left_behind(app: Path) -> None:
    before = set(os.listdir(app))
    harness(*CAREFUL, cwd=app)
    assert set(os.listdir(app)) == before | {"reports"}
    for name in os.listdir("/sys/block"):
        backing = f"/sys/block/{name}/loop/backing_file"
        if name.startswith("loop") and os.path.exists(backing):
            with open(backing) as file:
                assert str(app) not in file.read()

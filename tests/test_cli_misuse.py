"""What a user gets wrong: one screen with cause and remedy, the right exit code, and never a verdict of INTACT."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import CAREFUL, CARELESS, bundle_of, harness, place_app

from harness.settings import DECLARED, OF_PLANS
from harness.verdict import ExitCode

# Another user, without any group or capability of root.
# Root in name only: another user might not even be able to run the interpreter of this environment.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("chekc",), "did you mean check?"),
        (("check", "--worklaod", "true"), "did you mean --workload?"),
        (("check", "--max-state", "3", "--workload", "true"), "did you mean --max-states?"),
        (("check", "--no-fsk", "--workload", "true"), "did you mean --no-fsck?"),
        (("check",), "--workload is missing"),
        (("check", "--workload", "  "), "--workload is empty"),
        (("check", "--workload", "true", "--model", "sbuset"), "choose one of flushed, prefix, subset, torn"),
        (("check", "--workload", "true", "--size", "big"), "is not a size"),
        (("check", "--workload", "true", "--max-states", "many"), "is not a whole number"),
        (("check", "--workload", "true", "extra"), "extra"),
        (("replay",), "is missing"),
        (("replay", "gone.crash"), "no such file"),
        (("show", "gone.crash"), "no such file"),
        (("judge",), "give FILE.crash, or both --base IMG and --log LOG"),
        (("judge", "a.crash", "--base", "b"), "a bundle brings its own"),
        (("judge", "--base", "gone.img", "--log", "gone.log"), "No such file"),
        (("run", "no-such-folder"), "run it in a checkout"),
    ],
)
def test_misuse_is_told_with_a_remedy(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    ran = harness(*words, cwd=tmp_path)
    assert ran.status == 2, ran
    ran.assert_one_screen()
    assert expected in ran.err
    assert "INTACT" not in ran.out


def test_an_unknown_file_system(tmp_path: Path) -> None:
    ran = harness("check", "--fs", "ext5", "--workload", "true", "--json", "-", cwd=tmp_path)
    assert ran.status == 2, ran
    assert "ext4, ext3, ext2, xfs, btrfs" in ran.err
    assert ran.json["error"]["type"] == "Misuse"
    assert ran.json["verdict"] == "UNKNOWN"


@pytest.mark.root
@pytest.mark.parametrize("words", [CAREFUL, ("run", ".")], ids=["check", "run"])
def test_without_root_everything_that_is_missing_is_named(words: tuple[str, ...]) -> None:
    ran = harness(*words, cwd=Path("/"), before=POWERLESS)
    assert ran.status == 4, ran
    ran.assert_one_screen()
    assert "root: " in ran.err
    assert "sudo" in ran.err


@pytest.mark.root
def test_doctor_names_what_is_missing_and_fails(tmp_path: Path) -> None:
    ran = harness("doctor", cwd=Path("/"), before=POWERLESS)
    assert ran.status == 4, ran
    assert "missing  root " in ran.out
    assert "remedy: " in ran.out
    well = harness("doctor", cwd=tmp_path)
    assert well.status == 0, well
    assert "everything that is required" in well.out


@pytest.mark.root
def test_mount_options_that_the_kernel_refuses(tmp_path: Path) -> None:
    ran = harness("check", "--mount-options", "nonsense=1", "--workload", "true", cwd=tmp_path)
    assert ran.status == 2, ran
    ran.assert_one_screen()
    assert "nonsense" in ran.err


@pytest.mark.root
def test_damaged_foreign_and_newer_bundles(tmp_path: Path) -> None:
    assert harness(*CARELESS, cwd=place_app(tmp_path)).status == 1
    whole = bundle_of(tmp_path).read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for name, content, said in (
        ("short", whole[: len(whole) // 2], "truncated or damaged"),
        ("damaged", bytes(damaged), "damaged"),
        ("foreign", b"#!/bin/sh\n", "is not a crash bundle"),
        ("empty", b"", "is not a crash bundle"),
    ):
        (tmp_path / name).write_bytes(content)
        for command in ("replay", "show", "judge"):
            ran = harness(command, name, cwd=tmp_path)
            assert ran.status == 2, ran
            assert said in ran.err, ran
            ran.assert_one_screen()
    assert harness("replay", str(tmp_path), cwd=tmp_path).status == 2
    assert harness("export", str(tmp_path), "out", cwd=tmp_path).status == 2


def test_every_setting_has_its_option_and_its_help(tmp_path: Path) -> None:
    for command, names in (("check", set(DECLARED) - set(OF_PLANS)), ("plan", set(DECLARED))):
        shown = " ".join(harness(command, "--help", cwd=tmp_path).out.split())
        for declared in map(DECLARED.__getitem__, names):
            assert declared.flag in shown
            assert " ".join(declared.help.split()) in shown


@pytest.mark.parametrize("command", ["", "check", "judge", "plan", "enumerate", "litmus", "shrink", "replay", "run"])
def test_exit_codes_stand_in_the_help(command: str, tmp_path: Path) -> None:
    ran = harness(*filter(None, [command]), "--help", cwd=tmp_path)
    assert ran.status == 0
    for code in ExitCode:
        assert f"{code:>3}  {code.name.lower().replace('_', ' ')}" in ran.out


def test_help_imports_little(tmp_path: Path) -> None:
    """What makes it quick; how quick it is, tests/benchmarks/bench_check.py prints."""
    script = (
        "import sys; sys.argv = ['harness', '--help']; from harness.cli.main import main; main();"
        "print([m for m in sys.modules if m.startswith(('rich', 'harness.machine', 'harness.trial', 'pytest'))])"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"

"""`harness run`: scenarios with real volumes, the table, exit codes, and replay of what a test found."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import Ran, bundle_of, harness

pytestmark = pytest.mark.root

GOOD = '''"""A fsynced file survives the cut.

More words about it.
"""
import os

def test_fsynced_file_survives(crash_volume):
    with crash_volume.record() as volume:
        with open(volume.path + "/a", "w") as file:
            file.write("data")
            file.flush()
            os.fsync(file.fileno())
        os.fsync(os.open(volume.path, os.O_RDONLY))
        volume.promise("a")
    crash_volume.verify(lambda state: not state.promises or open(state.path + "/a").read() == "data")
'''
BAD = '''"""A file is there without fsync."""

def write(crash_volume):
    with crash_volume.record() as volume:
        with open(volume.path + "/a", "w") as file:
            file.write("data")
        volume.promise("a")

def check(state):
    import os
    assert not state.promises or os.path.exists(state.path + "/a"), "a is gone"

def test_it(crash_volume):
    write(crash_volume)
    crash_volume.%s(check)
'''


def project(folder: Path, **files: str) -> Path:
    """A folder of scenarios with nothing of ours around it."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "scenarios").mkdir()
    for name, text in files.items():
        (folder / "scenarios" / f"test_{name}.py").write_text(text)
    return folder


def run(folder: Path, *words: str) -> Ran:
    return harness("run", *words, cwd=folder, HARNESS_NO_SKIP="", PYTEST_ADDOPTS="")


def test_the_table_names_guarantees_verdicts_and_totals(tmp_path: Path) -> None:
    project(tmp_path, good=GOOD, planted=BAD % "convict")
    ran = run(tmp_path, "--json", "r.json", "--junit", "out/j.xml")
    assert ran.status == 0, ran
    assert "2 of 2 scenarios as they should be" in ran.out
    lines = [line.split("  ")[0].strip() or line.split()[0] for line in ran.out.splitlines() if line.strip()]
    assert "A fsynced file survives the cut" in lines
    assert "  fsynced file survives  " in ran.out
    assert "CORRUPTED as planted" in ran.out
    assert "ext4" in ran.out
    told = json.loads((tmp_path / "r.json").read_text())
    assert (told["verdict"], told["exit_code"]) == ("INTACT", 0)
    assert told["states"] == sum(told["states_by_file_system"].values()) > 0
    assert [scenario["outcome"] for scenario in told["scenarios"]] == ["passed", "passed"]
    properties = {e.get("name") for e in ElementTree.parse(tmp_path / "out/j.xml").iter("property")}
    assert "crash_verdict" in properties


def test_a_violation_that_was_not_planted_is_corrupted_and_replays(tmp_path: Path) -> None:
    project(tmp_path, bad=BAD % "verify")
    ran = run(tmp_path)
    assert ran.status == 1, ran
    assert "failed: scenarios/test_bad.py::test_it" in ran.out
    bundle = bundle_of(tmp_path)
    assert f"harness replay reports/{bundle.name}" in ran.out
    replayed = harness("replay", str(bundle), "--json", "r.json", cwd=tmp_path)
    assert replayed.status == 1, replayed
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == "CORRUPTED"
    elsewhere = harness("replay", str(bundle), cwd=Path("/"))
    assert elsewhere.status == 1, elsewhere  # the test is found above the bundle


def test_a_failure_without_a_violation_is_unknown(tmp_path: Path) -> None:
    project(tmp_path, wrong='"""It works."""\ndef test_it():\n    assert 1 == 2, "no verdict"\n')
    ran = run(tmp_path)
    assert ran.status == 3, ran
    assert "no verdict" in ran.out


def test_a_planted_bug_that_was_not_found_is_unknown(tmp_path: Path) -> None:
    ran = run(project(tmp_path, missed=GOOD.replace("verify", "convict")))
    assert ran.status == 3, ran


def test_a_skip_is_no_pass(tmp_path: Path) -> None:
    text = "import pytest\n" + GOOD.split('"""\n', 1)[1].replace("def test_", "@pytest.mark.skip\ndef test_")
    ran = run(project(tmp_path, skipped=text))
    assert ran.status == 3, ran


def test_a_module_that_cannot_be_imported_is_unknown(tmp_path: Path) -> None:
    ran = run(project(tmp_path, good=GOOD, broken="import nothing_of_that_name\n"))
    assert ran.status == 3, ran
    assert "1 of 2 scenarios as they should be" in ran.out
    assert "nothing_of_that_name" in ran.out


def test_no_scenarios_and_wrong_pytest_words_are_misuse(tmp_path: Path) -> None:
    project(tmp_path)
    empty = run(tmp_path)
    assert empty.status == 2, empty
    assert "no scenario was found" in empty.err
    wrong = run(tmp_path, "scenarios", "--", "--no-such-option")
    assert wrong.status == 2, wrong


def test_several_at_a_time_and_further_pytest_words(tmp_path: Path) -> None:
    project(tmp_path, good=GOOD, bad=BAD % "verify")
    ran = run(tmp_path, "-n", "2", "--", "-k", "fsynced")
    assert ran.status == 0, ran
    assert "1 of 1 scenario as" in ran.out

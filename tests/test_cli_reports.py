"""`--html` and `--advise` of check, plan and judge: what is told besides the verdict, and what cannot be written."""

import json
from pathlib import Path

import pytest
from cli_support import harness

from fixtures.programs import replace
from harness.verdict import ExitCode

pytestmark = pytest.mark.root

PROGRAM = f"python3 -SE {replace.__file__}"
CHECK = (
    "check",
    "--setup",
    f"{PROGRAM} setup",
    "--check",
    f"{PROGRAM} verify",
    "--mount-options",
    "noauto_da_alloc",
    "--max-states",
    "80",
    "--no-fsck",
)
BUGGY = (*CHECK, "--workload", f"{PROGRAM} write rename-before-fsync")
FIXED = (*CHECK, "--workload", f"{PROGRAM} write fixed")
MISSING = "fsync(config.new) before each rename of config.new -&gt; config"


def test_a_finding_comes_with_its_reason_and_with_what_to_add(tmp_path: Path) -> None:
    ran = harness(*BUGGY, "--advise", "--html", "page.html", "--json", "told.json", cwd=tmp_path)
    assert ran.status == ExitCode.CORRUPTED, ran
    assert "  why        " in ran.out and "/config already led to inode" in " ".join(ran.out.split())
    assert f"advice     {MISSING.replace('&gt;', '>')}: 0 of " in ran.out
    page = (tmp_path / "page.html").read_text()
    assert MISSING in page and "distinct states" in page and "harness replay reports/" in page
    finding = json.loads((tmp_path / "told.json").read_text())["findings"][0]
    assert "/config already led to inode" in finding["why"] and finding["story"]


def test_an_intact_run_has_a_page_and_needs_no_advice(tmp_path: Path) -> None:
    ran = harness(*FIXED, "--advise", "--html", "page.html", cwd=tmp_path)
    assert ran.status == ExitCode.INTACT, ran
    assert "advice" not in ran.out
    page = (tmp_path / "page.html").read_text()
    assert "INTACT" in page and "What to add" not in page


def test_a_page_that_cannot_be_written_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    ran = harness(*FIXED, "--html", "page.html", cwd=tmp_path)
    assert ran.status == ExitCode.UNKNOWN, ran
    assert "INTACT" in ran.out and "the report could not be written to page.html" in ran.err


def test_a_plan_on_a_volume_that_keeps_nothing_gets_no_advice_but_the_truth(tmp_path: Path) -> None:
    plan = {
        "kind": "crash-harness plan",
        "operations": [{"op": "creat", "path": "foo"}, {"op": "fsync", "path": "foo"}],
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ("plan", "plan.json", "--mount-options", "nobarrier", "--advise", "--html", "page.html")
    ran = harness(*words, cwd=tmp_path)
    assert ran.status == ExitCode.CORRUPTED, ran
    assert "the file system broke its contract" in ran.out
    (bundle, *_) = (tmp_path / "reports").glob("*.crash")
    again = harness("judge", str(bundle), "--html", "again.html", cwd=tmp_path)
    assert again.status == ExitCode.CORRUPTED and (tmp_path / "again.html").exists(), again

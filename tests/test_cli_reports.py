"""`--html` and `--advise` of check, plan and judge: what is told besides the verdict, and what cannot be written."""

import json
import os
from pathlib import Path

import pytest
from cli_support import harness

from fixtures.programs import replace
from harness.verdict import ExitCode

pytestmark = pytest.mark.root

# The configuration file that is replaced by rename, once.
APP = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(replace.__file__)!r})
import replace
if sys.argv[1] == "setup":
    replace.setup(".")
elif sys.argv[1] == "verify":
    replace.verify(".", open(os.environ["HARNESS_PROMISES"]).read().split())
else:
    with open(os.environ["HARNESS_PROMISE"], "w") as promise:
        replace.write(".", lambda number: print(number, file=promise, flush=True), sys.argv[1], 1)
"""
RUN = "python3 -SE app.py"
CHECK = ("check", "--setup", f"{RUN} setup", "--check", f"{RUN} verify", "--mount-options", "noauto_da_alloc")
BUGGY = (*CHECK, "--workload", f"{RUN} rename-before-fsync")
FIXED = (*CHECK, "--workload", f"{RUN} fixed")
MISSING = "fsync(config.new) before the rename of config.new -&gt; config"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_a_finding_comes_with_its_reason_and_with_what_to_add(folder: Path) -> None:
    ran = harness(*BUGGY, "--advise", "--html", "page.html", "--json", "told.json", cwd=folder)
    assert ran.status == ExitCode.CORRUPTED, ran
    assert "  why        " in ran.out
    assert f"advice     {MISSING.replace('&gt;', '>')}: 0 of " in ran.out
    page = (folder / "page.html").read_text()
    assert MISSING in page and "distinct states" in page and "harness replay reports/" in page
    finding = json.loads((folder / "told.json").read_text())["findings"][0]
    assert "/config" in finding["why"] and finding["story"]


def test_an_intact_run_has_a_page_and_needs_no_advice(folder: Path) -> None:
    ran = harness(*FIXED, "--advise", "--html", "page.html", cwd=folder)
    assert ran.status == ExitCode.INTACT, ran
    assert "advice" not in ran.out
    page = (folder / "page.html").read_text()
    assert "INTACT" in page and "What to add" not in page


def test_a_page_that_cannot_be_written_is_no_success(folder: Path) -> None:
    (folder / "page.html").mkdir()
    ran = harness(*FIXED, "--html", "page.html", cwd=folder)
    assert ran.status == ExitCode.UNKNOWN, ran
    assert "INTACT" in ran.out and "the report could not be written to page.html" in ran.err


def test_a_plan_on_a_volume_that_keeps_nothing_gets_no_advice_but_the_truth(folder: Path) -> None:
    plan = {
        "kind": "crash-harness plan",
        "operations": [{"op": "creat", "path": "foo"}, {"op": "fsync", "path": "foo"}],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    words = ("plan", "plan.json", "--mount-options", "nobarrier", "--advise", "--html", "page.html")
    ran = harness(*words, cwd=folder)
    assert ran.status == ExitCode.CORRUPTED, ran
    assert "the file system broke its contract" in ran.out
    (bundle, *_) = (folder / "reports").glob("*.crash")
    again = harness("judge", str(bundle), "--html", "again.html", cwd=folder)
    assert again.status == ExitCode.CORRUPTED and (folder / "again.html").exists(), again

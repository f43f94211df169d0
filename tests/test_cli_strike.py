"""`harness strike`: a plan run live, a fault that strikes it, and the bundle of what was lost."""

import json
from pathlib import Path

import pytest
from cli_support import harness

from harness.verdict import ExitCode

pytestmark = pytest.mark.root

PLAN = {
    "kind": "crash-harness plan",
    "operations": [
        {"op": "creat", "path": "foo"},
        {"op": "write", "path": "foo", "length": 8192},
        {"op": "fsync", "path": "foo"},
        {"op": "creat", "path": "bar"},
    ],
}
LOSING = "drop@op:0/write:1,count=0 + engine-kill@op:3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    return tmp_path


def test_a_kill_that_costs_nothing_is_intact_and_leaves_no_bundle(folder: Path) -> None:
    ran = harness("strike", "plan.json", "engine-kill@op:3", cwd=folder)
    assert ran.status == ExitCode.INTACT
    assert "engine-kill@op:3, struck 1 time" in ran.out
    assert "promises   1 made, before any fsync failed" in ran.out
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "reports"]
    assert not list((folder / "reports").glob("*.crash"))


def test_what_was_lost_is_told_and_replayed(folder: Path) -> None:
    ran = harness("strike", "plan.json", LOSING, "--json", "told.json", cwd=folder)
    assert ran.status == ExitCode.CORRUPTED
    told = json.loads((folder / "told.json").read_text())
    assert (told["verdict"], told["hits"]) == ("CORRUPTED", 1)
    assert f"harness replay {told['bundle']}" in ran.out
    again = harness("replay", told["bundle"], cwd=folder)
    assert again.status == ExitCode.CORRUPTED
    assert told["findings"][0]["kind"] in again.out
    shown = harness("show", told["bundle"], cwd=folder)
    assert shown.status == ExitCode.INTACT and "creat foo" in shown.out


def test_a_fault_that_was_never_met_is_unknown(folder: Path) -> None:
    ran = harness("strike", "plan.json", "eio@write:9000", "-q", cwd=folder)
    assert ran.status == ExitCode.UNKNOWN
    assert ran.out.startswith("UNKNOWN")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("engine-kil@op:3", "engine-kill"),
        ("eio@wirte:3", "address"),
        ("eio@write:0", "counted from 1"),
        ("eio@range:64M+4K", "past the end"),
        ("eio@write:1 + enospc@write:1", "contradict"),
        ("remove@op:1 + engine-kill@op:1", "contradict"),
    ],
)
def test_a_fault_without_meaning_is_misuse(folder: Path, fault: str, says: str) -> None:
    ran = harness("strike", "plan.json", fault, cwd=folder)
    assert ran.status == ExitCode.MISUSE
    ran.assert_one_screen()
    assert says in ran.err


def test_what_this_volume_cannot_have_is_named(folder: Path) -> None:
    ran = harness("strike", "plan.json", "shutdown@op:1", "--fs", "btrfs", cwd=folder)
    assert ran.status == ExitCode.REQUIREMENT_MISSING
    ran.assert_one_screen()

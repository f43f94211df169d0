"""Live trials: each in a namespace of its own, the search over drawn plans, the fixture, `harness trial` and `run`."""

import json
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
import toy_system
from cli_support import Ran, harness
from toy_system import DAEMON, SYSTEM, Plan

from harness.errors import Misuse
from harness.machine import loop, mounts
from harness.trial.search import convicting, failing
from harness.verdict import ExitCode, FindingKind, Verdict

pytestmark = pytest.mark.root

SCENARIOS = """
import pytest
from toy_system import SYSTEM

@pytest.mark.system("toys")
def test_forgets(live_trials):
    live_trials.convict(SYSTEM, "forgets-fsync")

@pytest.mark.system("toys")
def test_syncs(live_trials):
    live_trials.acquit(SYSTEM, "syncs")

@pytest.mark.system("wrong")
def test_accused(live_trials):
    live_trials.convict(SYSTEM, "accused", plans=3)

@pytest.mark.system("bad")
def test_praised(live_trials):
    live_trials.acquit(SYSTEM, "praised")

def test_other():
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout of somebody's: the system, and scenarios."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "test_toys.py").write_text(f'"""What was closed is there."""\n{SCENARIOS}')
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tmp_path / "toy_system.py").write_text(Path(toy_system.__file__).read_text())
    return tmp_path


def toy(folder: Path, *words: str) -> Ran:
    return harness(*words, cwd=folder)


def test_a_trial_says_what_happened_and_what_the_kernel_said() -> None:
    lost, kept = SYSTEM.trial("forgets-fsync", Plan(blocks=8)), SYSTEM.trial("syncs", Plan(blocks=8))
    assert (lost.verdict, lost.convictions) == (Verdict.CORRUPTED, {FindingKind.LOST_CLEAN})
    assert (kept.verdict, kept.findings) == (Verdict.INTACT, [])
    assert kept.story == ["8 blocks written", "32768 bytes found"]
    assert any("Aborting journal on device" in line for line in lost.kernel)


@pytest.mark.parametrize(
    ("mischief", "says"),
    [("die", "died (status 9)"), ("raise", "ValueError: planted"), ("hang", "did not end within 2 s")],
)
def test_a_trial_that_comes_to_nothing_is_unknown(mischief: str, says: str) -> None:
    trial = SYSTEM.trial("syncs", Plan(mischief=mischief))
    assert trial.verdict is Verdict.UNKNOWN
    assert says in trial.findings[0].summary


def test_whatever_a_trial_leaves_running_ends_with_it() -> None:
    assert SYSTEM.trial("syncs", Plan(mischief="daemonize")).verdict is Verdict.INTACT
    assert DAEMON not in {process.info["name"] for process in psutil.process_iter(["name"])}


def test_a_trial_has_a_workspace_of_its_own_whatever_its_parent_has_mounted() -> None:
    kept = mounts.enter_private_mounts().path("kept")
    Path(kept).mkdir()
    try:
        assert SYSTEM.trial("syncs", Plan(mischief="look")).facts == {"mischief": "look", "there": "engine own volume"}
    finally:
        Path(kept).rmdir()


def test_the_watchdog_gives_the_device_back_before_it_kills() -> None:
    trial = SYSTEM.trial("syncs", Plan(mischief="wait-for-device"))
    assert trial.facts == {"mischief": "wait-for-device"}, "it ended of its own: it was not killed"
    assert not [status for status in loop.bound() if status.label == "toy"]


def test_a_search_finds_the_smallest_plan_and_is_the_same_each_time() -> None:
    searches = [convicting(SYSTEM, "forgets-fsync", FindingKind.LOST_CLEAN, plans=20, seed=3) for _ in range(2)]
    for search in searches:
        assert search.plan == Plan(blocks=1)
        assert search.again == "2/2"
    assert searches[0].tried == searches[1].tried
    right = failing(SYSTEM, "syncs", plans=12, seed=3)
    assert right.plan is None and right.tried >= 12


def test_wrong_names_and_plans_are_misuse() -> None:
    for wrong in ("{", '{"blocks": "many"}', '{"bocks": 1}'):
        with pytest.raises(Misuse, match="not a plan of toy"):
            SYSTEM.plan(wrong)
    with pytest.raises(Misuse, match="no variant"):
        SYSTEM.trial("none", Plan())
    assert SYSTEM.plan(SYSTEM.text(Plan(blocks=7))) == Plan(blocks=7)


def test_run_of_a_system_is_a_table_with_commands_that_replay(folder: Path) -> None:
    ran = toy(folder, "run", "toys", "--plans", "5", "--json", "told.json", "--junit", "junit.xml")
    assert ran.status == ExitCode.INTACT, ran
    rows = json.loads((folder / "told.json").read_text())["scenarios"]
    forgets, syncs = (row["trials"][0] for row in rows)
    assert (forgets["verdict"], forgets["finding"], forgets["as_wanted"]) == ("CORRUPTED", "LOST_CLEAN", True)
    assert (syncs["verdict"], syncs["plans"], syncs["replay"]) == ("INTACT", 5, "")
    assert "CORRUPTED as planted" in ran.out and forgets["replay"] in ran.out
    named = {found.get("name") for found in ElementTree.parse(folder / "junit.xml").iter("property")}
    assert {"live_trial", "crash_replay"} <= named
    words = forgets["replay"].split(maxsplit=5)
    again = toy(folder, "trial", words[2], words[3], "--plan", words[5].strip("'"))
    assert again.status == ExitCode.CORRUPTED
    assert "LOST_CLEAN  0 of 4096 bytes" in again.out
    assert "JOURNAL_ABORTED: Aborting journal on device loop" in again.out


def test_a_planted_fault_that_is_not_found_and_a_right_variant_that_fails_both_fail(folder: Path) -> None:
    accused = toy(folder, "run", "wrong")
    assert accused.status == ExitCode.UNKNOWN and "was to be convicted of SPLIT, and none of 3 plans" in accused.out
    praised = toy(folder, "run", "bad", "--plans", "3")
    assert praised.status == ExitCode.CORRUPTED
    assert 'harness trial toy_system praised --plan \'{"blocks":1,"mischief":""}\'' in praised.out


def test_an_unknown_system_names_the_known_ones(folder: Path) -> None:
    ran = toy(folder, "run", "dstak")
    assert ran.status == ExitCode.MISUSE
    assert "no scenario of system 'dstak'; known: bad, toys, wrong" in ran.out + ran.err


@pytest.mark.parametrize(
    "words",
    [("toy_sistem",), ("json",), ("toy_system", "none", "--plan", "{}"), ("toy_system", "syncs"),
     ("toy_system", "syncs", "--plan", "{"), ("toy_system", "syncs", "--plan", "@absent")],
)  # fmt: skip
def test_misuse_of_trial_is_one_screen(folder: Path, words: tuple[str, ...]) -> None:
    ran = toy(folder, "trial", *words)
    assert ran.status == ExitCode.MISUSE
    ran.assert_one_screen()


def test_trial_lists_variants_repeats_and_writes_json(folder: Path) -> None:
    listed = toy(folder, "trial", "toy_system")
    assert listed.status == ExitCode.INTACT and "forgets-fsync  LOST_CLEAN" in listed.out
    (folder / "plan.json").write_text('{"blocks": 2}')
    ran = toy(folder, "trial", "toy_system", "syncs", "--plan", "@plan.json", "--repeat", "3", "--json", "-")
    assert ran.status == ExitCode.INTACT and len(ran.json["trials"]) == 3
    assert "3 of 3 times INTACT" in ran.err

"""Live trials: each in a namespace of its own, the search over drawn plans, the fixture, `harness trial` and `run`."""

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import psutil
import pytest
import toy_system
from cli_support import Ran, harness
from hypothesis import strategies as st
from rich.console import Console
from toy_system import DAEMON, SYSTEM, Plan

from harness.errors import Misuse
from harness.machine import loop, mounts
from harness.reporting.systems import Row, show_rows, table_lines
from harness.trial.live import Table
from harness.trial.search import convicting, drawn_at, failing, struck_at
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

@pytest.mark.system("points")
def test_syncs_at_points(live_trials):
    live_trials.acquit_at_points(SYSTEM, "syncs")

@pytest.mark.system("points")
def test_forgets_at_points(live_trials):
    live_trials.convict_at_points(SYSTEM, "forgets-fsync", points=["P2"])

@pytest.mark.system("praised_points")
def test_praised_at_points(live_trials):
    live_trials.acquit_at_points(SYSTEM, "praised", times=5)

@pytest.mark.system("accused_points")
def test_accused_at_points(live_trials):
    live_trials.convict_at_points(SYSTEM, "accused", plans=2)

@pytest.mark.system("once_points")
def test_once_at_points(live_trials):
    live_trials.convict_at_points(SYSTEM, "forgets-once", plans=2)

@pytest.mark.system("unknown_points")
def test_unknown_at_points(live_trials):
    live_trials.acquit_at_points(SYSTEM, "dies", times=1)

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
    assert 'harness trial toy_system praised --plan \'{"blocks":1,"pulled":"P2","mischief":""}\'' in praised.out


def test_an_unknown_system_names_the_known_ones(folder: Path) -> None:
    ran = toy(folder, "run", "dstak")
    assert ran.status == ExitCode.MISUSE
    told = ran.out + ran.err
    assert "no scenario of system 'dstak'; known: accused_points, bad, once_points, points, " in told
    assert " toys, unknown_points, wrong" in told


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for told in json.loads((folder / "told.json").read_text())["scenarios"] for row in told["trials"]]


def test_each_kill_point_has_a_row_and_every_run_of_a_right_variant_counts(folder: Path) -> None:
    ran = toy(folder, "run", "points", "--plans", "60", "--json", "told.json")
    assert ran.status == ExitCode.INTACT, ran
    syncs, forgets = rows_of(folder)[:2], rows_of(folder)[2:]
    assert [(row["point"], row["verdict"], row["plans"]) for row in syncs] == [("P1", "INTACT", 6), ("P2", "INTACT", 6)]
    told = [(row["point"], row["verdict"], row["finding"], row["plans"], row["again"]) for row in forgets]
    assert told == [("P1", "INTACT", "", 4, ""), ("P2", "CORRUPTED", "LOST_CLEAN", 1, "2/2")]
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "variant kill point verdict finding plans again" in lines
    assert "toy forgets-fsync P2 CORRUPTED as planted LOST_CLEAN 1 2/2" in lines
    assert "toy syncs P1 INTACT - 6 -" in lines
    assert forgets[1]["replay"] in ran.out
    assert "replay  harness trial toy_system syncs --point POINT --repeat 6 --seed 0" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100
    again = toy(folder, *forgets[0]["replay"].split()[1:], "--json", "again.json")
    assert again.status == ExitCode.INTACT and "4 of 4 times INTACT" in again.out
    assert {run["plan"]["pulled"] for run in json.loads((folder / "again.json").read_text())["trials"]} == {"P1"}


def test_without_asking_for_plans_a_point_has_two_runs_and_the_first_that_convicts_is_enough(folder: Path) -> None:
    ran = toy(folder, "run", "scenarios", "--json", "told.json", "--", "-k", "syncs_at or forgets_at")
    assert ran.status == ExitCode.INTACT, ran
    told = [(row["variant"], row["point"], row["plans"]) for row in rows_of(folder)]
    assert told == [("syncs", "P1", 2), ("syncs", "P2", 2), ("forgets-fsync", "P2", 1)]
    mixed = toy(folder, "run", "scenarios", "--", "-k", "forgets_at or other", "--harness-plans=20")
    lines = [" ".join(line.split(maxsplit=6)[:6]) for line in mixed.out.splitlines()]
    assert "forgets at points CORRUPTED as planted" in lines, "what a wrong variant shows elsewhere is not its verdict"
    assert any(line.startswith("other passed") for line in lines), "rows of points are no reason to leave others out"


def test_a_wrong_variant_fails_its_acquittal_at_the_point_that_shows_it(folder: Path) -> None:
    ran = toy(folder, "run", "praised_points", "--json", "told.json", "--markdown", "told.md")
    assert ran.status == ExitCode.CORRUPTED
    good, bad = rows_of(folder)
    assert (good["point"], good["verdict"], good["plans"]) == ("P1", "INTACT", 5)
    assert (bad["point"], bad["verdict"], bad["plans"], bad["as_wanted"]) == ("P2", "CORRUPTED", 1, False)
    assert "CORRUPTED: toy praised, kill point P2, run 1 of 5" in ran.out
    assert "block  is" in ran.out, "the trial's tables stand behind a failure"
    assert bad["replay"] in ran.out and '"pulled":"P2"' in bad["replay"]
    assert "toy praised at P2: CORRUPTED LOST" in (folder / "told.md").read_text()


def test_a_point_without_a_verdict_acquits_nobody(folder: Path) -> None:
    ran = toy(folder, "run", "unknown_points", "--json", "told.json")
    assert ran.status == ExitCode.UNKNOWN
    assert [(row["point"], row["verdict"]) for row in rows_of(folder)] == [("P1", "INTACT"), ("P2", "UNKNOWN")]


def test_a_fault_that_no_point_shows_or_that_is_seen_once_convicts_nobody(folder: Path) -> None:
    accused = toy(folder, "run", "accused_points", "--json", "told.json")
    assert accused.status == ExitCode.UNKNOWN
    assert "was to be convicted of SPLIT, and none of 4 runs at P1, P2 shows it" in accused.out
    assert [row["summary"].partition(",")[0] for row in rows_of(folder)] == ["SPLIT was not found"] * 2
    once = toy(folder, "run", "once_points")
    assert once.status == ExitCode.CORRUPTED
    assert "LOST_CLEAN was seen once, and never again on the same plan" in once.out
    assert "as planted" not in once.out


def test_plans_of_a_point_are_distinct_until_there_are_no_more() -> None:
    six = drawn_at(SYSTEM, "P1", 6, seed=1)
    assert {plan.pulled for plan in six} == {"P1"}
    assert {plan.blocks for plan in six[:3]} == {1, 2, 3} and six[:3] == six[3:]
    assert drawn_at(SYSTEM, "P1", 6, seed=1) == six
    assert len({drawn_at(SYSTEM, "P1", 1, seed=seed)[0].blocks for seed in range(9)}) > 1, "the seed chooses"
    with pytest.raises(Misuse, match="no kill point 'P9'"):
        drawn_at(SYSTEM, "P9", 1, seed=0)
    with pytest.raises(Misuse, match="prove nothing"):
        drawn_at(SYSTEM, "P1", 0, seed=0)


def test_a_search_at_a_point_keeps_the_worst_where_nothing_is_shown() -> None:
    unknown = msgspec.structs.replace(SYSTEM, at=lambda _point: st.builds(Plan, mischief=st.sampled_from(["", "die"])))
    found = struck_at(unknown, "syncs", "P1", lambda trial: FindingKind.SPLIT in trial.convictions, runs=4, seed=0)
    assert (found.shown, found.runs, found.unknown, found.trial.verdict) == (False, 4, 2, Verdict.UNKNOWN)
    found = struck_at(unknown, "syncs", "P1", lambda trial: trial.verdict is not Verdict.INTACT, runs=4, seed=0)
    assert (found.shown, found.unknown, found.plan.mischief) == (True, 1, "die")


def test_what_a_wrong_variant_shows_beside_its_planted_fault_is_not_called_planted() -> None:
    planted = Row(
        system="s", variant="v", point="P1", verdict="CORRUPTED", finding="STALE", plans=3, plan="{}", again="2/2"
    )
    beside = Row(system="s", variant="v", point="P2", verdict="CORRUPTED", finding="TORN", plans=9, plan="{}")
    out = io.StringIO()
    show_rows(Console(file=out, soft_wrap=True), [planted, beside])
    told = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert told[1:] == ["s v P1 CORRUPTED as planted STALE 3 2/2", "s v P2 CORRUPTED TORN 9 -"]


def test_a_long_table_is_cut_and_aligned() -> None:
    rows = tuple((str(n), "x" * (n + 1)) for n in range(40))
    table = Table(title="cells\x1b", columns=("row", "wide"), rows=rows)
    lines = table_lines(table)
    assert lines[:3] == ["cells\\x1b", "  row  wide", "  0    x"]
    assert lines[-1] == "  … and 16 more rows: --verbose shows them"
    assert len(table_lines(table, verbose=True)) == 42 and table_lines(table, verbose=True)[-1].endswith("x" * 40)


@pytest.mark.parametrize(
    "words",
    [("toy_sistem",), ("json",), ("toy_system", "none", "--plan", "{}"), ("toy_system", "syncs"),
     ("toy_system", "syncs", "--plan", "{"), ("toy_system", "syncs", "--plan", "@absent"),
     ("toy_system", "syncs", "--point", "P9"), ("toy_system", "syncs", "--point", "P1", "--plan", "{}")],
)  # fmt: skip
def test_misuse_of_trial_is_one_screen(folder: Path, words: tuple[str, ...]) -> None:
    ran = toy(folder, "trial", *words)
    assert ran.status == ExitCode.MISUSE
    ran.assert_one_screen()


def test_trial_lists_variants_repeats_and_writes_json(folder: Path) -> None:
    listed = toy(folder, "trial", "toy_system")
    assert listed.status == ExitCode.INTACT and "forgets-fsync  LOST_CLEAN" in listed.out
    assert "kill points, for --point: P1, P2" in listed.out
    (folder / "plan.json").write_text('{"blocks": 2}')
    ran = toy(folder, "trial", "toy_system", "syncs", "--plan", "@plan.json", "--repeat", "3", "--json", "-")
    assert ran.status == ExitCode.INTACT and len(ran.json["trials"]) == 3
    assert "3 of 3 times INTACT" in ran.err
    assert ran.json["verdicts"] == {"INTACT": 3}
    assert ran.json["trials"][0]["tables"][0]["rows"] == [["0", "there"], ["1", "there"]]
    once = toy(folder, "trial", "toy_system", "forgets-once", "--plan", "@plan.json", "--repeat", "3")
    assert once.status == ExitCode.CORRUPTED and "1 of 3 times CORRUPTED, 2 INTACT" in once.out

"""The soak: shards that are the same everywhere, a budget, a canary, findings that are kept, ends that are in order."""

import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from cli_support import harness
from rich.console import Console
from soak_support import (
    BROKEN,
    SETTINGS,
    SMALL,
    check_bundles,
    keys,
    one,
    plans,
    shard_names,
    signatures,
    soaking,
    sql,
    wait_for_shards,
)

from harness.campaign import budget, pool
from harness.campaign.drawing import draw_plans
from harness.campaign.morning import morning_of
from harness.campaign.night import Night, Spec
from harness.campaign.pool import LocalPool
from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.shards import Shard, ShardResult, Task, coverage_of
from harness.campaign.shelf import KEPT, Shelf
from harness.campaign.soak import Limits, Outcome, Soak, View, Watcher
from harness.campaign.sources import BUILT_IN, CANARIES, Source, own
from harness.campaign.store import Store
from harness.cli.soak import read_time
from harness.errors import Misuse
from harness.plan.operations import Creat, Fsync, Rename, Sync, Write
from harness.plan.plan import Plan
from harness.reporting.live_view import LiveView
from harness.reporting.soak import heat_table
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.plans import record_plan
from harness.trial.recording import whole
from harness.verdict import Finding, FindingKind, Verdict

CAREFUL = Plan(operations=(Creat(path="foo"), Write(path="foo", length=4096), Fsync(path="foo")))


def drawn_elsewhere(imports: str) -> str:
    code = f"{imports}\nfrom harness.campaign.drawing import draw_plans\nprint(*(p.id for p in draw_plans(7, 12)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_seed_gives_the_same_plans_in_every_process() -> None:
    """Also where other modules are loaded, whose numbers Hypothesis would pick up."""
    here = " ".join(plan.id for plan in draw_plans(7, 12))
    assert drawn_elsewhere("").split() == here.split()
    assert drawn_elsewhere("import harness.reporting.enumerated, harness.cli.check").split() == here.split()


def test_the_plans_of_a_shard_differ_and_so_do_those_of_two_seeds() -> None:
    first, second = draw_plans(1, 20), draw_plans(2, 20)
    assert len({plan.id for plan in first}) == 20
    assert len({plan.id for plan in first} & {plan.id for plan in second}) <= 2


def test_a_shard_is_named_for_what_its_result_depends_on() -> None:
    shard = own(SETTINGS).shard(5)
    assert shard.name == own(msgspec.structs.replace(SETTINGS, workers=3, timeout=9.0)).shard(5).name
    others = [own(SETTINGS).shard(6), own(msgspec.structs.replace(SETTINGS, max_states=11)).shard(5)]
    assert len({shard.name, *(other.name for other in others)}) == 3
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Task(shard=shard)), type=Task).shard == shard


def test_half_of_the_shards_go_to_what_is_least_covered() -> None:
    """While nothing is judged: the budget must be the same again after a kill."""
    covered = {source.name: 10**9 * (n + 1) for n, source in enumerate(BUILT_IN[:-1])}
    row = list(islice(budget.shards(1, BUILT_IN, covered), 64))
    dealt = Counter(shard.source for shard in row)
    assert dealt[BUILT_IN[-1].name] == 32
    assert sorted(dealt.values(), reverse=True) == [32, 16, 8, 4, 4]
    assert [shard.name for shard in islice(budget.shards(1, BUILT_IN, covered), 64)] == [s.name for s in row]
    assert len({shard.name for shard in row}) == 64


def test_canaries_come_by_time_and_by_turns() -> None:
    canaries = budget.Canaries(1, CANARIES, 1000.0)
    assert canaries.due(0.0)
    first = canaries.next(0.0)
    assert not canaries.due(49.0) and canaries.due(50.0)
    assert canaries.next(50.0).source != first.source
    assert not budget.Canaries(1, (), 1000.0).due(0.0)


def test_coverage_is_what_stands_before_which_persistence() -> None:
    plan = Plan(operations=(Creat(path="a"), Write(path="a", length=1), Fsync(path="a"), Rename(path="a", new="b")))
    assert coverage_of(plan) == {"creat/fsync": 1, "write/fsync": 1, "rename/none": 1}
    assert coverage_of(Plan(operations=(Write(path="a", length=1, how="direct"), Sync()))) == {"direct write/sync": 1}


@pytest.mark.parametrize(
    ("text", "seconds"), [("8h", 28800), ("1h30m", 5400), ("45s", 45), ("2d", 172800), ("5min", 300)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "8x", "1h 30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Misuse):
        read_time(text)


@pytest.mark.root
def test_a_soak_that_finds_nothing_is_intact(tmp_path: Path) -> None:
    ran = harness("soak", "--shards", "3", "--seed", "5", "--workers", "2", "-v", *SMALL, cwd=tmp_path)
    assert ran.status == 0, ran
    reports = tmp_path / "reports"
    assert shard_names(5, 3) < keys(reports)
    assert one(reports, "SELECT verdict FROM run WHERE kind = 'soak'") == "INTACT"
    assert len(plans(reports)) == 30 + one(
        reports, "SELECT coalesce(sum(trials), 0) FROM plain_total WHERE guarantee LIKE 'canary%'"
    )
    assert one(reports, "SELECT value FROM figure WHERE name = 'canary_found'") >= 2
    assert "guarantees" in ran.out and "found " in ran.out
    assert (reports / "morning.md").read_text().startswith("# Soak: INTACT")
    assert "intact, 10 plans" in ran.err
    # The same shards again add nothing, and a new soak of the same seed draws the same plans.
    before = plans(reports)
    again = harness("soak", "--shards", "3", "--seed", "5", "--workers", "2", "-q", *SMALL, cwd=tmp_path)
    assert again.status == 0 and plans(reports) >= before and not again.err.strip()


@pytest.mark.root
def test_a_finding_is_kept_shrunk_and_tried_again_first(tmp_path: Path) -> None:
    ran = harness("soak", "--shards", "1", "--seed", "5", "--workers", "2", *BROKEN, cwd=tmp_path)
    reports = tmp_path / "reports"
    assert ran.status == 1 and "new (never seen before)" in ran.out, ran
    check_bundles(reports)
    found = signatures(reports)
    command = re.search(r"harness replay (\S+)", ran.out)
    assert found and command
    assert harness("replay", command[1], cwd=tmp_path).status == 1
    second = harness("soak", "--shards", "1", "--seed", "6", "--workers", "2", *SMALL, cwd=tmp_path)
    assert second.status == 1 and "still (seen in the last soak, and now)" in second.out, second
    tried = {
        name.split("/")[1] for (name,) in sql(reports, "SELECT name FROM figure WHERE run = 2 AND name LIKE 'again/%'")
    }
    assert tried == found
    check_bundles(reports)


@pytest.mark.root
def test_what_does_not_come_again_is_gone(tmp_path: Path) -> None:
    """The plan of a bundle keeps what it owes, as if the bug had been mended."""
    reports = tmp_path / "reports"
    recording = record_plan(SETTINGS, CAREFUL)
    finding = Finding(kind=FindingKind.LOST_ACKED, summary="LOST_ACKED foo [rule durable-data]")
    state = whole(recording.space(SETTINGS), recording)
    content = bundles.pack(recording, SETTINGS, state=state, finding=finding, plan=CAREFUL)
    bundles.save(str(reports / "soak" / "old.crash"), content)
    mended = BugSignature(file_system="ext4", rule="LOST_ACKED durable-data", shape="creat", lost="data")
    store = Store.open(str(reports))
    keep(store, mended, "soak/old.crash")
    ran = harness("soak", "--shards", "1", "--seed", "5", "--workers", "2", *SMALL, cwd=tmp_path)
    assert ran.status == 0 and "gone (seen before, tried again now, not seen)" in ran.out, ran
    assert mended.id in ran.out
    check_bundles(reports)


def keep(store: Store, signature: BugSignature, bundle: str = "", key: str = "a plan", size: int = 0) -> int:
    from harness.campaign.records import RunInfo

    run = store.begin(RunInfo(kind="soak", command="harness soak"))
    trial = Trial(key=key, text="creat", guarantee="g", file_system="ext4", verdict=Verdict.CORRUPTED)
    sighting = Sighting(
        signature=signature,
        kind=FindingKind.LOST_ACKED,
        verdict=Verdict.CORRUPTED,
        summary="LOST_ACKED foo",
        bundle=bundle,
        size=size,
    )
    store.add(run, [(trial, [sighting])])
    store.end(run, Verdict.CORRUPTED)
    return run


def soaked(
    folder: Path, spec: Spec, limits: Limits, watcher: Watcher, workers: int = 2
) -> tuple[Store, Outcome, LocalPool]:
    store = Store.open(str(folder / "reports"))
    shelf = Shelf(store, 1 << 30)
    with LocalPool(workers) as servers:
        night = Night.begin(store, shelf, spec, 1, "harness soak")
        if isinstance(watcher, Killer):
            watcher.pool = servers
        outcome = Soak(night, servers, spec, 1, limits, watcher).run()
    return store, outcome, servers


SAFE = Source(name="safe", settings=SETTINGS, plans=3, canary=True)
BAD = Source(name="bad", settings=msgspec.structs.replace(SETTINGS, fault="lying-flush"), plans=60, canary=True)


@pytest.mark.root
def test_a_canary_that_is_missed_makes_the_night_unknown(tmp_path: Path) -> None:
    spec = Spec(sources=(own(SETTINGS),), canaries=(SAFE,))
    store, outcome, _ = soaked(tmp_path, spec, Limits(float("inf"), 1), Watcher())
    assert outcome.verdict is Verdict.UNKNOWN
    assert any("canary was missed" in reason for reason in morning_of(store, outcome.run).reasons)


@pytest.mark.root
def test_a_soak_without_a_canary_or_without_work_is_unknown(tmp_path: Path) -> None:
    store, outcome, _ = soaked(tmp_path, Spec(sources=(own(SETTINGS),)), Limits(float("inf"), 1), Watcher())
    assert outcome.verdict is Verdict.UNKNOWN and "no canary" in morning_of(store, outcome.run).reasons[0]
    store, outcome, _ = soaked(tmp_path, Spec(sources=(), canaries=(BAD,)), Limits(float("inf"), 1), Watcher())
    assert outcome.verdict is Verdict.UNKNOWN and morning_of(store, outcome.run).reasons == ("nothing was judged",)


class Killer(Watcher):
    """Kills the server that judges a shard of plans, so many times."""

    def __init__(self, times: int, number: int = signal.SIGKILL) -> None:
        self.times = times
        self.number = number
        self.notes: list[str] = []
        self.pool: LocalPool | None = None

    def tick(self, _view: View) -> None:
        assert self.pool
        busy = [server for server in self.pool._servers if server.task and not server.task.shard.canary]
        if busy and self.times:
            self.times -= 1
            os.kill(busy[0].process.pid, self.number)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_dies_or_hangs_costs_nothing_but_time(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FIRST_SIGN_SECONDS", 4.0)
    monkeypatch.setattr(pool, "_GRACE_SECONDS", -30.0)
    killer = Killer(1, number)
    quick = msgspec.structs.replace(SETTINGS, timeout=0.1, max_states=10)
    spec = Spec(sources=(own(quick),), canaries=(BAD,))
    store, outcome, _ = soaked(tmp_path, spec, Limits(float("inf"), 2), killer)
    assert any("judged again: the shard server" in note for note in killer.notes), killer.notes
    assert shard_names(1, 2, quick) < store.keys(outcome.run)
    assert outcome.verdict is Verdict.INTACT, (killer.notes, morning_of(store, outcome.run).reasons)


@pytest.mark.root
def test_a_shard_that_kills_its_server_twice_is_unknown(tmp_path: Path) -> None:
    killer = Killer(2)
    spec = Spec(sources=(own(SETTINGS),), canaries=(BAD,))
    store, outcome, _ = soaked(tmp_path, spec, Limits(float("inf"), 1), killer, workers=1)
    assert outcome.verdict is Verdict.UNKNOWN
    assert any("could not be judged: the shard server died (killed by SIGKILL)" in note for note in killer.notes)
    assert shard_names(1, 1) < store.keys(outcome.run)


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_it_can_go_on(tmp_path: Path, number: int) -> None:
    reports = tmp_path / "reports"
    with soaking(tmp_path, "--for", "1h", "--seed", "3", "--workers", "2", *SMALL) as soak:
        wait_for_shards(reports, 3, soak)
        soak.send_signal(number)
        out, err = soak.communicate(timeout=60)
    assert soak.returncode == 130 and "UNKNOWN" in out and "go on with --resume" in err, (out, err)
    assert (reports / "morning.md").exists()
    assert sql(reports, "SELECT interrupted, verdict FROM run") == [(1, "UNKNOWN")]
    done = keys(reports)
    on = harness("soak", "--for", "1s", "--seed", "3", "--workers", "2", "--resume", *SMALL, cwd=tmp_path)
    assert on.status == 0, on
    assert one(reports, "SELECT count(*) FROM run") == 1 and keys(reports) >= done


@pytest.mark.root
def test_two_soaks_do_not_share_a_folder(tmp_path: Path) -> None:
    with soaking(tmp_path, "--for", "1h", "--seed", "3", "--workers", "1", *SMALL) as soak:
        assert soak.stderr and soak.stderr.readline().startswith("soak run 1")
        ran = harness("soak", "--shards", "1", *SMALL, cwd=tmp_path)
    assert ran.status == 2 and "another soak is at work" in ran.err, ran
    ran.assert_one_screen()


@pytest.mark.root
def test_a_full_disk_is_told_and_never_intact(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    script = 'mount -t tmpfs -o size=72k none reports; exec "$@"'
    before = ("unshare", "-m", "sh", "-c", script, "sh")
    ran = harness("soak", "--for", "1h", "--seed", "5", "--workers", "2", *BROKEN, cwd=tmp_path, before=before)
    assert ran.status in (1, 3), ran
    assert "No space left on device" in ran.err
    assert "Traceback" not in ran.err


def test_bundles_stay_within_their_bound_and_the_best_stays(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    run = keep(store, BugSignature(file_system="ext4", rule="r", shape="s", lost="l"))
    shelf = Shelf(store, 400_000)
    for number in range(12):
        signature = BugSignature(file_system="ext4", rule="r", shape="s" if number % 2 else "t", lost="l")
        name = f"{number}.crash"
        sighting = Sighting(
            signature=signature,
            kind=FindingKind.TORN,
            verdict=Verdict.CORRUPTED,
            summary="x",
            operations=20 - number,
            bundle=name,
        )
        trial = Trial(key=f"t{number}", text="", guarantee="g", file_system="ext4", verdict=Verdict.CORRUPTED)
        told = shelf.put([(trial, [sighting])], {name: os.urandom(60_000)})
        store.add(run, told)
        shelf.trim()
        assert shelf.used() <= 400_000
        check_bundles(tmp_path)
    per_bug = sql(tmp_path, "SELECT count(*) FROM bundle GROUP BY signature")
    assert len(per_bug) == 2 and all(1 <= count <= KEPT for (count,) in per_bug)
    (tmp_path / "soak" / "left-over.crash").write_bytes(b"x")
    assert shelf.sweep() == 1 and not (tmp_path / "soak" / "left-over.crash").exists()
    check_bundles(tmp_path)


@pytest.mark.root
def test_scenarios_get_a_new_seed_each_time_and_share_the_example_database(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from hypothesis import given, strategies as st\n\n"
        "@given(st.integers())\ndef test_small(n):\n    assert n < 10_000\n\ndef test_fine():\n    pass\n"
    )
    ran = harness("soak", "--shards", "2", "--seed", "5", "--workers", "1", "--scenarios", "test_mine.py", cwd=tmp_path)
    reports = tmp_path / "reports"
    assert ran.status == 3 and "could not be judged" in ran.out, ran
    assert (
        one(reports, "SELECT count(DISTINCT key) FROM trial WHERE text LIKE '%test_fine' AND verdict = 'INTACT'") == 2
    )
    assert any((tmp_path / ".hypothesis" / "examples").iterdir())


@pytest.mark.parametrize(
    "words", [(), ("--for", "soon"), ("--for", "1s", "--resume", "--new"), ("--for", "1s", "--scenarios", "none.py")]
)
def test_misuse_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    ran = harness("soak", *words, cwd=tmp_path)
    assert ran.status == 2, ran
    ran.assert_one_screen()


def test_the_heat_table_says_what_was_never_judged() -> None:
    out = Console(record=True, width=100, file=io.StringIO())
    out.print(heat_table([(("rename", "fsync"), 1000), (("link", "sync"), 3)]))
    text = out.export_text()
    assert "1,000" in text and "never" in text and text.index("rename") < text.index("link")
    met = {("rename", "fsync"): {"ext4", "xfs"}, ("link", "sync"): {"xfs"}}
    out.print(heat_table([(("rename", "fsync"), 1000), (("link", "sync"), 3)], met))
    text = out.export_text()
    assert "on 2 kinds of volume" in text and "3 on 1" in text and "1,000 on" not in text


def test_a_plain_line_comes_only_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView(Console(), plain_every=0.0)
    with view:
        view.tell(lambda: "never drawn", lambda: "a line")
    rare = LiveView(Console(), plain_every=1000.0)
    quiet = LiveView(Console(), quiet=True, plain_every=0.0)
    for each in (rare, quiet):
        each.tell(lambda: "never drawn", lambda: "too early")
    assert capsys.readouterr().out == "a line\n"


def test_a_result_counts_what_is_in_it() -> None:
    trial = Trial(key="k", text="", guarantee="g", file_system="", verdict=Verdict.UNKNOWN, judged=3)
    result = ShardResult(shard="s", keys=[b"12345678"], states=[4], trials=[(trial, [])])
    assert (result.plans, result.judged, result.unknown, result.convicts) == (2, 7, 1, False)
    assert Shard(source="s", guarantee="g", given=(CAREFUL,)).contents() == [CAREFUL]
    assert Settings() == Shard(source="s", guarantee="g").settings

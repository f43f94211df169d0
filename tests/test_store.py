"""The store: what is put in comes out, once; two writers; readers beside a writer; files that are none; full disks."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from store_support import BUG, INFO, Writer, bug, lines, sighting, trial, whole

from harness.campaign import store_schema
from harness.campaign.store import NAME, Plain, Store
from harness.errors import Misuse
from harness.verdict import Verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "a" / "reports"))


def keys(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(8, "big") for number in range(first, first + count)]


def plain(some: list[bytes], states: int = 3, guarantee: str = "g") -> Plain:
    return Plain(guarantee=guarantee, file_system="ext4", keys=some, states=[states] * len(some), seconds=1.0)


def test_a_run_says_who_where_when_and_how_it_ended(store: Store) -> None:
    run = store.begin(INFO)
    begun = store.run(run)
    assert (begun.kind, begun.command, begun.seed, begun.pid) == (INFO.kind, INFO.command, INFO.seed, os.getpid())
    assert begun.host and begun.kernel and begun.harness and begun.started.endswith("Z")
    assert (begun.ended, begun.verdict) == ("", None)
    store.end(run, Verdict.CORRUPTED, interrupted=True, figures={"speed": 2.5})
    ended = store.run(run)
    assert ended.ended >= ended.started
    assert (ended.verdict, ended.interrupted) == (Verdict.CORRUPTED, True)
    assert store.runs() == store.runs("check") == [ended]
    assert store.runs("soak") == []
    with pytest.raises(Misuse, match="no run 99"):
        store.run(99)


def test_a_seed_may_be_larger_than_any_integer_of_sqlite(store: Store) -> None:
    run = store.begin(msgspec.structs.replace(INFO, seed=1 << 100))
    assert store.run(run).seed == 1 << 100


def test_text_that_is_no_utf8_is_kept_as_escapes(store: Store) -> None:
    run = store.begin(msgspec.structs.replace(INFO, command="caf\udce9"))
    store.add(run, [(trial("k\udcff"), [sighting(summary="\udcff")])])
    store.add(run, [(trial("k\udcff"), [sighting(summary="\udcff")])])
    assert store.run(run).command == "caf\\udce9"
    assert [bug.summary for bug in store.bugs()] == ["\\udcff"]


def test_trials_come_back_as_they_were_given(store: Store) -> None:
    run = store.begin(INFO)
    given = [trial("a"), trial("b", Verdict.UNKNOWN, expected=Verdict.CORRUPTED, allowed="about 2^40")]
    assert store.add(run, [(one, []) for one in given])
    assert list(store.trials(run)) == given


def test_a_shard_counts_once_for_ever(store: Store) -> None:
    run = store.begin(INFO)
    assert store.add(run, [whole("a")], key="shard 1", figures={"n": 2})
    assert not store.add(run, [whole("b")], key="shard 1", figures={"n": 2}, plain=[plain(keys(1))])
    assert store.add(run, [whole("c")], key="shard 2", figures={"n": 2})
    assert store.keys(run) == {"shard 1", "shard 2"}
    assert {one.key for one in store.trials(run)} == {"a", "c"}
    assert store.figures(run) == {"n": 4.0}
    other = store.begin(INFO)
    assert store.add(other, [whole("a")], key="shard 1")


def test_a_trial_counts_once_in_a_run_and_so_does_what_it_showed(store: Store) -> None:
    run = store.begin(INFO)
    for judged in (10, 99):
        store.add(run, [(trial("a", judged=judged), [sighting(states=4)]), (trial("a"), [sighting(states=4)])])
    totals = store.totals(run)
    assert (totals.trials, totals.states, totals.recoveries) == (1, 10, 2)
    (found,) = store.bugs()
    assert (found.count, found.states) == (1, 4)


def test_a_trial_that_was_unknown_gives_way_to_one_that_was_judged(store: Store) -> None:
    run = store.begin(INFO)
    store.add(run, [(trial("a", Verdict.UNKNOWN, judged=0), [sighting(bug("hung"), verdict=Verdict.UNKNOWN)])])
    store.add(run, [whole("a")])
    store.add(run, [(trial("a", Verdict.UNKNOWN, judged=0), [])])
    assert [(one.verdict, one.judged) for one in store.trials(run)] == [(Verdict.CORRUPTED, 10)]
    assert [one.signature for one in store.bugs()] == [bug("a")]


def test_plain_trials_count_once_and_stand_beside_the_others(store: Store) -> None:
    run = store.begin(INFO)
    store.add(run, [(trial("a", guarantee="g"), [])], plain=[plain(keys(1500)), plain(keys(1000, 1000))])
    store.add(run, [(trial("u", Verdict.UNKNOWN, guarantee="g"), [])], plain=[plain(keys(2000), states=50)])
    (row,) = store.totals(run).guarantees
    assert (row.guarantee, row.file_system) == ("g", "ext4")
    assert (row.trials, row.states, row.failed, row.unknown) == (2002, 6020, 1, 1)
    assert row.first <= row.last
    assert store.totals(run).trials == 2002


def test_what_was_expected_has_not_failed(store: Store) -> None:
    run = store.begin(INFO)
    store.add(run, [(trial("a", expected=Verdict.CORRUPTED), [sighting()])])
    assert store.totals(run).guarantees[0].failed == 0


def test_findings_of_one_signature_are_one_row_with_the_smallest_bundle(store: Store) -> None:
    first, last = store.begin(INFO), store.begin(INFO)
    store.add(first, [(trial("a"), [sighting(operations=3, lost=1, bundle="a", size=5, tries=3, again=3, states=7)])])
    store.add(first, [(trial("b"), [sighting(operations=2, lost=2, bundle="b", size=9, tries=3, again=1)])])
    store.add(last, [(trial("c"), [sighting(operations=2, lost=1, bundle="c", size=9, summary="best")])])
    store.add(last, [(trial("d"), [sighting(operations=1, summary="no bundle")])])
    store.add(last, [(trial("e"), [sighting(bug("other"), bundle="e")])])
    found, other = store.bugs()
    assert (found.signature, found.count, found.states) == (BUG, 4, 10)
    assert (found.first_run, found.last_run) == (first, last)
    assert (found.rate, found.summary, found.bundle, found.size, found.operations) == ("4/6", "best", "c", 9, 2)
    assert other.signature == bug("other")
    assert [(one.count, one.bundle) for one in store.bugs(run=first)] == [(2, "b")]
    store.forget_bundle("c")
    assert store.bugs()[0].bundle == "b"
    assert {row.path for row in store.bundles()} == {"a", "b", "e"}
    for path in ("a", "b"):
        store.forget_bundle(path)
    assert [one.bundle for one in store.bugs()] == ["", "e"]


def test_two_findings_of_one_trial_with_one_signature_are_one_sighting(store: Store) -> None:
    run = store.begin(INFO)
    worse = sighting(verdict=Verdict.UNKNOWN, states=2, bundle="u", summary="unknown")
    store.add(run, [(trial("a"), [worse, sighting(states=3, bundle="c", summary="certain")])])
    (found,) = store.bugs()
    assert (found.count, found.states, found.summary, found.verdict) == (1, 5, "certain", Verdict.CORRUPTED)


def test_a_bug_that_was_only_ever_planted_is_a_canary(store: Store) -> None:
    run = store.begin(INFO)
    store.add(run, [(trial("a", expected=Verdict.CORRUPTED), [sighting()])])
    assert [one.canary for one in store.bugs()] == [True]
    store.add(store.begin(INFO), [whole("x"), (trial("b"), [sighting()])])
    assert {one.signature: one.canary for one in store.bugs()} == {BUG: False, bug("x"): False}
    assert [one.canary for one in store.bugs(run=run)] == [False]


def test_what_is_known_better_later_is_told_anew(store: Store) -> None:
    run, other = store.begin(INFO), store.begin(INFO)
    store.add(run, [(trial(key), [sighting(bug("?"), summary=key)]) for key in "ab"])
    store.add(other, [(trial("a"), [sighting(bug("?"))])])
    store.restate(run, bug("?"), "b", sighting(summary="shrunk", bundle="s", size=4, operations=2, tries=3, again=3))
    (found,) = store.bugs(run=run)
    assert (found.signature, found.count, found.summary, found.bundle, found.rate) == (BUG, 2, "shrunk", "s", "3/3")
    assert [one.signature for one in store.bugs(run=other)] == [bug("?")]
    assert store.signature(BUG.id) == BUG


def test_the_export_holds_every_row_as_one_line_of_json(store: Store) -> None:
    run = store.begin(INFO)
    store.add(run, [whole("a")], key="s", figures={"n": 1}, plain=[plain(keys(2))])
    told = lines(b"".join(store.export()))
    assert {row["table"] for row in told} == set(store_schema_tables(store))
    assert [row["key"] for row in told if row["table"] == "plain"] == ["00" * 8, "00" * 7 + "01"]
    assert all(next(iter(row)) == "table" for row in told)


def store_schema_tables(store: Store) -> list[str]:
    with sqlite3.connect(store.path) as raw:
        return [name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def test_no_store_to_read_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="there is no store"):
        Store.read(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_reading_leaves_no_file_behind(store: Store) -> None:
    store.begin(INFO)
    Store.read(store.reports).bugs()
    assert os.listdir(store.reports) == [NAME]


@pytest.mark.parametrize("content", [b"no database\n" * 400, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_store_is_misuse(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    for door in (Store.open, Store.read):
        with pytest.raises(Misuse, match="no store"):
            door(str(tmp_path))
    assert (tmp_path / NAME).read_bytes() == content


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / NAME) as raw:
        raw.execute("CREATE TABLE mine (a)")
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(Misuse, match="something else"):
        Store.open(str(tmp_path))
    assert (tmp_path / NAME).read_bytes() == before


def test_an_older_store_is_brought_up_to_date_and_a_newer_one_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.begin(INFO)
    store.add(run, [whole("a")])
    with monkeypatch.context() as patch:
        patch.setattr(store_schema, "MIGRATIONS", (*store_schema.MIGRATIONS, "CREATE TABLE new (a)"))
        assert len(Store.read(store.reports).bugs()) == 1
        assert "new" in store_schema_tables(store)
        Store.open(store.reports).begin(INFO)
    for door in (Store.open, Store.read):
        with pytest.raises(Misuse, match="upgrade") as refused:
            door(store.reports)
        assert "schema 2" in refused.value.cause


def test_a_folder_in_the_way_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(OSError, match="directory"):
        Store.open(str(tmp_path))


def test_two_processes_make_one_store_and_write_at_the_same_time(tmp_path: Path) -> None:
    with Writer(tmp_path, "a", 40) as one, Writer(tmp_path, "b", 40) as other:
        assert len(one.finish()) == len(other.finish()) == 40
    store = Store.read(str(tmp_path))
    assert {one.signature.shape for one in store.bugs()} == {f"{name}{n}" for name in "ab" for n in range(40)}
    assert len(store.runs()) == 2


def test_a_store_is_carried_across_fork(store: Store) -> None:
    run = store.begin(INFO)
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            store.add(run, [whole(f"child{number}")])
            os._exit(0)
        children.append(pid)
        store.add(run, [whole(f"parent{number}")])
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert len(store.bugs()) == 8


def test_a_reader_sees_what_was_committed_while_someone_writes(store: Store) -> None:
    run = store.begin(INFO)
    store.add(run, [whole("a")])
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM bundle")
    assert [row.path for row in Store.read(store.reports).bundles()] == ["a.crash"]
    writer.execute("COMMIT")
    assert Store.read(store.reports).bundles() == []
    writer.close()


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    run = store.begin(INFO)
    with pytest.raises(ValueError, match="zip"):
        store.add(run, [whole("a")], key="s", plain=[Plain(guarantee="g", file_system="f", keys=keys(2), states=[1])])
    assert store.bugs() == [] and store.keys(run) == set()
    assert store.add(run, [whole("a")], key="s")


READ = """
import sys
from harness.campaign.store import Store
print(len(Store.read(sys.argv[1]).bugs()))
"""
FILL = """
import errno, sys
sys.path.insert(0, sys.argv[2])
import store_support as support
from harness.campaign.store import Plain, Store
store = Store.open(sys.argv[1])
run = store.begin(support.INFO)
number = 0
try:
    while True:
        store.add(run, [support.whole(f"f{number}")])
        number += 1
except OSError as error:
    print(number, errno.errorcode[error.errno])
print(len(Store.read(sys.argv[1]).bugs()))
"""


def in_a_namespace(script: str, program: str, *words: str, cwd: Path) -> list[str]:
    """What the program prints after `script` has mounted something, in mounts of its own."""
    argv = ["unshare", "-m", "sh", "-ec", script + '; exec "$@"', "sh", sys.executable, "-c", program, *words]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.root
def test_a_store_is_read_where_nothing_can_be_written(store: Store, tmp_path: Path) -> None:
    store.add(store.begin(INFO), [whole("a")])
    script = "mount --bind a a && mount -o remount,bind,ro a"
    assert in_a_namespace(script, READ, "a/reports", cwd=tmp_path) == ["1"]


@pytest.mark.root
def test_a_full_disk_is_an_error_of_the_system_and_costs_no_finding(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    script = "mount -t tmpfs -o size=300k none full"
    told, why, found = in_a_namespace(script, FILL, "full/reports", str(Path(__file__).parent), cwd=tmp_path)
    assert why == errno.errorcode[errno.ENOSPC]
    assert int(told) == int(found) > 5


def test_a_turn_of_a_writer_is_durable_when_it_is_told(tmp_path: Path) -> None:
    """The support of the crash tests: a finding that was told of is there for others."""
    with Writer(tmp_path, "a") as writer:
        name, _ = writer.turn()
        assert [one.signature.shape for one in Store.read(str(tmp_path)).bugs()] == [name]

"""The oracle's model, without a volume: what persistence makes certain, what may be found, what cannot be judged."""

import errno

import pytest
from oracle_told import BAR, FOO, FSYNC, SYNC, A, B, check, creat, expected, in_root, name_sets, ok, write

from harness.errors import BadLog, InternalError, Misuse
from harness.oracle.checks import RecoveredState
from harness.oracle.contracts import CONTRACTS, RULES, contract_named
from harness.oracle.expectation import Life
from harness.oracle.history import ROOT, SECTOR
from harness.oracle.plan_check import PlanCheck
from harness.plan import operations as op
from harness.plan.payload import payload
from harness.plan.plan import Outcome, Plan

# What persistence makes certain.


def test_nothing_is_certain_before_the_first_persistence_call() -> None:
    found = expected(creat("foo", FOO), write("foo", FOO, 5000), FSYNC, points=0)
    assert found.bindings((ROOT, "foo")) == {0, FOO}
    assert found.sizes(Life(FOO)).exact == {0, 5000}
    assert found.sector_values(Life(FOO), 0) == {bytes(SECTOR), payload(FOO, 1, 0, SECTOR)}


def test_what_comes_after_the_next_persistence_call_cannot_be_there_yet() -> None:
    told = (creat("foo", FOO), FSYNC, creat("bar", BAR), SYNC)
    assert expected(*told, points=0).bindings((ROOT, "bar")) == {0}
    assert expected(*told, points=1).bindings((ROOT, "bar")) == {0, BAR}
    assert expected(*told, points=2).bindings((ROOT, "bar")) == {BAR}


def test_a_setup_is_durable_under_any_contract() -> None:
    for contract in CONTRACTS:
        found = expected(creat("foo", FOO), ok(op.Unlink(path="foo")), setup=1, contract=contract)
        assert found.bindings((ROOT, "foo")) == {FOO, 0}
        assert expected(creat("foo", FOO), setup=1, contract=contract).bindings((ROOT, "foo")) == {FOO}


def test_persistence_calls_of_the_setup_are_counted_among_the_promises() -> None:
    found = expected(creat("foo", FOO), SYNC, write("foo", FOO, 100), FSYNC, setup=2, points=1)
    assert found.sizes(Life(FOO)).exact == {0, 100} and found.horizon == 4


def test_a_persistence_call_that_failed_promises_nothing() -> None:
    failed = ok(op.Fsync(path="foo"), errno=errno.EIO)
    found = expected(creat("foo", FOO), write("foo", FOO, 100), failed)
    assert found.sizes(Life(FOO)).exact == {0, 100} and found.bindings((ROOT, "foo")) == {0, FOO}


def test_fsync_of_a_file_makes_its_data_attributes_and_names_certain() -> None:
    told = (creat("foo", FOO), write("foo", FOO, 5000), ok(op.Chmod(path="foo", mode=0o600)), FSYNC)
    found = expected(*told)
    assert found.sizes(Life(FOO)).exact == {5000} and found.modes(FOO) == {0o600}
    assert found.sector_values(Life(FOO), 0) == {payload(FOO, 1, 0, SECTOR)}
    assert name_sets(found, FOO) == {in_root("foo")}


def test_under_posix_fsync_of_a_file_leaves_its_names_to_its_directory() -> None:
    told = (creat("foo", FOO), FSYNC)
    assert name_sets(expected(*told, contract="posix"), FOO) == {frozenset(), in_root("foo")}
    assert expected(*told, ok(op.Fsync(path=".")), contract="posix").bindings((ROOT, "foo")) == {FOO}


def test_sync_promises_everything_on_linux_and_nothing_under_posix() -> None:
    told = (creat("foo", FOO), write("foo", FOO, 100), SYNC)
    assert expected(*told).sizes(Life(FOO)).exact == {100} and name_sets(expected(*told), FOO) == {in_root("foo")}
    assert expected(*told, contract="posix").sizes(Life(FOO)).exact == {0, 100}


def test_fdatasync_promises_data_and_size_alone() -> None:
    told = (creat("foo", FOO), write("foo", FOO, 100), ok(op.Chmod(path="foo", mode=0o600)))
    found = expected(*told, ok(op.Fdatasync(path="foo")))
    assert found.sizes(Life(FOO)).exact == {100} and found.modes(FOO) == {0o644, 0o600}
    assert name_sets(found, FOO) == {frozenset(), in_root("foo")}


def test_fsync_of_a_directory_promises_its_entries_and_not_their_data() -> None:
    told = (ok(op.Mkdir(path="A"), inode=A), creat("A/foo", FOO), write("A/foo", FOO, 100))
    found = expected(*told, ok(op.Fsync(path="A")))
    assert found.bindings((A, "foo")) == {FOO} and name_sets(found, A) == {in_root("A")}
    assert found.sizes(Life(FOO)).exact == {0, 100}


def test_fsync_of_a_file_promises_that_the_directories_above_it_exist() -> None:
    told = (ok(op.Mkdir(path="A"), inode=A), creat("A/foo", FOO), ok(op.Rename(path="A", new="B"), inode=A))
    found = expected(*told, ok(op.Fsync(path="B/foo")))
    assert name_sets(found, A) == {in_root("A"), in_root("B")}, "its new name was not asked for"
    assert found.floors.names_promised(A) == 4, "by the fsync, not by the mkdir"


def test_a_number_given_out_again_changes_nothing_that_was_certain_before() -> None:
    """The directory is removed later, and its number goes to another: at the cut it must be there all the same."""
    told = (
        ok(op.Mkdir(path="A"), inode=A),
        creat("A/foo", FOO),
        ok(op.Fsync(path="A/foo")),
        SYNC,
        ok(op.Unlink(path="A/foo")),
        ok(op.Rmdir(path="A")),
        ok(op.Mkdir(path="B"), inode=A),
        SYNC,
    )
    assert name_sets(expected(*told, points=1), A) == {in_root("A")}


def test_msync_promises_the_pages_of_its_range() -> None:
    told = (creat("foo", FOO), write("foo", FOO, 12288), ok(op.Msync(path="foo", offset=4096, length=100)))
    found = expected(*told)
    sectors = [len(found.sector_values(Life(FOO), n)) for n in (0, 7, 8, 15, 16)]
    assert sectors == [2, 2, 1, 1, 2]
    assert not found.sizes(Life(FOO)).allow(4096) and found.sizes(Life(FOO)).allow(8192)


@pytest.mark.parametrize("how", ["sync", "dsync"])
def test_a_synchronous_write_promises_its_range_and_the_size_needed(how: op.How) -> None:
    told = (creat("foo", FOO), write("foo", FOO, 4096), write("foo", FOO, 4096, 4096, how=how))
    found = expected(*told)
    assert len(found.sector_values(Life(FOO), 0)) == 2 and len(found.sector_values(Life(FOO), 8)) == 1
    assert found.sizes(Life(FOO)).exact == {8192} and found.modes(FOO) == {0o644}
    assert name_sets(found, FOO) == {frozenset(), in_root("foo")}


def test_what_a_short_synchronous_append_did_not_write_is_not_promised() -> None:
    appended = ok(op.Write(path="foo", length=9000, append=True, how="dsync"), inode=FOO, value=4096, size=8192)
    found = expected(creat("foo", FOO), write("foo", FOO, 4096), appended)
    assert found.floors.of_sector(FOO, 8) == 3 and found.floors.of_sector(FOO, 0) == 0
    assert found.floors.of_sector(FOO, 16) == 0


def test_a_synchronous_write_stays_promised_when_blocks_are_moved_behind_it() -> None:
    told = (
        creat("foo", FOO),
        write("foo", FOO, 4096, 8192, how="dsync"),
        ok(op.Fallocate(path="foo", offset=8192, length=4096, mode="insert-range"), inode=FOO, size=16384),
    )
    values = expected(creat("foo", FOO), write("foo", FOO, 12288), SYNC, *told[1:]).sector_values(Life(FOO), 16)
    assert payload(FOO, 1, 8192, SECTOR) not in values, "what the synchronous write replaced"
    assert values == {payload(FOO, 3, 8192, SECTOR), bytes(SECTOR)}


def test_sync_file_range_promises_nothing() -> None:
    found = expected(creat("foo", FOO), write("foo", FOO, 100), ok(op.SyncFileRange(path="foo", length=100)))
    assert found.sizes(Life(FOO)).exact == {0, 100} and found.bindings((ROOT, "foo")) == {0, FOO}


def test_directories_may_be_of_different_times_but_a_rename_is_in_both_or_in_neither() -> None:
    """On btrfs fsync of one directory need not bring along what happened in another before it."""
    told = (
        *(creat("foo", FOO), ok(op.Mkdir(path="A"), inode=A), ok(op.Mkdir(path="B"), inode=B)),
        *(ok(op.Link(path="foo", new="A/foo"), inode=FOO), SYNC),
        ok(op.Unlink(path="A/foo")),
        ok(op.Link(path="foo", new="B/foo"), inode=FOO),
        ok(op.Rename(path="B/foo", new="A/bar"), inode=FOO),
    )
    found = expected(*told)
    top, in_a, in_b, moved = (ROOT, "foo"), (A, "foo"), (B, "foo"), (A, "bar")
    possible = [{top, in_a}, {top}, {top, in_b}, {top, moved}, {top, in_a, in_b}]
    assert all(found.names_may_be(FOO, frozenset(names)) for names in possible)
    impossible = [set(), {in_a}, {top, in_b, moved}, {top, in_a, moved}, {top, (ROOT, "other")}]
    assert not any(found.names_may_be(FOO, frozenset(names)) for names in impossible)
    assert not found.names_may_be(A, frozenset()) and found.names_may_be(A, in_root("A"))


# Wrong questions.


def test_an_unknown_contract_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(Misuse) as caught:
        contract_named("best-effort")
    assert "posix" in caught.value.remedy and "linux" in caught.value.remedy
    with pytest.raises(Misuse):
        PlanCheck(Plan(operations=(op.Sync(),)), [Outcome(n=0)], "best-effort")


@pytest.mark.parametrize("numbers", [[], [0], [1, 0], [0, 2], [0, 1, 2]])
def test_a_plan_that_was_not_run_to_its_end_cannot_be_judged(numbers: list[int]) -> None:
    plan = Plan(operations=(op.Sync(), op.Sync()))
    with pytest.raises(BadLog):
        PlanCheck(plan, [Outcome(n=n) for n in numbers])


def test_more_promises_than_persistence_calls_cannot_be_judged() -> None:
    with pytest.raises(BadLog):
        expected(creat("foo", FOO), FSYNC, points=2)


def test_an_outcome_without_the_number_of_what_it_made_is_a_defect() -> None:
    with pytest.raises(InternalError):
        check(ok(op.Creat(path="foo")))


def test_a_missing_volume_is_no_finding() -> None:
    """Whatever is not the volume's own word is raised, so that the judge says UNKNOWN."""
    with pytest.raises(FileNotFoundError):
        check(creat("foo", FOO))(RecoveredState("/nowhere/at/all"))


# The contracts.


def test_every_rule_says_something_of_its_own_and_names_its_source() -> None:
    rules = list(RULES.values())
    assert len({rule.says for rule in rules}) == len(rules) and all(rule.source for rule in rules)


def test_posix_is_the_least() -> None:
    least, linux = (set(CONTRACTS[name].rules) for name in ("posix", "linux"))
    assert least < linux == set(RULES.values())
    assert {rule.name for rule in linux - least} == {"fsync-names", "sync-everything", "atomic-names"}

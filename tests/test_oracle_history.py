"""The oracle's history, without a volume: what each operation changes, and what one that failed may have changed."""

import errno
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_told import BAR, FOO, FSYNC, SYNC, creat, expected, in_root, name_sets, ok, write

from harness.oracle.expectation import Life
from harness.oracle.history import NOTHING, ROOT, SECTOR, Content, History
from harness.oracle.plan_model import apply
from harness.plan import operations as op
from harness.plan.operations import Operation
from harness.plan.payload import payload

# What a fact has been.


def test_a_history_knows_its_values_by_time() -> None:
    fact = History("a")
    fact.set(2, "b")
    fact.set(4, "c")
    assert [fact.at(t) for t in range(6)] == ["a", "a", "b", "b", "c", "c"]
    assert fact.between(1, 3) == ["a", "b"] and fact.between(3, 9) == ["b", "c"] and fact.between(0, 0) == ["a"]
    assert fact.within(2, 4) == ["b", "c"] and fact.within(3, 3) == []
    assert fact.began == 2 and History(0).began == 0
    assert fact.set_at("b", 9) == 2 and fact.set_at("b", 1) == -1 and fact.set_at("z", 9) == -1


def test_values_of_one_time_are_all_possible() -> None:
    fact = History(0)
    fact.set(1, 10)
    fact.set(1, 20)
    assert fact.between(0, 1) == [0, 10, 20] and fact.between(1, 1) == [20]


def plain(content: Content) -> bytes:
    return content.read(0, content.size)


BYTES = st.integers(1, 4 * SECTOR).map(lambda n: bytes([n % 255 + 1]) * n)
PLACES = st.integers(0, 5 * SECTOR)


@given(
    st.lists(st.tuples(st.sampled_from(["write", "zero", "resize", "collapse", "insert"]), PLACES, BYTES), max_size=8)
)
def test_contents_change_as_bytes_in_a_row_do(steps: list[tuple[str, int, bytes]]) -> None:
    content, reference = NOTHING, b""
    for step, place, data in steps:
        blocks, within = place // SECTOR * SECTOR, len(reference) // SECTOR * SECTOR
        if step == "write":
            grown = reference.ljust(place, b"\0")
            reference = grown[:place] + data + grown[place + len(data) :]
            content = content.written(place, data, max(content.size, place + len(data)))
        elif step == "zero":
            end = min(place + len(data), len(reference))
            reference = reference[:place] + bytes(max(0, end - place)) + reference[max(place, end) :]
            content = content.zeroed(place, len(data), content.size)
        elif step == "resize":
            reference = reference[:place].ljust(place, b"\0")
            content = content.resized(place)
        elif step == "collapse" and blocks + SECTOR < within:
            reference = reference[:blocks] + reference[blocks + SECTOR :]
            content = content.collapsed(blocks, SECTOR)
        elif step == "insert" and blocks < len(reference):
            reference = reference[:blocks] + bytes(SECTOR) + reference[blocks:]
            content = content.inserted(blocks, SECTOR)
        assert plain(content) == reference and content.size == len(reference)


def test_a_change_leaves_the_earlier_content_alone() -> None:
    before = NOTHING.written(0, b"a" * 100, 100)
    before.written(0, b"b" * 100, 100)
    assert plain(before) == b"a" * 100


# What each operation changes.


def test_a_rename_moves_the_name_at_once() -> None:
    found = expected(creat("foo", FOO), SYNC, ok(op.Rename(path="foo", new="bar"), inode=FOO))
    assert name_sets(found, FOO) == {in_root("foo"), in_root("bar")}


def test_what_a_rename_replaces_is_gone_with_it() -> None:
    told = (creat("foo", FOO), creat("bar", BAR), SYNC, ok(op.Rename(path="foo", new="bar"), inode=FOO))
    found = expected(*told)
    assert found.bindings((ROOT, "bar")) == {BAR, FOO}, "never nothing"
    assert name_sets(found, BAR) == {in_root("bar"), frozenset()}


def test_an_exchange_gives_each_the_name_of_the_other() -> None:
    exchange = ok(op.Rename(path="foo", new="bar", how="exchange"), inode=FOO)
    found = expected(creat("foo", FOO), creat("bar", BAR), exchange, SYNC)
    assert found.bindings((ROOT, "foo")) == {BAR} and found.bindings((ROOT, "bar")) == {FOO}


def test_a_rename_between_two_names_of_one_file_does_nothing() -> None:
    link = ok(op.Link(path="foo", new="bar"), inode=FOO)
    found = expected(creat("foo", FOO), link, ok(op.Rename(path="foo", new="bar"), inode=FOO), SYNC)
    assert name_sets(found, FOO) == {in_root("foo", "bar")}


def test_links_and_their_removal() -> None:
    told = (creat("foo", FOO), ok(op.Link(path="foo", new="bar"), inode=FOO), SYNC, ok(op.Unlink(path="foo")))
    assert name_sets(expected(*told), FOO) == {in_root("foo", "bar"), in_root("bar")}


def test_what_failed_changes_nothing() -> None:
    told = (creat("foo", FOO), ok(op.Rename(path="foo", new="bar"), errno=errno.EINVAL), SYNC)
    assert name_sets(expected(*told), FOO) == {in_root("foo")}


def test_a_file_made_again_under_its_number_holds_nothing_of_the_former_one() -> None:
    """The number goes to another file: what the former one held may be found under the former name alone."""
    told = (
        creat("foo", FOO),
        write("foo", FOO, 4096),
        SYNC,
        ok(op.Unlink(path="foo")),
        creat("bar", FOO),
        write("bar", FOO, 512),
    )
    found = expected(*told)
    former, later = found.life(FOO, (ROOT, "foo")), found.life(FOO, (ROOT, "bar"))
    assert payload(FOO, 1, 0, SECTOR) in found.sector_values(former, 0)
    assert found.sector_values(later, 0) == {bytes(SECTOR), payload(FOO, 5, 0, SECTOR)}
    assert found.sizes(later).exact == {0, 512}


def test_a_file_made_again_under_number_and_name_may_be_either() -> None:
    told = (creat("foo", FOO), write("foo", FOO, 4096), SYNC, ok(op.Unlink(path="foo")), creat("foo", FOO))
    assert expected(*told).sizes(expected(*told).life(FOO, (ROOT, "foo"))).exact == {4096, 0}


def test_a_tmpfile_may_be_found_before_its_data_are_there() -> None:
    tmpfile = ok(op.Tmpfile(new="bar", length=512), inode=FOO, value=512, size=512)
    found = expected(creat("foo", FOO), SYNC, ok(op.Unlink(path="foo")), tmpfile)
    assert found.sizes(found.life(FOO, (ROOT, "bar"))).exact == {0, 512}


@pytest.mark.parametrize(
    ("mode", "size", "wanted"),
    [
        ("plain", 12288, {8192, 12288}),
        ("keep-size", 8192, {8192}),
        ("punch-hole", 8192, {8192}),
        ("zero-range", 12288, {8192, 12288}),
        ("collapse-range", 4096, {8192, 4096}),
        ("insert-range", 16384, {8192, 16384}),
    ],
)
def test_fallocate_changes_the_size_by_its_mode(mode: op.FallocateMode, size: int, wanted: set[int]) -> None:
    fallocate = op.Fallocate(path="foo", offset=0, length=4096 if mode == "collapse-range" else 8192, mode=mode)
    found = expected(creat("foo", FOO), write("foo", FOO, 8192), SYNC, ok(fallocate, inode=FOO, size=size))
    assert found.sizes(Life(FOO)).exact == wanted


def test_moved_blocks_may_be_holes_for_a_while_but_not_before_the_range() -> None:
    collapse = ok(op.Fallocate(path="foo", offset=4096, length=4096, mode="collapse-range"), inode=FOO, size=8192)
    found = expected(creat("foo", FOO), write("foo", FOO, 12288), SYNC, collapse)
    assert found.sector_values(Life(FOO), 0) == {payload(FOO, 1, 0, SECTOR)}
    moved = {payload(FOO, 1, 4096, SECTOR), payload(FOO, 1, 8192, SECTOR), bytes(SECTOR)}
    assert found.sector_values(Life(FOO), 8) == moved


def test_a_growing_file_may_end_at_a_block_on_the_way() -> None:
    sizes = expected(creat("foo", FOO), write("foo", FOO, 10000)).sizes(Life(FOO))
    assert all(map(sizes.allow, (0, 4096, 8192, 10000)))
    assert not any(map(sizes.allow, (1, 5000, 9999, 10001, 12288)))
    assert not expected(creat("foo", FOO), write("foo", FOO, 10000), FSYNC).sizes(Life(FOO)).allow(8192)


def test_a_copy_holds_what_the_source_held() -> None:
    copy = op.CopyRange(path="foo", new="bar", offset=512, new_offset=1024, length=4096)
    told = (creat("foo", FOO), write("foo", FOO, 2048), creat("bar", BAR), ok(copy, inode=BAR, value=1536, size=2560))
    found = expected(*told, SYNC)
    assert found.sector_values(Life(BAR), 2) == {payload(FOO, 1, 512, SECTOR)}
    assert found.sector_values(Life(BAR), 0) == {bytes(SECTOR)} and found.sizes(Life(BAR)).exact == {2560}


def test_attributes_and_targets() -> None:
    symlink = ok(op.Symlink(target="bar", new="foo"), inode=FOO)
    assert expected(symlink).targets(FOO) == {"bar"}
    two = ok(op.SetXattr(path="foo", value="1")), ok(op.SetXattr(path="foo", name="b", value="2"))
    told = (creat("foo", FOO), *two)
    assert expected(*told, SYNC).xattr_sets(FOO) == {frozenset({("attr", "1"), ("b", "2")})}
    assert expected(*told, ok(op.RemoveXattr(path="foo")), SYNC).xattr_sets(FOO) == {frozenset({("b", "2")})}


def test_a_mode_is_there_as_soon_as_the_file_is() -> None:
    assert expected(creat("foo", FOO)).modes(FOO) == {0o644}
    assert expected(creat("foo", FOO), ok(op.Chmod(path="foo", mode=0))).modes(FOO) == {0o644, 0}


def test_a_time_that_was_set_counts_until_the_kernel_sets_its_own() -> None:
    told = (creat("foo", FOO), ok(op.Utimens(path="foo", seconds=5)), FSYNC)
    assert expected(*told).mtimes(FOO) == {5}
    assert expected(*told, write("foo", FOO, 10)).mtimes(FOO) == set(), "any"
    failed = ok(op.Fallocate(path="foo", length=4096, mode="collapse-range"), errno=errno.EINVAL)
    assert expected(*told, failed, FSYNC).mtimes(FOO) == set(), "ext4 sets it before it refuses"


# Calls that failed half-way.


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EINTR])
def test_of_a_file_whose_write_failed_half_way_no_content_is_asked_from_then_on(error: int) -> None:
    told = (creat("foo", FOO), SYNC, ok(op.Write(path="foo", length=9000), errno=error), SYNC)
    assert expected(*told, points=0).asks_content(FOO), "the write cannot have begun"
    assert not expected(*told, points=1).asks_content(FOO)


@pytest.mark.parametrize(
    "operation",
    [
        op.RemoveXattr(path="foo"),
        op.SetXattr(path="foo"),
        op.Rename(path="foo", new="bar"),
        op.Link(path="foo", new="bar"),
        op.Chmod(path="foo", mode=0),
        op.Msync(path="foo", length=1),
    ],
)
def test_a_call_that_changes_no_content_leaves_it_certain_when_it_fails(operation: Operation) -> None:
    for error in (errno.ENODATA, errno.ENOSPC, errno.ENOMEM, errno.EBUSY):
        assert expected(creat("foo", FOO), ok(operation, errno=error)).asks_content(FOO)


def test_a_store_that_failed_may_have_extended_the_file() -> None:
    store = op.Write(path="foo", length=10, how="mmap")
    assert not expected(creat("foo", FOO), ok(store, errno=errno.EINVAL)).asks_content(FOO)
    direct = op.Write(path="foo", length=10, how="direct")
    assert expected(creat("foo", FOO), ok(direct, errno=errno.EINVAL)).asks_content(FOO)


def test_a_copy_of_what_is_uncertain_is_uncertain() -> None:
    failed = ok(op.Write(path="foo", length=9000), errno=errno.ENOSPC)
    copy = ok(op.CopyRange(path="foo", new="bar", length=9), inode=BAR, value=9, size=9)
    assert not expected(creat("foo", FOO), creat("bar", BAR), failed, copy).asks_content(BAR)


def test_the_model_knows_every_operation() -> None:
    """Whatever is neither told by the model nor known to change nothing would be judged wrongly without a word."""
    unchanged = {op.Fsync, op.Fdatasync, op.Msync, op.SyncFileRange, op.Syncfs, op.Sync, op.DropCaches}
    registered: set[Callable[..., None]] = {apply.dispatch(object)}
    for operation in get_args(Operation):
        assert (apply.dispatch(operation) in registered) == (operation in unchanged), operation

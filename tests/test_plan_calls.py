"""Every operation of a plan on a real ext4: what it does there, and how it may fail."""

import errno
import os

import pytest
from plan_support import base, content, done, root, run

from harness.plan import operations as op
from harness.plan.operations import How, Operation
from harness.plan.payload import payload
from harness.plan.plan import Outcome

pytestmark = pytest.mark.root

__all__ = ["base", "root"]

HOWS: tuple[How, ...] = ("write", "writev", "direct", "sync", "dsync", "mmap")


@pytest.mark.parametrize("how", HOWS)
def test_each_door_lets_the_same_bytes_in(root: str, how: How) -> None:
    made, first, second = done(
        root,
        op.Creat(path="foo"),
        op.Write(path="foo", offset=4096, length=8192, how=how),
        op.Write(path="foo", length=4096, how=how, append=True),
    )
    inode = os.stat(f"{root}/foo").st_ino
    assert content(f"{root}/foo") == bytes(4096) + payload(inode, 1, 4096, 8192) + payload(inode, 2, 12288, 4096)
    assert (made.inode, made.size) == (inode, 0)
    assert (first.inode, first.value, first.size) == (inode, 8192, 12288)
    assert (second.inode, second.value, second.size) == (inode, 4096, 16384)


@pytest.mark.parametrize("how", [how for how in HOWS if how != "direct"])
def test_unaligned_writes_are_slices(root: str, how: How) -> None:
    done(
        root,
        op.Creat(path="foo"),
        op.Write(path="foo", length=1000, how=how),
        op.Write(path="foo", offset=4095, length=2, how=how),
        op.Write(path="foo", offset=100, length=1, how=how, fill="x"),
    )
    inode = os.stat(f"{root}/foo").st_ino
    expected = bytearray(payload(inode, 1, 0, 1000) + bytes(3095) + payload(inode, 2, 4095, 2))
    expected[100:101] = b"x"
    assert content(f"{root}/foo") == expected


def test_a_direct_write_that_is_not_aligned_is_refused_by_the_kernel(root: str) -> None:
    write = op.Write(path="foo", offset=1, length=4096, how="direct")
    assert [outcome.errno for outcome in run(root, op.Creat(path="foo"), write)] == [0, errno.EINVAL]


def test_a_store_where_no_space_is_left_is_an_outcome_and_no_signal(root: str) -> None:
    stores = [op.Write(path="foo", length=8 << 20, how="mmap", append=True) for _ in range(3)]
    _, *outcomes = run(root, op.Creat(path="foo"), *stores)
    assert outcomes[0].value == 8 << 20
    assert outcomes[-1].errno == errno.EFAULT or outcomes[-1].value < 8 << 20


def test_a_short_write_says_how_much_was_written(root: str) -> None:
    writes = [op.Write(path="foo", length=8 << 20, append=True) for _ in range(3)]
    _, *outcomes = run(root, op.Creat(path="foo"), *writes)
    assert outcomes[0].value == 8 << 20
    assert 0 < sum(outcome.value for outcome in outcomes) < 24 << 20
    assert outcomes[-1].errno == errno.ENOSPC


FULL = 16384


@pytest.mark.parametrize(
    ("operation", "size", "holes"),
    [
        (op.Truncate(path="foo", size=100), 100, None),
        (op.Truncate(path="foo", size=20000), 20000, (FULL, 20000)),
        (op.Fallocate(path="foo", offset=FULL, length=4096), FULL + 4096, (FULL, FULL + 4096)),
        (op.Fallocate(path="foo", offset=FULL, length=4096, mode="keep-size"), FULL, None),
        (op.Fallocate(path="foo", offset=4096, length=4096, mode="punch-hole"), FULL, (4096, 8192)),
        (op.Fallocate(path="foo", offset=12288, length=8192, mode="zero-range"), 20480, (12288, 20480)),
        (op.Fallocate(path="foo", offset=12288, length=8192, mode="zero-range-keep-size"), FULL, (12288, FULL)),
    ],
    ids=str,
)
def test_space_is_taken_and_given_back(
    root: str, operation: Operation, size: int, holes: tuple[int, int] | None
) -> None:
    *_, outcome = done(root, op.Creat(path="foo"), op.Write(path="foo", length=FULL), operation)
    expected = bytearray(payload(outcome.inode, 1, 0, FULL)[:size].ljust(size, b"\0"))
    if holes:
        expected[slice(*holes)] = bytes(holes[1] - holes[0])
    assert content(f"{root}/foo") == expected
    assert outcome.size == size


def test_ranges_are_taken_out_and_put_in(root: str) -> None:
    *_, out, put = done(
        root,
        op.Creat(path="foo"),
        op.Write(path="foo", length=FULL),
        op.Fallocate(path="foo", offset=4096, length=4096, mode="collapse-range"),
        op.Fallocate(path="foo", offset=8192, length=4096, mode="insert-range"),
    )
    data = payload(out.inode, 1, 0, FULL)
    assert (out.size, put.size) == (12288, FULL)
    assert content(f"{root}/foo") == data[:4096] + data[8192:12288] + bytes(4096) + data[12288:]


def test_keeping_the_size_takes_blocks_all_the_same(root: str) -> None:
    done(root, op.Creat(path="foo"), op.Fallocate(path="foo", length=65536, mode="keep-size"))
    found = os.stat(f"{root}/foo")
    assert found.st_size == 0 and found.st_blocks * 512 >= 65536


def test_a_range_is_copied_with_what_it_says_of_itself(root: str) -> None:
    *_, source, _, copied, beyond = done(
        root,
        op.Creat(path="foo"),
        op.Write(path="foo", length=5000),
        op.Creat(path="bar"),
        op.CopyRange(path="foo", new="bar", offset=4096, length=8192, new_offset=10),
        op.CopyRange(path="foo", new="bar", offset=5000, length=1),
    )
    assert content(f"{root}/bar") == bytes(10) + payload(source.inode, 1, 4096, 904)
    assert copied.inode == os.stat(f"{root}/bar").st_ino != source.inode
    assert (copied.value, copied.size, beyond.value) == (904, 914, 0)


def test_names_are_made_moved_and_taken_away(root: str) -> None:
    outcomes = done(
        root,
        op.Mkdir(path="A"),
        op.Creat(path="A/foo"),
        op.Link(path="A/foo", new="bar"),
        op.Symlink(target="nowhere/at all", new="A/link"),
        op.Rename(path="A/foo", new="A/new"),
        op.Mkdir(path="B"),
        op.Rename(path="A", new="B", how="exchange"),
        op.Rename(path="bar", new="A/bar", how="noreplace"),
        op.Tmpfile(new="B/tmp", length=700),
        op.Mkdir(path="C"),
        op.Rmdir(path="C"),
        op.Mkdir(path="C"),
        op.Remove(path="C"),
        op.Creat(path="C"),
        op.Remove(path="C"),
        op.Creat(path="C"),
        op.Unlink(path="C"),
    )
    assert set(os.listdir(root)) == {"A", "B", "lost+found"}
    assert set(os.listdir(f"{root}/A")) == {"bar"}
    assert set(os.listdir(f"{root}/B")) == {"link", "new", "tmp"}
    assert os.readlink(f"{root}/B/link") == "nowhere/at all"
    assert content(f"{root}/B/tmp") == payload(outcomes[8].inode, 8, 0, 700)
    inodes = {name: os.lstat(f"{root}/{name}").st_ino for name in ("A", "B", "A/bar", "B/new", "B/link", "B/tmp")}
    assert inodes["A/bar"] == inodes["B/new"]
    told = [outcome.inode for outcome in outcomes[:9]]
    file, folder = inodes["B/new"], inodes["B"]
    assert told == [folder, file, file, inodes["B/link"], file, inodes["A"], folder, file, inodes["B/tmp"]]
    assert outcomes[8].size == outcomes[8].value == 700
    assert os.stat(f"{root}/B/new").st_mode == 0o100644 and os.stat(f"{root}/A").st_mode == 0o40755


def test_creat_empties_a_file_only_if_asked_to(root: str) -> None:
    *_, kept, emptied = done(
        root,
        op.Creat(path="foo", exclusive=True),
        op.Write(path="foo", length=10),
        op.Creat(path="foo"),
        op.Creat(path="foo", truncate=True),
    )
    assert (kept.size, emptied.size) == (10, 0)


def test_attributes_of_files_and_directories(root: str) -> None:
    done(
        root,
        op.Creat(path="foo"),
        op.SetXattr(path="foo", value="grün"),
        op.SetXattr(path="foo", name="other"),
        op.RemoveXattr(path="foo", name="other"),
        op.SetXattr(path="."),
        op.Chmod(path="foo", mode=0o4711),
        op.Utimens(path="foo", seconds=77),
    )
    assert os.listxattr(f"{root}/foo") == ["user.attr"] == os.listxattr(root)
    assert os.getxattr(f"{root}/foo", "user.attr").decode() == "grün"
    found = os.stat(f"{root}/foo")
    assert found.st_mode == 0o104711
    assert (found.st_atime, found.st_mtime) == (77, 77)


SETUP = (
    op.Creat(path="foo"),
    op.Mkdir(path="A"),
    op.Creat(path="A/foo"),
    op.Mkdir(path="B"),
    op.Symlink(target="A", new="to-A"),
    op.Symlink(target="foo", new="to-foo"),
)


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (op.Creat(path="foo", exclusive=True), errno.EEXIST),
        (op.Creat(path="A"), errno.EISDIR),
        (op.Creat(path="C/foo"), errno.ENOENT),
        (op.Creat(path="foo/foo"), errno.ENOTDIR),
        (op.Creat(path="n" * 256), errno.ENAMETOOLONG),
        (op.Write(path="none", length=1), errno.ENOENT),
        (op.Write(path="A", length=1), errno.EISDIR),
        (op.Write(path="foo", offset=op.OFFSET_MAX, length=1 << 20, how="mmap"), 0),
        (op.Truncate(path="A", size=1), errno.EISDIR),
        (op.Fallocate(path="foo", length=1 << 30), errno.ENOSPC),
        (op.Fallocate(path="foo", length=4096, mode="collapse-range"), errno.EINVAL),
        (op.Fallocate(path="none", length=1), errno.ENOENT),
        (op.CopyRange(path="none", new="foo", length=1), errno.ENOENT),
        (op.CopyRange(path="A", new="foo", length=1), errno.EISDIR),
        (op.Link(path="A", new="C"), errno.EPERM),
        (op.Link(path="foo", new="A/foo"), errno.EEXIST),
        (op.Link(path="none", new="C"), errno.ENOENT),
        (op.Symlink(target="x", new="foo"), errno.EEXIST),
        (op.Symlink(target="x" * 4095, new="C"), 0),
        (op.Rename(path="none", new="C"), errno.ENOENT),
        (op.Rename(path="B", new="A"), errno.ENOTEMPTY),
        (op.Rename(path="A", new="A/C"), errno.EINVAL),
        (op.Rename(path="foo", new="A"), errno.EISDIR),
        (op.Rename(path="A", new="foo"), errno.ENOTDIR),
        (op.Rename(path=".", new="C"), errno.EBUSY),
        (op.Rename(path="foo", new="A/foo", how="noreplace"), errno.EEXIST),
        (op.Rename(path="foo", new="none", how="exchange"), errno.ENOENT),
        (op.Unlink(path="A"), errno.EISDIR),
        (op.Unlink(path="none"), errno.ENOENT),
        (op.Remove(path="A"), errno.ENOTEMPTY),
        (op.Remove(path="none"), errno.ENOENT),
        (op.Mkdir(path="A"), errno.EEXIST),
        (op.Rmdir(path="A"), errno.ENOTEMPTY),
        (op.Rmdir(path="foo"), errno.ENOTDIR),
        (op.RemoveXattr(path="foo", name="none"), errno.ENODATA),
        (op.SetXattr(path="none"), errno.ENOENT),
        (op.Chmod(path="none", mode=0), errno.ENOENT),
        (op.Utimens(path="none", seconds=0), errno.ENOENT),
        (op.Tmpfile(new="foo", length=10), errno.EEXIST),
        (op.Tmpfile(new="C/foo"), errno.ENOENT),
        (op.Fsync(path="none"), errno.ENOENT),
        (op.Fdatasync(path="none"), errno.ENOENT),
        (op.Msync(path="none", length=1), errno.ENOENT),
        (op.Msync(path="A", length=1), errno.EISDIR),
        (op.SyncFileRange(path="none", length=1), errno.ENOENT),
    ],
    ids=str,
)
def test_what_the_kernel_refuses_is_an_outcome(root: str, operation: Operation, code: int) -> None:
    *made, outcome = run(root, *SETUP, operation)
    assert all(each.ok for each in made)
    assert outcome.errno == code, errno.errorcode.get(outcome.errno)
    if code:
        assert outcome == Outcome(n=len(SETUP), op=str(operation), errno=code)

"""Running a plan: the marks that it makes, and what it leaves alone."""

import errno
import os
from pathlib import Path

import pytest
from plan_support import base, content, done, root, run

from harness.errors import Misuse
from harness.plan import operations as op
from harness.plan.interpreter import run_plan
from harness.plan.operations import Operation
from harness.plan.payload import payload
from harness.plan.plan import START, Plan, begin_mark, end_mark

pytestmark = pytest.mark.root

__all__ = ["base", "root"]


SETUP = (
    op.Creat(path="foo"),
    op.Mkdir(path="A"),
    op.Creat(path="A/foo"),
    op.Mkdir(path="B"),
    op.Symlink(target="A", new="to-A"),
    op.Symlink(target="foo", new="to-foo"),
)


THROUGH_A_LINK: tuple[Operation, ...] = (
    op.Creat(path="out/made"),
    op.Creat(path="out-file", truncate=True),
    op.Write(path="out-file", length=10),
    op.Write(path="out/file", length=10, how="mmap"),
    op.Truncate(path="out-file", size=1),
    op.Rename(path="out/file", new="stolen"),
    op.Rename(path="A/foo", new="out/foo"),
    op.Link(path="out/file", new="stolen"),
    op.Mkdir(path="out/made"),
    op.Unlink(path="out/file"),
    op.Remove(path="out/file"),
    op.Rmdir(path="out/folder"),
    op.Chmod(path="out-file", mode=0),
    op.Chmod(path="out", mode=0),
    op.SetXattr(path="out-file"),
    op.Utimens(path="out/file", seconds=0),
    op.Tmpfile(new="out/made", length=10),
    op.Fsync(path="out-file"),
    op.Fsync(path="out"),
    op.Creat(path="to-A/made"),
)


@pytest.mark.parametrize("operation", THROUGH_A_LINK, ids=str)
def test_no_link_leads_out_of_the_volume(root: str, tmp_path: Path, operation: Operation) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    before = os.stat(tmp_path / "file"), os.stat(tmp_path)
    links = (
        op.Symlink(target=str(tmp_path), new="out"),
        op.Symlink(target=str(tmp_path / "file"), new="out-file"),
    )
    *_, outcome = run(root, *SETUP, *links, operation)
    assert outcome.errno in (errno.ELOOP, errno.ENOTDIR)
    assert (os.stat(tmp_path / "file"), os.stat(tmp_path)) == before
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_times_of_a_link_itself_can_be_set(root: str) -> None:
    done(root, *SETUP, op.Utimens(path="to-foo", seconds=5))
    assert os.lstat(f"{root}/to-foo").st_mtime == 5 != os.stat(f"{root}/foo").st_mtime


@pytest.mark.parametrize("path", ["/etc/passwd", "../foo", "A/../../foo", "A//foo"])
def test_a_path_that_leaves_the_volume_is_misuse_before_anything_is_done(root: str, path: str) -> None:
    marks: list[bytes] = []
    with pytest.raises(Misuse):
        run_plan(Plan(operations=(op.Creat(path="foo"), op.Creat(path=path))), root, marks.append)
    assert marks == [] and not os.path.exists(f"{root}/foo")


def test_no_access_time_moves(root: str) -> None:
    done(root, *SETUP, op.Write(path="foo", length=4096), op.Tmpfile(new="bar", length=4096))
    paths = [f"{root}/{name}" for name in (".", "A", "foo", "A/foo", "bar")]
    for path in paths:
        os.utime(path, (1, os.stat(path).st_mtime))  # so old that with relatime any read would move it
    done(
        root,
        op.CopyRange(path="foo", new="bar", length=100),
        op.Write(path="A/foo", length=4096, how="mmap"),
        op.Write(path="foo", offset=10, length=10),
        op.Msync(path="A/foo", length=4096),
        op.Fsync(path="A"),
        op.Fsync(path="."),
        op.Rename(path="A/foo", new="A/bar"),
        op.Remove(path="to-A"),
        op.SyncFileRange(path="foo", length=4096),
    )
    paths[3] = f"{root}/A/bar"
    assert [os.stat(path).st_atime for path in paths] == [1] * 5
    content(f"{root}/foo")
    assert os.stat(f"{root}/foo").st_atime != 1


def test_the_volume_can_be_synced_and_the_caches_dropped(root: str) -> None:
    first, *_, last = done(
        root, op.Creat(path="foo"), op.Write(path="foo", length=5000), op.Sync(), op.Syncfs(), op.DropCaches()
    )
    assert (last.op, last.value) == ("drop_caches", 0)
    assert content(f"{root}/foo") == payload(first.inode, 1, 0, 5000)


def test_marks_stand_around_each_operation_and_behind_the_setup(root: str) -> None:
    marks: list[bytes] = []
    plan = Plan(
        setup=(op.Creat(path="foo"), op.Fsync(path="none")),
        operations=(op.Fsync(path="foo"), op.Rmdir(path="none"), op.Unlink(path="foo")),
    )
    outcomes = run_plan(plan, root, marks.append)
    assert [outcome.errno for outcome in outcomes] == [0, errno.ENOENT, 0, errno.ENOENT, 0]
    assert [outcome.n for outcome in outcomes] == [0, 1, 2, 3, 4]
    around = [
        (begin_mark(n), end_mark(operation, outcomes[n])) for n, operation in enumerate((*plan.setup, *plan.operations))
    ]
    assert marks == [*around[0], *around[1], START, *around[2], *around[3], *around[4]]
    kinds = [mark.partition(b":")[0] for mark in marks]
    assert kinds == [b"op"] * 6 + [b"json"] + [b"op"] * 4  # only the fsync that succeeded made a promise


def test_a_plan_of_nothing_but_its_setup_starts_too(root: str) -> None:
    marks: list[bytes] = []
    run_plan(Plan(setup=(op.Creat(path="foo"),), operations=()), root, marks.append)
    assert marks[-1] == START and len(marks) == 3


def test_a_mark_that_fails_ends_the_plan(root: str) -> None:
    def refuse(text: bytes) -> None:
        if text == begin_mark(1):
            raise OSError(errno.ENOTCONN, "the engine is gone")

    with pytest.raises(OSError, match="the engine is gone"):
        run_plan(Plan(operations=(op.Creat(path="foo"), op.Creat(path="bar"))), root, refuse)
    assert os.path.exists(f"{root}/foo") and not os.path.exists(f"{root}/bar")


def test_what_is_made_does_not_depend_on_the_umask_of_the_caller(root: str) -> None:
    before = os.umask(0o077)
    try:
        done(root, op.Creat(path="foo"), op.Mkdir(path="A"))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert (os.stat(f"{root}/foo").st_mode, os.stat(f"{root}/A").st_mode) == (0o100644, 0o40755)

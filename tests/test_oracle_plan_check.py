"""The oracle on real volumes, without a power cut: what a plan has just done is never wrong. Its speed, its manners."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import get_args

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from oracle_support import findings_as_run, fresh_volume, run, spec_of

from harness.errors import BadLog
from harness.oracle.contracts import CONTRACTS
from harness.oracle.plan_check import PlanCheck
from harness.oracle.recovered import walk
from harness.oracle.works import failures
from harness.plan import operations as op
from harness.plan.enumeration import sequences
from harness.plan.operations import Operation
from harness.plan.plan import Plan
from harness.plan.strategies import plans
from harness.volume import make_base

pytestmark = pytest.mark.root

FILE_SYSTEMS = ("ext4", "xfs", "btrfs")

FSYNC, SYNC, ROOT_FSYNC = op.Fsync(path="foo"), op.Sync(), op.Fsync(path=".")
FOO, BAR, A, B = op.Creat(path="foo"), op.Creat(path="bar"), op.Mkdir(path="A"), op.Mkdir(path="B")


def write(path: str = "foo", offset: int = 0, length: int = 5000, how: op.How = "write", fill: str = "") -> op.Write:
    return op.Write(path=path, offset=offset, length=length, how=how, fill=fill)


def fallocate(mode: op.FallocateMode, offset: int = 4096, length: int = 4096) -> op.Fallocate:
    return op.Fallocate(path="foo", offset=offset, length=length, mode=mode)


PLANS: dict[str, Sequence[Operation]] = {
    "nothing": [op.DropCaches()],
    "creat": [FOO, op.Creat(path="foo", exclusive=True), write(), op.Creat(path="foo", truncate=True), FSYNC],
    "writes": [
        *(FOO, write(), write(offset=100, length=1), write(offset=9000), op.Write(path="foo", length=7, append=True)),
        *(write(offset=20000, how="writev"), write(length=600, fill="x"), FSYNC, write(offset=511, length=2)),
    ],
    "sparse": [FOO, write(offset=3 << 20), op.Truncate(path="foo", size=5 << 20), FSYNC, write(offset=1 << 20)],
    "direct": [FOO, write(length=8192, how="direct"), write(offset=100, length=50, how="direct"), FSYNC],
    "synchronous": [
        *(FOO, write(how="sync"), write(offset=5000, how="dsync"), write(offset=90000, how="dsync")),
        *(op.Write(path="foo", length=100, append=True, how="sync"), op.Truncate(path="foo", size=10)),
    ],
    "mapped": [FOO, write(how="mmap"), op.Msync(path="foo", length=100), write(offset=9000, how="mmap"), FSYNC],
    "msync-in-part": [FOO, write(length=20000), op.Msync(path="foo", offset=8192, length=4096)],
    "truncate": [FOO, write(), op.Truncate(path="foo", size=2500), op.Truncate(path="foo", size=7000), FSYNC],
    "reserve": [FOO, write(), fallocate("plain", 0, 20000), fallocate("keep-size", 20000, 50000), FSYNC],
    "holes": [
        FOO,
        write(length=30000),
        fallocate("punch-hole", 5000, 6000),
        fallocate("zero-range", 29000, 5000),
        FSYNC,
    ],
    "zero-range": [FOO, write(), fallocate("zero-range-keep-size", 1000, 9000), SYNC, op.Write(path="foo", length=9)],
    "collapse": [FOO, write(length=20000), FSYNC, fallocate("collapse-range"), FSYNC, fallocate("collapse-range", 0)],
    "insert": [FOO, write(length=20000), FSYNC, fallocate("insert-range"), FSYNC, fallocate("insert-range", 0, 8192)],
    "copy": [
        *(FOO, write(length=20000), BAR, op.CopyRange(path="foo", new="bar", length=9000)),
        *(op.CopyRange(path="foo", new="bar", offset=4096, new_offset=8192, length=99999), op.Fsync(path="bar")),
        op.CopyRange(path="foo", new="foo", offset=0, new_offset=16384, length=4096),
    ],
    "links": [FOO, write(), op.Link(path="foo", new="bar"), FSYNC, op.Unlink(path="foo"), op.Fsync(path="bar")],
    "link-again": [FOO, op.Link(path="foo", new="bar"), FSYNC, op.Unlink(path="bar"), BAR, op.Fsync(path="bar")],
    "symlinks": [
        *(A, op.Symlink(target="A", new="to-A"), op.Symlink(target="x" * 200, new="A/long"), op.Fsync(path="A")),
        *(op.Creat(path="to-A"), op.Link(path="to-A", new="A/second"), op.Chmod(path="to-A", mode=0o600)),
        *(op.Utimens(path="to-A", seconds=7), op.Rename(path="to-A", new="B"), op.Unlink(path="A/long"), ROOT_FSYNC),
    ],
    "rename": [FOO, write(), FSYNC, op.Rename(path="foo", new="bar"), op.Fsync(path="bar"), FOO, ROOT_FSYNC],
    "rename-over": [FOO, BAR, write(), write("bar", length=100), op.Rename(path="foo", new="bar"), ROOT_FSYNC],
    "rename-noreplace": [FOO, BAR, op.Rename(path="foo", new="bar", how="noreplace"), SYNC],
    "exchange": [
        *(FOO, A, op.Creat(path="A/foo"), write("A/foo"), op.Rename(path="foo", new="A/foo", how="exchange"), SYNC),
        *(op.Rename(path="foo", new="A", how="exchange"), ROOT_FSYNC),
    ],
    "rename-directory": [
        *(A, op.Mkdir(path="A/C"), op.Creat(path="A/C/foo"), op.Fsync(path="A/C/foo"), op.Rename(path="A", new="B")),
        *(A, op.Creat(path="A/foo"), op.Rename(path="B/C", new="A/C"), op.Fsync(path="A")),
        *(op.Rename(path="A/C", new="C"), op.Mkdir(path="D"), op.Rename(path="C", new="D"), SYNC),
    ],
    "remove": [
        FOO,
        A,
        op.Remove(path="A"),
        op.Remove(path="foo"),
        ROOT_FSYNC,
        op.Rmdir(path="A"),
        op.Unlink(path="foo"),
    ],
    "not-empty": [A, op.Creat(path="A/foo"), op.Rmdir(path="A"), op.Rename(path="A", new="A/C"), op.Fsync(path="A")],
    "attributes": [
        *(FOO, A, op.Chmod(path="foo", mode=0), op.Chmod(path="A", mode=0o700), op.Chmod(path=".", mode=0o711)),
        *(
            op.SetXattr(path="foo"),
            op.SetXattr(path="A", name="other", value=""),
            op.SetXattr(path=".", value="x" * 500),
        ),
        *(op.SetXattr(path="foo", value="changed"), op.RemoveXattr(path="A", name="other"), op.RemoveXattr(path="A")),
        *(op.Utimens(path="foo", seconds=1), op.Utimens(path="A", seconds=2**31 - 1), SYNC),
        *(op.RemoveXattr(path="."), op.Chmod(path=".", mode=0o755), ROOT_FSYNC),
    ],
    "times": [FOO, op.Utimens(path="foo", seconds=9), fallocate("collapse-range"), fallocate("insert-range"), FSYNC],
    "times-of-directories": [A, op.Utimens(path="A", seconds=9), op.Creat(path="A/foo"), op.Fsync(path="A")],
    "tmpfile": [op.Tmpfile(new="foo", length=5000), op.Tmpfile(new="foo", length=10), op.Tmpfile(new="bar"), FSYNC],
    "ranges": [FOO, write(length=20000), op.SyncFileRange(path="foo", length=4096), op.Fdatasync(path="foo")],
    "syncfs": [FOO, write(), op.Syncfs(), op.Fdatasync(path="."), op.DropCaches(), op.Unlink(path="foo"), op.Sync()],
    "numbers-used-again": [
        *(FOO, write(), FSYNC, op.Unlink(path="foo"), SYNC, BAR, write("bar", length=100), op.Fsync(path="bar")),
        *(
            A,
            op.Creat(path="A/foo"),
            SYNC,
            op.Unlink(path="A/foo"),
            op.Rmdir(path="A"),
            B,
            op.Creat(path="B/foo"),
            SYNC,
        ),
    ],
    "nothing-there": [
        *(write(), op.Unlink(path="foo"), op.Rename(path="foo", new="bar"), op.Link(path="foo", new="bar"), FSYNC),
        *(op.Creat(path="A/foo"), op.SetXattr(path="foo"), op.Mkdir(path="A/C"), op.Tmpfile(new="A/foo"), SYNC),
    ],
}


@pytest.fixture(scope="module", params=FILE_SYSTEMS)
def volume(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A file system's name and the root of a volume that each test finds empty: the oracle itself empties it."""
    fs = request.param
    with ExitStack() as stack:
        base = stack.enter_context(make_base(spec_of(fs)))
        yield fs, stack.enter_context(fresh_volume(base, fs))


def test_the_plans_hold_every_operation() -> None:
    given = [operation for plan in PLANS.values() for operation in plan]
    assert {type(operation) for operation in given} == set(get_args(Operation))
    assert {each.how for each in given if isinstance(each, op.Write)} == set(get_args(op.How))
    modes = {each.mode for each in given if isinstance(each, op.Fallocate)}
    assert modes == set(get_args(op.FallocateMode))


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("operations", PLANS.values(), ids=PLANS)
def test_what_was_done_is_what_is_expected(
    volume: tuple[str, str], operations: Sequence[Operation], contract: str
) -> None:
    fs, root = volume
    plan, outcomes = run(root, operations)
    assert findings_as_run(root, plan, outcomes, fs, contract) == []
    assert set(os.listdir(root)) <= {"lost+found"}


@pytest.mark.parametrize("setup", [1, 3])
def test_a_setup_changes_nothing_of_that(volume: tuple[str, str], setup: int) -> None:
    fs, root = volume
    for operations in PLANS.values():
        plan, outcomes = run(root, operations[setup:], operations[:setup])
        assert findings_as_run(root, plan, outcomes, fs, "linux") == [], plan.lines()


def test_nor_does_any_operation_of_a_plan_when_it_is_the_last(volume: tuple[str, str]) -> None:
    fs, root = volume
    for operations in PLANS.values():
        for length in range(1, len(operations)):
            if not isinstance(operations[length - 1], op.Sync):  # it waits for every volume of the machine
                plan, outcomes = run(root, operations[:length])
                assert findings_as_run(root, plan, outcomes, fs, "linux") == [], plan.lines()


def test_every_sequence_of_one_operation(volume: tuple[str, str]) -> None:
    fs, root = volume
    for sequence in sequences(1, part=(1, 4)):
        plan, outcomes = run(root, sequence.plan.operations, sequence.plan.setup)
        assert findings_as_run(root, plan, outcomes, fs, "linux") == [], plan.lines()


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(plans())
def test_plans_that_hypothesis_draws(volume: tuple[str, str], plan: Plan) -> None:
    fs, root = volume
    plan, outcomes = run(root, plan.operations, plan.setup)
    assert findings_as_run(root, plan, outcomes, fs, "linux") == [], plan.lines()


# Manners.


def test_a_full_volume_is_no_broken_one(volume: tuple[str, str]) -> None:
    _, root = volume
    os.mkdir(f"{root}/A")
    with open(f"{root}/hog", "wb", buffering=0) as hog, pytest.raises(OSError, match="No space left"):
        while True:
            hog.write(bytes(1 << 20))
    assert failures(root, list(walk(root))) == []
    assert set(os.listdir(root)) <= {"lost+found"}


def test_outcomes_of_another_length_are_refused(volume: tuple[str, str]) -> None:
    _, root = volume
    plan, outcomes = run(root, [FOO, SYNC])
    os.unlink(f"{root}/foo")
    with pytest.raises(BadLog):
        PlanCheck(plan, outcomes[:1])

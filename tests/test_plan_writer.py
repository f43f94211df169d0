"""Plans on a recorded volume: what the block log keeps of them, and the child that runs one after the other."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.blocklog import BlockLog, Kind
from harness.errors import Misuse, WorkloadFailed
from harness.machine import fileops, mounts
from harness.machine.image import Image
from harness.machine.process import wait_readable
from harness.plan import operations as op
from harness.plan.interpreter import Writer, run_plan
from harness.plan.operations import Operation
from harness.plan.payload import identify, payload
from harness.plan.plan import (
    START,
    Outcome,
    Plan,
    begin_mark,
    begun_before,
    end_mark,
    outcomes_of,
    persistence_points,
)
from harness.settings import Settings
from harness.volume import RecordedVolume, VolumeSpec, make_base

pytestmark = pytest.mark.root

SPEC = VolumeSpec.of(Settings(fs="ext4", size=16 << 20))
LOG_MAX = 64 << 20
AT_FDCWD = 2**32 - 100

PLAN = Plan(
    setup=(op.Creat(path="foo"), op.Mkdir(path="A")),
    operations=(
        op.Write(path="foo", length=8192),
        op.Fsync(path="foo"),
        op.Rename(path="foo", new="A/bar"),
        op.Fsync(path="none"),
        op.Tmpfile(new="tmp", length=100),
        op.Fsync(path="."),
    ),
)


@pytest.fixture(scope="module")
def base() -> Iterator[Image]:
    with make_base(SPEC) as image:
        yield image


@pytest.fixture(scope="module")
def root() -> str:
    return mounts.enter_private_mounts().volume


@pytest.fixture
def writer(root: str) -> Iterator[Writer]:
    with Writer(root) as made:
        yield made


def recorded(base: Image, plan: Plan, writer: Writer | None = None) -> tuple[list[Outcome], BlockLog]:
    """The plan's outcomes and its log; the volume was unmounted in order."""
    with RecordedVolume(SPEC, base, log_max=LOG_MAX) as volume:
        if writer:
            outcomes = writer.run(plan, f"{volume.engine.mount_dir}/mark", 20)
        else:
            outcomes = run_plan(plan, volume.path, volume.mark)
        log = volume.finish()
    assert volume.error is None and not volume.stragglers
    return outcomes, log


def at(log: BlockLog, text: bytes) -> int:
    found = log.find(text)
    assert found is not None, text
    return found


def during(log: BlockLog, operation: Operation, outcome: Outcome) -> list[Kind]:
    """What the device was asked for between the operation's two marks."""
    events = log.events[at(log, begin_mark(outcome.n)) : at(log, end_mark(operation, outcome))]
    return [event.kind for event in events if event.kind is not Kind.MARK]


def test_the_block_log_tells_how_each_operation_ended(base: Image) -> None:
    outcomes, log = recorded(base, PLAN)
    assert outcomes_of(log) == outcomes
    assert [outcome.errno for outcome in outcomes] == [0, 0, 0, 0, 0, errno.ENOENT, 0, 0]
    assert persistence_points(PLAN.all, outcomes) == [3, 7]
    texts = [begin_mark(n) for n in range(8)]
    ends = [end_mark(operation, outcome) for operation, outcome in zip(PLAN.all, outcomes, strict=True)]
    places = [at(log, text) for pair in zip(texts, ends, strict=True) for text in pair]
    assert places == sorted(places)
    start = at(log, START)
    assert places[3] < start < places[4]
    assert begun_before(log, start) == 2 and begun_before(log, len(log.events)) == 8
    assert Kind.FLUSH in [event.kind for event in log.events[places[3] : start]]  # the setup is durable
    assert Kind.FLUSH in during(log, PLAN.all[3], outcomes[3])
    assert not during(log, PLAN.all[2], outcomes[2])
    assert [made.at for made in log.promises()] == [places[7], places[15]]


def test_the_log_holds_sectors_that_describe_themselves(base: Image) -> None:
    outcomes, log = recorded(base, PLAN)
    found = {
        identify(bytes(log.data(event)[start : start + 512]))[1:4]
        for event in log.events
        if event.kind is Kind.WRITE
        for start in range(0, event.length, 512)
    }
    inode = outcomes[2].inode
    assert {(inode, 2, offset) for offset in range(0, 8192, 512)} <= found


PERSISTENT: tuple[Operation, ...] = (
    op.Fsync(path="foo"),
    op.Fdatasync(path="foo"),
    op.Msync(path="foo", length=4096),
    op.Msync(path="foo", offset=8192, length=1 << 30),
    op.Syncfs(),
    op.Sync(),
    op.Write(path="foo", length=100, how="sync"),
    op.Write(path="foo", length=100, how="dsync"),
    op.Fsync(path="."),
)


@pytest.mark.parametrize("operation", PERSISTENT, ids=str)
def test_what_persists_flushes_the_device(base: Image, operation: Operation) -> None:
    plan = Plan(setup=(op.Creat(path="foo"),), operations=(op.Write(path="foo", length=4096, how="mmap"), operation))
    outcomes, log = recorded(base, plan)
    assert outcomes[-1].ok
    assert Kind.FLUSH in during(log, operation, outcomes[-1])


def test_sync_file_range_writes_and_flushes_nothing(base: Image) -> None:
    operation = op.SyncFileRange(path="foo", length=4096)
    # Into blocks that are there already: without that, ext4 has none to write to before it commits.
    setup = (op.Creat(path="foo"), op.Write(path="foo", length=4096), op.Fsync(path="foo"))
    outcomes, log = recorded(base, Plan(setup=setup, operations=(op.Write(path="foo", length=4096), operation)))
    asked = during(log, operation, outcomes[-1])
    assert Kind.WRITE in asked and Kind.FLUSH not in asked


@pytest.mark.parametrize(("flags", "flushes"), [(os.O_RDWR, True), (os.O_RDONLY, False)])
def test_msync_does_nothing_for_a_file_that_is_open_for_reading_alone(base: Image, flags: int, flushes: bool) -> None:
    with RecordedVolume(SPEC, base, log_max=LOG_MAX) as volume:
        run_plan(
            Plan(operations=(op.Creat(path="foo"), op.Write(path="foo", length=4096))), volume.path, lambda _: None
        )
        fd = os.open(f"{volume.path}/foo", flags)
        volume.mark(b"op:before")
        fileops.msync(fd, 0, 4096)
        volume.mark(b"op:after")
        os.close(fd)
        log = volume.finish()
    kinds = [event.kind for event in log.events[at(log, b"op:before") : at(log, b"op:after")]]
    assert (Kind.FLUSH in kinds) is flushes


def test_a_setup_that_cannot_be_made_durable_is_no_workload(base: Image) -> None:
    with RecordedVolume(SPEC, base, log_max=LOG_MAX) as volume:
        volume.engine.kill()
        with pytest.raises(WorkloadFailed, match="what the plan's setup did cannot be made durable"):
            run_plan(PLAN, volume.path, lambda _: None)


def test_one_child_runs_plan_after_plan_as_this_process_would(base: Image, writer: Writer) -> None:
    expected, _ = recorded(base, PLAN)
    child = writer.pid
    for _ in range(5):
        outcomes, log = recorded(base, PLAN, writer)
        assert outcomes == expected == outcomes_of(log)
    with RecordedVolume(SPEC, base, log_max=LOG_MAX) as volume:
        for number in range(50):
            name = f"n{number}"
            plan = Plan(operations=(op.Creat(path=name, exclusive=True), op.Write(path=name, length=512)))
            made, written = writer.run(plan, f"{volume.engine.mount_dir}/mark", 20)
            with open(f"{volume.path}/{name}", "rb") as file:
                assert file.read() == payload(made.inode, 1, 0, written.value)
        volume.finish()
    assert volume.error is None and not volume.stragglers
    assert writer.pid == child


def test_between_plans_the_child_holds_nothing_but_its_pipes(base: Image, writer: Writer) -> None:
    with open("/etc/hostname") as ours:
        recorded(base, PLAN, writer)
        assert ours.readable()
        held = [os.readlink(f"/proc/{writer.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{writer.pid}/fd")]
    assert sorted(held)[:3] == [os.devnull] * 3
    assert len(held) == 5 and all(name.startswith("pipe:") for name in sorted(held)[3:])
    assert os.readlink(f"/proc/{writer.pid}/cwd") == "/"


@pytest.fixture
def stuck(tmp_path: Path) -> str:
    """A mark file that nobody reads: opening it for writing waits for ever (fifo(7))."""
    os.mkfifo(tmp_path / "mark")
    return str(tmp_path / "mark")


def test_a_plan_that_hangs_is_ended_and_the_next_one_runs(base: Image, writer: Writer, stuck: str) -> None:
    child = os.pidfd_open(writer.pid)
    began = time.monotonic()
    with pytest.raises(WorkloadFailed, match=r"did not end within 0\.2 s"):
        writer.run(PLAN, stuck, 0.2)
    assert time.monotonic() - began < 5
    assert wait_readable(child, 0)
    os.close(child)
    outcomes, log = recorded(base, PLAN, writer)
    assert outcomes_of(log) == outcomes


def waits_for_a_file(pid: int) -> bool:
    """Whether it is blocked in openat(AT_FDCWD, …): proc(5), /proc/PID/syscall."""
    with open(f"/proc/{pid}/syscall") as file:
        words = file.read().split()
    return len(words) > 1 and int(words[1], 16) & 0xFFFFFFFF == AT_FDCWD


def kill_when_busy(pid: int) -> None:
    give_up_at = time.monotonic() + 10
    while not waits_for_a_file(pid) and time.monotonic() < give_up_at:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


def test_a_child_that_is_killed_in_a_plan_is_a_failed_workload(base: Image, writer: Writer, stuck: str) -> None:
    killer = threading.Thread(target=kill_when_busy, args=(writer.pid,))
    killer.start()
    with pytest.raises(WorkloadFailed, match="killed by SIGKILL"):
        writer.run(PLAN, stuck, 20)
    killer.join()
    assert recorded(base, PLAN, writer)[0][0].ok


def test_a_child_that_died_between_plans_is_replaced(base: Image, writer: Writer) -> None:
    child = os.pidfd_open(writer.pid)
    os.kill(writer.pid, signal.SIGKILL)
    assert wait_readable(child, 10)
    os.close(child)
    assert recorded(base, PLAN, writer)[0][0].ok


def test_an_engine_that_takes_no_mark_fails_the_workload(base: Image, writer: Writer, tmp_path: Path) -> None:
    with pytest.raises(WorkloadFailed, match=r"run to its end: the engine refused a mark.*No such file"):
        writer.run(PLAN, str(tmp_path / "none"), 20)
    with RecordedVolume(SPEC, base, log_max=LOG_MAX) as volume:
        mark = f"{volume.engine.mount_dir}/mark"
        writer.run(PLAN, mark, 20)
        volume.engine.kill()
        with pytest.raises(WorkloadFailed, match="could not be run to its end"):
            writer.run(PLAN, mark, 20)


def test_a_path_that_leaves_the_volume_is_misuse_here_too(writer: Writer, stuck: str) -> None:
    child = writer.pid
    with pytest.raises(Misuse):
        writer.run(Plan(operations=(op.Creat(path="../foo"),)), stuck, 20)
    assert writer.pid == child


def test_a_closed_writer_has_no_child(root: str) -> None:
    writer = Writer(root)
    child = os.pidfd_open(writer.pid)
    writer.close()
    assert wait_readable(child, 0) and writer.pid == 0
    writer.close()
    os.close(child)


PARENT = """
import sys, time
from harness.plan.interpreter import Writer
writer = Writer("/")  # kept: one that is let go of ends its child
print(writer.pid, flush=True)
time.sleep(60)
"""


def test_the_child_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = os.pidfd_open(int(parent.stdout.readline()))
        assert not wait_readable(child, 0)
        parent.kill()
    assert wait_readable(child, 10)
    os.close(child)

"""Judging: nothing that could not be judged is counted as intact, and every state gets a disk of its own."""

import contextlib
import io
import os
import random
import signal
import time

import pytest
from trial_support import SMALL, entries, judge_with, judged, keeps_promises, recorded, with_settings

from harness.crash import DiskBuilder
from harness.errors import CheckUnsound, InternalError, Misuse
from harness.machine import mounts, syscalls, zram
from harness.machine.scratch import LoopScratch, ZramScratch
from harness.machine.tracing import find_tracepoint
from harness.oracle.checks import RecoveredState
from harness.trial.bench import private_copy
from harness.trial.recording import Recording
from harness.verdict import FindingKind, Verdict

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def careful() -> Recording:
    return recorded()


@pytest.fixture(scope="module")
def careless() -> Recording:
    return recorded(fsync=False)


@pytest.mark.parametrize("scratch", ["zram", "loop"])
def test_a_planted_missing_fsync_is_found_and_the_fixed_program_left_alone(
    careful: Recording, careless: Recording, scratch: str
) -> None:
    settings = with_settings(scratch=scratch, fsck=True)
    assert judged(careful, settings=settings).verdict is Verdict.INTACT
    report = judged(careless, settings=settings)
    assert report.verdict is Verdict.CORRUPTED
    assert [found.finding.kind for found in report.found] == [FindingKind.CHECK]


def test_both_kinds_of_scratch_disk_and_any_number_of_workers_find_the_same(careless: Recording) -> None:
    told = []
    for scratch, workers in (("zram", 1), ("zram", 5), ("loop", 1), ("loop", 3)):
        report = judged(careless, settings=with_settings(scratch=scratch, workers=workers))
        told.append([(f.finding.summary, f.states, f.state) for f in report.found])
    assert told[0]
    assert all(other == told[0] for other in told)


def test_zram_is_refused_for_small_sectors_and_loop_devices_take_over() -> None:
    small = with_settings(sector_size=512, mkfs_options="-b 1024")
    recording = recorded(small)
    assert judged(recording, settings=small).verdict is Verdict.INTACT
    with pytest.raises(Misuse, match="sectors of 4096 bytes"):
        judged(recording, settings=with_settings(sector_size=512, scratch="zram"))


def test_a_worker_that_dies_makes_its_state_unknown_and_loses_no_other(careful: Recording) -> None:
    def check(state: RecoveredState) -> bool:
        if len(entries(state)) == 3:
            os._exit(9)
        return keeps_promises(state)

    report = judged(careful, check)
    deaths = [found for found in report.found if "died (status 9)" in found.finding.summary]
    assert report.verdict is Verdict.UNKNOWN
    assert report.judged == report.selected
    assert sum(found.states for found in deaths) == report.unknown > 0


def test_if_every_worker_dies_all_is_unknown_and_it_ends(careful: Recording) -> None:
    def check(_: RecoveredState) -> bool:
        os._exit(9)

    report = judged(careful, check, with_settings(max_states=400))
    assert report.verdict is Verdict.UNKNOWN
    assert report.unknown == report.judged == report.selected > 0


def test_a_check_that_hangs_is_stuck_and_unknown(careful: Recording) -> None:
    def check(state: RecoveredState) -> bool:
        if len(entries(state)) == 2:
            time.sleep(60)
        return True

    report = judged(careful, check, with_settings(timeout=0.2))
    assert report.verdict is Verdict.UNKNOWN
    assert {found.finding.kind for found in report.found} == {FindingKind.STUCK}


def test_a_check_that_raises_is_unknown_but_an_assertion_is_a_finding(careful: Recording) -> None:
    def raises(_: RecoveredState) -> bool:
        raise ValueError("not my day")

    def asserts(state: RecoveredState) -> None:
        assert not entries(state), "there is something"

    unknown, corrupted = judged(careful, raises), judged(careful, asserts)
    assert unknown.verdict is Verdict.UNKNOWN
    assert "not my day" in unknown.found[0].finding.summary
    assert corrupted.verdict is Verdict.CORRUPTED
    assert corrupted.found[0].finding.summary.startswith("there is something")


def test_a_check_may_write_and_leave_files_open_and_no_later_state_sees_it(careful: Recording) -> None:
    kept = []

    def check(state: RecoveredState) -> bool:
        clean = not os.path.exists(f"{state.path}/mark")
        with open(f"{state.path}/mark", "wb") as file:
            file.write(os.urandom(200_000))
        kept.append(open(f"{state.path}/mark", "rb"))  # noqa: SIM115
        os.truncate(f"{state.path}/ledger", 0) if os.path.exists(f"{state.path}/ledger") else None
        return clean

    report = judged(careful, check, with_settings(fsck=True))
    assert report.verdict is Verdict.INTACT, report.found


@pytest.mark.parametrize(("fsck", "words"), [(False, "the kernel reports: EXT4-fs error"), (True, "fsck finds")])
def test_damage_that_the_check_does_not_mind_is_found_all_the_same(fsck: bool, words: str) -> None:
    def lenient(state: RecoveredState) -> bool:
        for name in ("ledger", "lost+found"):
            with contextlib.suppress(OSError):
                os.stat(f"{state.path}/{name}")
        return True

    settings = with_settings(mkfs_options="-O ^has_journal", fsck=fsck)
    report = judged(recorded(settings), lenient, settings)
    assert report.verdict is Verdict.CORRUPTED
    assert {found.finding.kind for found in report.found} == {FindingKind.META}
    assert any(found.finding.summary.startswith(words) for found in report.found), report.found


def test_a_check_that_unmounts_the_volume_is_unknown(careful: Recording) -> None:
    def check(state: RecoveredState) -> bool:
        syscalls.umount(state.path)
        return True

    report = judged(careful, check)
    assert report.verdict is Verdict.UNKNOWN
    assert "unmounted the volume" in report.found[0].finding.summary


def test_the_control_rejects_a_check_that_never_says_yes(careful: Recording) -> None:
    with pytest.raises(CheckUnsound, match="with no power cut"):
        judge_with(careful, lambda _: False).control()
    judge_with(careful).control()


def test_interrupted_is_never_intact(careful: Recording) -> None:
    judge = judge_with(careful)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    judge._on_progress = interrupt
    report = judge.all()
    assert report.interrupted
    assert report.verdict is Verdict.UNKNOWN


def test_a_finding_that_never_comes_back_is_unknown(careful: Recording) -> None:
    mark = mounts.enter_private_mounts().path("once")

    def check(_: RecoveredState) -> bool:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return True
        return False

    judge = judge_with(careful, check)
    report = judge.all()
    verdicts = [report.verdict]
    judge.confirm(report)
    verdicts.append(report.verdict)
    assert verdicts == [Verdict.CORRUPTED, Verdict.UNKNOWN]
    assert report.found[0].reproduced == "0/3"


def dirty(path: str, chance: random.Random) -> None:
    """What a recovery and a check do to a scratch disk: mount, write here and there, unmount."""
    volume = mounts.enter_private_mounts().volume
    mounts.mount_volume(path, volume, "ext4")
    with open(f"{volume}/{chance.randrange(9)}", "wb") as file:
        file.write(chance.randbytes(chance.randrange(300_000)))
    syscalls.umount(volume)


def test_a_zram_disk_holds_exactly_the_state_whatever_was_written_to_it_before(careful: Recording) -> None:
    space = careful.space(SMALL)
    states = space.states(60, 1).states
    image, reference = private_copy(careful.base), private_copy(careful.base)
    builder, other = DiskBuilder(space, image), DiskBuilder(space, reference)
    workspace = mounts.enter_private_mounts()
    chance = random.Random(3)
    with zram.ZramPool(workspace, 1, careful.base.size) as pool:
        footprint = [*careful.base.nonzero_extents(), *builder.footprint]
        scratch = ZramScratch(pool.devices[0], image, footprint, find_tracepoint(workspace))
        for state in states:
            path = scratch.put(builder.build(state))
            scratch.audit()
            other.build(state)
            with open(path, "rb") as device:
                assert device.read() == bytes(reference)
            dirty(path, chance)
        scratch.close()


def test_the_audit_notices_a_restore_that_forgot_something(careful: Recording) -> None:
    space = careful.space(SMALL)
    state = space.states(1000, 1).states[-1]
    workspace = mounts.enter_private_mounts()
    image = private_copy(careful.base)
    builder = DiskBuilder(space, image)
    with zram.ZramPool(workspace, 1, careful.base.size) as pool:
        footprint = [*careful.base.nonzero_extents(), *builder.footprint]
        scratch = ZramScratch(pool.devices[0], image, footprint, find_tracepoint(workspace))
        scratch.put(builder.build(state))
        path = scratch.put([])
        with open(path, "r+b") as device:  # behind the trace's back: it is drained at the end of a put
            device.seek(4096)
            device.write(b"stale")
        with pytest.raises(InternalError, match="does not hold the state"):
            scratch.audit()
        scratch.put([])
        with open(path, "r+b") as device:
            device.seek(careful.base.size - 4096)
            device.write(b"elsewhere")
        with pytest.raises(InternalError, match="more than was written"):
            scratch.audit()
        scratch.close()


def test_a_loop_disk_is_a_fresh_one_each_time(careful: Recording) -> None:
    space = careful.space(SMALL)
    image = private_copy(careful.base)
    builder = DiskBuilder(space, image)
    scratch = LoopScratch(image, [*careful.base.nonzero_extents(), *builder.footprint], 4096)
    chance = random.Random(4)
    for state in space.states(20, 1).states:
        path = scratch.put(builder.build(state))
        scratch.audit()
        with open(path, "rb") as device:
            assert device.read() == bytes(image)
        dirty(path, chance)
    scratch.close()


class _Interrupting(io.StringIO):
    """Forking a process, we flush our streams first, with all signals held back: the Ctrl-C comes right there."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def flush(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("at", range(1, 9))
def test_ctrl_c_while_a_worker_is_being_made_ends_it(
    careful: Recording, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a worker belonged to nobody, held its zram device, and whoever waited for the device waited for ever."""

    def too_late(_number: int, _frame: object) -> None:
        raise AssertionError("the judge hangs")

    before = signal.signal(signal.SIGALRM, too_late)
    judge = judge_with(careful)
    signal.alarm(20)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", _Interrupting(at))
            report = judge.all()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert report.interrupted or report.judged == report.selected

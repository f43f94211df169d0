"""A recorded volume: from mkfs to the orderly unmount, everything is in the log, and nothing else stays behind."""

import os
import signal

import pytest

from harness.blocklog import BlockLog, Kind
from harness.errors import BoundExceeded, EngineLost, Misuse
from harness.machine import mounts
from harness.machine.fsck import fsck
from harness.machine.image import Image
from harness.settings import Settings
from harness.volume import RecordedVolume, VolumeSpec, make_base, mounted_plain

pytestmark = pytest.mark.root

_LOG_MAX = 256 << 20


def spec_of(fs: str = "ext4", mount_options: str = "", sector_size: int = 4096) -> VolumeSpec:
    return VolumeSpec.of(Settings(fs=fs, mount_options=mount_options, sector_size=sector_size))


def replayed(base: Image, log: BlockLog) -> Image:
    disk = base.copy()
    for event in log.events:
        if event.kind is Kind.WRITE:
            disk.map[event.offset : event.offset + event.length] = log.data(event)
        elif event.kind is Kind.DISCARD:
            disk.map[event.offset : event.offset + event.length] = bytes(event.length)
    return disk


def write_durably(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


@pytest.mark.parametrize(("fs", "sector_size"), [("ext4", 4096), ("ext4", 512), ("xfs", 4096), ("btrfs", 4096)])
def test_base_and_log_together_are_the_volume_as_it_was_unmounted(fs: str, sector_size: int) -> None:
    spec = spec_of(fs, sector_size=sector_size)
    base = make_base(spec)
    with mounted_plain(base, spec) as path:
        os.mkdir(f"{path}/made-by-setup")
    with RecordedVolume(spec, base, log_max=_LOG_MAX) as volume:
        for number in range(20):
            write_durably(f"{volume.path}/made-by-setup/{number}", b"%d" % number * 5000)
            volume.mark(b"promise:%d" % number)
        with open(f"{volume.path}/unsynced", "wb") as file:
            file.write(b"late")
        log = volume.finish()
    assert volume.error is None and not volume.stragglers
    assert log is volume.log and log.find(b"begin") is not None
    assert log.events[-1].kind is Kind.MARK and log.find(b"end") == len(log.events) - 1
    assert 0 < volume.free_bytes_at_end < spec.size
    for made in log.promises():
        before = log.events[: made.at]
        assert max(n for n, event in enumerate(before) if event.kind is Kind.FLUSH) > 0
    with replayed(base, log) as disk:
        assert fsck(spec.file_system, disk.path).clean
        with mounted_plain(disk, spec) as path:
            assert sorted(os.listdir(f"{path}/made-by-setup"), key=int) == [str(number) for number in range(20)]
            with open(f"{path}/unsynced", "rb") as file:
                assert file.read() == b"late"
    base.close()


def test_a_promise_stands_behind_the_flush_that_it_relies_on() -> None:
    spec = spec_of()
    with make_base(spec) as base, RecordedVolume(spec, base, log_max=_LOG_MAX) as volume:
        write_durably(f"{volume.path}/f", b"needle-in-the-log" * 300)
        with open(volume.promise_path, "wb", buffering=0) as promises:
            promises.write(b"f is durable\n")
        log = volume.finish()
        (made,) = log.promises()
        kinds = [event.kind for event in log.events]
        written = next(n for n, event in enumerate(log.events) if bytes(log.data(event)[:17]) == b"needle-in-the-log")
        assert kinds.index(Kind.FLUSH, written) < made.at < len(kinds) - 1


def test_files_still_open_at_the_end_are_stragglers_that_the_engine_goes_on_serving() -> None:
    spec = spec_of()
    with make_base(spec) as base:
        with RecordedVolume(spec, base, log_max=_LOG_MAX) as volume, open(f"{volume.path}/open", "wb") as file:
            file.write(b"x" * 100_000)
            file.flush()
            log = volume.finish()
            assert volume.stragglers and volume.error is None
            assert log.find(b"end") is not None
            assert any(event.kind is Kind.WRITE and event.length >= 4096 for event in log.events)
            assert not os.path.exists(f"{volume.path}/open")
            file.write(b"more")
            file.flush()
            os.fsync(file.fileno())
            assert volume.engine.alive
        assert volume.engine.exit_status is not None


def test_a_killed_engine_is_an_error_never_a_short_recording() -> None:
    spec = spec_of()
    with make_base(spec) as base, RecordedVolume(spec, base, log_max=_LOG_MAX) as volume:
        write_durably(f"{volume.path}/a", b"a")
        os.kill(volume.engine.pid, signal.SIGKILL)
        with pytest.raises(OSError):
            write_durably(f"{volume.path}/b", b"b")
        volume.finish()
        assert isinstance(volume.error, EngineLost)
        assert volume.log.find(b"end") is None
    assert os.listdir(mounts.enter_private_mounts().volume) == []


def test_a_log_that_outgrows_its_bound_is_an_error() -> None:
    spec = spec_of()
    with make_base(spec) as base, RecordedVolume(spec, base, log_max=2 << 20) as volume:
        with pytest.raises(OSError):
            for number in range(100):
                write_durably(f"{volume.path}/{number}", bytes(100_000))
        volume.finish()
        assert isinstance(volume.error, BoundExceeded)


def test_a_mount_option_that_the_kernel_refuses_is_misuse_and_leaves_nothing() -> None:
    spec = spec_of(mount_options="data=nonsense")
    workspace = mounts.enter_private_mounts()
    with make_base(spec) as base:
        volume = RecordedVolume(spec, base, log_max=_LOG_MAX)
        with pytest.raises(Misuse, match="nonsense"):
            volume.__enter__()
        assert volume.engine.exit_status == 0
    assert os.listdir(workspace.volume) == os.listdir(workspace.engine) == []


def test_an_abandoned_recording_is_taken_away() -> None:
    spec = spec_of()
    workspace = mounts.enter_private_mounts()
    with make_base(spec) as base:
        with pytest.raises(ZeroDivisionError), RecordedVolume(spec, base, log_max=_LOG_MAX) as volume:
            write_durably(f"{volume.path}/a", b"a")
            _ = 1 / 0
        assert volume.engine.exit_status == 0
    assert os.listdir(workspace.volume) == os.listdir(workspace.engine) == []

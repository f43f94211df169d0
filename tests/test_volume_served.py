"""A volume whose disk an engine serves: one that hangs, fails or dies holds up nobody, and is not ended lightly."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from volume_support import (
    DATA,
    EXT4,
    VirtualClock,
    begun,
    eventually,
    fresh,
    mount_point,
    process,
    write,
)

from harness.engine.rules import Rule
from harness.errors import EngineLost, VolumeStuck
from harness.volume import life
from harness.volume.disks import ServedDisk
from harness.volume.life import Volume
from harness.volume.states import State

pytestmark = pytest.mark.root


@pytest.fixture
def target() -> Iterator[str]:
    with mount_point("life") as path:
        yield path


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_behind_an_engine_that_hangs_detach_is_stuck_in_time_and_force_works(
    target: str, tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "_KERNEL_SECONDS", 0.3)
    monkeypatch.setattr(life, "_REMOVAL_SECONDS", 0.3)
    with (
        fresh() as base,
        ServedDisk(EXT4, base, log_max=64 << 20, label="life-served") as disk,
        Volume("v", disk, str(tmp_path / "v.journal"), clock=clock) as volume,
    ):
        begun(volume, target)
        write(f"{target}/durable")
        write(f"{target}/lost", sync=False)
        disk.engine.arm([Rule(action="hang", on="write", count=0)])
        with pytest.raises(VolumeStuck, match="has not come back"):
            volume.detach(timeout=10)
        monkeypatch.setattr(life, "_KERNEL_SECONDS", 5.0)
        assert volume.force_detach().forced
        assert not disk.bound() and not os.path.ismount(target)
        begun(volume, target)
        assert Path(f"{target}/durable").read_bytes() == DATA
        volume.detach()


def test_a_served_disk_is_not_torn_from_another_namespace(target: str, tmp_path: Path, clock: VirtualClock) -> None:
    with (
        fresh() as base,
        ServedDisk(EXT4, base, log_max=64 << 20, label="life-served") as disk,
        Volume("v", disk, str(tmp_path / "v.journal"), clock=clock) as volume,
    ):
        begun(volume, target)
        with process(lambda: None, private=True) as pid:
            with pytest.raises(VolumeStuck, match=f"pid {pid} "):
                volume.detach(timeout=100)
            assert disk.engine.alive, "an orderly detach kills nobody"
            assert volume.force_detach().forced
            assert [status.removed for status in disk.bound()] == [True]
            begun(volume, target)
            write(f"{target}/new")
            volume.detach()
        eventually(lambda: not disk.bound(), "the old device outlives its holder")


def test_an_engine_is_not_ended_while_somebody_has_its_device_open(
    target: str, tmp_path: Path, clock: VirtualClock
) -> None:
    with (
        fresh() as base,
        ServedDisk(EXT4, base, log_max=64 << 20, label="life-served") as disk,
        Volume("v", disk, str(tmp_path / "v.journal"), clock=clock) as volume,
    ):
        device = begun(volume, target)
        with process(lambda: os.open(device, os.O_RDONLY)) as pid:
            with pytest.raises(VolumeStuck, match=rf"pid {pid} .*device opened {device}"):
                volume.detach(timeout=1)
            assert disk.engine.alive
        volume.detach()


def test_when_the_engine_dies_the_note_says_that_the_sync_failed(target: str, tmp_path: Path) -> None:
    with (
        fresh() as base,
        ServedDisk(EXT4, base, log_max=64 << 20, label="life-served") as disk,
        Volume("v", disk, str(tmp_path / "v.journal")) as volume,
    ):
        begun(volume, target)
        write(f"{target}/lost", sync=False)
        disk.kill_engine()
        assert isinstance(disk.engine.trouble(), EngineLost)
        detached = volume.detach()
        assert (detached.state, detached.forced) == (State.DETACHED, False)
        assert target in detached.sync_error
        assert not disk.bound()


def test_a_sync_that_failed_once_is_not_forgotten_when_the_next_reports_success(target: str, tmp_path: Path) -> None:
    path = str(tmp_path / "v.journal")
    with fresh() as base, ServedDisk(EXT4, base, log_max=64 << 20, label="life-served") as disk:
        with Volume("v", disk, path) as volume:
            begun(volume, target)
            kept = os.open(f"{target}/lost", os.O_CREAT | os.O_WRONLY)
            os.write(kept, DATA)
            disk.engine.arm([Rule(action="error", on="write")])
            with pytest.raises(VolumeStuck):
                volume.detach(timeout=0)
            assert disk.engine.counts()[0].hit == 1
        os.close(kept)
        with Volume("v", disk, path) as volume:
            detached = volume.detach()
            assert detached.state is State.DETACHED
            assert "Input/output error" in detached.sync_error
            assert volume.attach("node-2") and not volume.last.sync_error
            volume.detach()

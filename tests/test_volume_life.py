"""A volume's life on the real kernel: detached means gone everywhere, who holds it is named, force fences."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from volume_support import (
    DATA,
    EXT4,
    VirtualClock,
    begun,
    eventually,
    mount_point,
    place,
    plain_disk,
    process,
    write,
)

from harness.errors import BadJournal, Misuse, VolumeStuck
from harness.machine import loop, syscalls
from harness.machine.holders import Holder, How, own_mounts
from harness.machine.image import Image
from harness.settings import Settings
from harness.volume import VolumeSpec
from harness.volume.disks import PlainDisk
from harness.volume.journal import Journal
from harness.volume.life import Volume
from harness.volume.states import TRANSITIONS, Intent, Record, State

pytestmark = pytest.mark.root


def content_of(image: Image) -> list[bytes]:
    return [image.read(offset, length) for offset, length in image.extents()]


@pytest.fixture
def target() -> Iterator[str]:
    with mount_point("life") as path:
        yield path


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def disk() -> Iterator[PlainDisk]:
    with plain_disk("life") as disk:
        yield disk


@pytest.fixture
def volume(disk: PlainDisk, clock: VirtualClock, tmp_path: Path) -> Iterator[Volume]:
    with Volume("v", disk, str(tmp_path / "v.journal"), clock=clock) as volume:
        yield volume


def test_a_whole_life_goes_into_the_journal(volume: Volume, target: str, disk: PlainDisk) -> None:
    device = begun(volume, target)
    write(f"{target}/a", sync=False)
    assert volume.detach().state is State.DETACHED
    assert not disk.bound() and not own_mounts(device)
    volume.attach("node-2")
    volume.mount(target)
    assert Path(f"{target}/a").read_bytes() == DATA, "an orderly detach keeps what was only written"
    volume.detach()
    assert [(record.state, record.intent, record.where) for record in volume.history] == [
        (State.CREATED, None, ""),
        (State.CREATED, Intent.ATTACH, "node-1"),
        (State.ATTACHED, None, "node-1"),
        (State.ATTACHED, Intent.MOUNT, "node-1"),
        (State.MOUNTED, None, "node-1"),
        (State.DETACHING, None, "node-1"),
        (State.DETACHED, None, "node-1"),
        (State.DETACHED, Intent.ATTACH, "node-2"),
        (State.ATTACHED, None, "node-2"),
        (State.ATTACHED, Intent.MOUNT, "node-2"),
        (State.MOUNTED, None, "node-2"),
        (State.DETACHING, None, "node-2"),
        (State.DETACHED, None, "node-2"),
    ]
    assert not any(record.forced for record in volume.history)


def test_what_the_state_does_not_allow_is_misuse_and_touches_nothing(volume: Volume, target: str) -> None:
    for operation in (lambda: volume.mount(target), volume.detach, volume.force_detach):
        with pytest.raises(Misuse, match="volume v is created"):
            operation()
    begun(volume, target)
    before = volume.history
    with pytest.raises(Misuse, match="volume v is mounted"):
        volume.attach("node-2")
    with pytest.raises(Misuse, match="volume v is mounted"):
        volume.mount(target)
    assert volume.history == before
    volume.detach()


def test_the_page_shows_every_transition() -> None:
    page = (Path(__file__).parent.parent / "docs/volumes.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\w+) \| (\w+) \| .+ \|$", page, re.MULTILINE)
    known = {(old.value, new.value) for old, following in TRANSITIONS.items() for new in following}
    assert {pair for pair in told if pair != ("from", "to")} == known


def test_a_straggler_is_named_with_pid_descriptor_and_path(volume: Volume, target: str, clock: VirtualClock) -> None:
    begun(volume, target)

    def hold() -> None:
        os.dup2(os.open(f"{target}/kept", os.O_CREAT | os.O_WRONLY), 78)

    with process(hold) as pid:
        before = clock.now()
        with pytest.raises(VolumeStuck) as caught:
            volume.detach(timeout=30)
        assert clock.now() - before == pytest.approx(30)
        (found,) = (one for one in caught.value.holders if isinstance(one, Holder) and one.fd == 78)
        assert (found.pid, found.path, found.how) == (pid, f"{target}/kept", How.DESCRIPTOR)
        for words in (
            f"pid {pid} (",
            "descriptor 78",
            f"{target}/kept",
            "mount namespace",
            "is not detached after 30 s",
        ):
            assert words in caught.value.cause
        assert volume.state is State.DETACHING
        with pytest.raises(VolumeStuck, match=f"still bound(\n.*)*{target}/kept"):
            volume.attach("node-2")
    assert volume.detach().state is State.DETACHED, "it goes on where it was"


def test_a_second_namespace_keeps_it_bound_though_umount_and_release_return_success(
    volume: Volume, target: str, disk: PlainDisk, tmp_path: Path
) -> None:
    device = begun(volume, target)
    with process(lambda: None, private=True) as pid:
        # What a careless controller sees: all went well.
        syscalls.umount(target)
        disk.detach()
        assert [status.path for status in disk.bound()] == [device]

        with pytest.raises(VolumeStuck) as caught:
            volume.detach(timeout=1)
        namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        assert [
            (one.pid, one.namespace, one.path)
            for one in caught.value.holders
            if isinstance(one, Holder) and one.how is How.MOUNT
        ] == [(pid, namespace, target)]

        with Volume("v", disk, str(tmp_path / "another.journal")) as another:
            before = another.history
            with pytest.raises(VolumeStuck, match=f"still bound\n.*held by pid {pid} ") as refused:
                another.attach("node-2")
            assert device in refused.value.cause
            assert another.history == before
    assert volume.detach().state is State.DETACHED
    assert not disk.bound()


def test_a_lazy_unmount_is_not_taken_for_the_end(volume: Volume, target: str) -> None:
    begun(volume, target)
    kept = os.open(f"{target}/kept", os.O_CREAT | os.O_WRONLY)
    syscalls.umount(target, syscalls.MNT_DETACH)
    with pytest.raises(VolumeStuck, match=rf"descriptor {kept} /kept"):
        volume.detach(timeout=1)
    assert volume.disk.device, "it is not let go before its superblock is gone"
    os.close(kept)
    volume.detach()


def test_every_mount_of_ours_is_unmounted(volume: Volume, target: str, disk: PlainDisk) -> None:
    begun(volume, target)
    other = place("life-2")
    syscalls.mount(target, other, None, 4096)  # MS_BIND
    volume.detach()
    assert not os.path.ismount(other) and not disk.bound()


@pytest.mark.parametrize("spec", [EXT4, VolumeSpec.of(Settings(fs="xfs", sector_size=512))], ids=["ext4", "xfs-512"])
def test_after_force_it_is_attached_elsewhere_and_the_old_holder_reaches_it_no_more(
    spec: VolumeSpec, target: str, tmp_path: Path
) -> None:
    with plain_disk("life", spec) as disk, Volume("v", disk, str(tmp_path / "v.journal")) as volume:
        old = begun(volume, target)
        write(f"{target}/durable")
        kept = os.open(f"{target}/durable", os.O_RDWR)
        opened = os.open(old, os.O_RDWR)
        with pytest.raises(VolumeStuck):
            volume.detach(timeout=0)
        forced = volume.force_detach("the user wants it")
        assert (forced.state, forced.forced, forced.note) == (State.DETACHED, True, "the user wants it")
        assert any(f"descriptor {kept}" in line for line in forced.held_by), "what force was needed for"
        assert [status.removed for status in disk.bound()] == [True]

        new = volume.attach("node-2")
        assert new != old
        before = content_of(disk.image)
        with pytest.raises(OSError, match="error"):
            os.pwrite(kept, b"old" * 1000, 0)
            os.fsync(kept)
        with pytest.raises(OSError):
            os.pwrite(opened, b"x" * 512, 0)
            os.fsync(opened)
        os.close(kept)
        os.close(opened)
        eventually(lambda: [status.path for status in disk.bound()] == [new], "the old device outlives its holder")
        assert content_of(disk.image) == before, "a write of the old one, or of its unmount, reached the medium"
        volume.mount(target)
        assert Path(f"{target}/durable").read_bytes() == DATA
        write(f"{target}/durable", b"new" * 1000)
        volume.detach()
        begun(volume, target)
        assert Path(f"{target}/durable").read_bytes() == b"new" * 1000
        volume.detach()


def test_what_force_left_to_its_holders_does_not_hold_up_the_next_detach(
    volume: Volume, target: str, disk: PlainDisk, tmp_path: Path, clock: VirtualClock
) -> None:
    old = begun(volume, target)
    kept = os.open(f"{target}/kept", os.O_CREAT | os.O_WRONLY)
    volume.force_detach()
    begun(volume, target)
    volume.close()
    with Volume("v", disk, str(tmp_path / "v.journal"), clock=clock) as again:
        assert again.state is State.MOUNTED
        assert again.detach().state is State.DETACHED
        assert [status.path for status in disk.bound()] == [old]
        assert again.recover().state is State.DETACHED
    os.close(kept)


def test_by_default_it_is_never_forced(volume: Volume, target: str) -> None:
    begun(volume, target)
    kept = os.open(f"{target}/kept", os.O_CREAT | os.O_WRONLY)
    with pytest.raises(VolumeStuck):
        volume.detach(timeout=400)
    assert not any(record.forced for record in volume.history)
    os.close(kept)
    volume.detach()


@pytest.mark.parametrize("limit", [0.0, 1.0, 300.0])
def test_it_is_forced_when_max_stop_duration_has_passed_and_not_before(
    limit: float, disk: PlainDisk, target: str, tmp_path: Path, clock: VirtualClock
) -> None:
    path = str(tmp_path / "v.journal")
    with Volume("v", disk, path, clock=clock, max_stop_duration=limit) as volume:
        begun(volume, target)
        kept = os.open(f"{target}/kept", os.O_CREAT | os.O_WRONLY)
        began = clock.now()
        if limit:
            with pytest.raises(VolumeStuck):
                volume.detach(timeout=limit - 1 or 0.5)
    with Volume("v", disk, path, clock=clock, max_stop_duration=limit) as volume:  # the beginning is in the journal
        forced = volume.detach(timeout=1000)
        assert (forced.state, forced.forced) == (State.DETACHED, True)
        assert f"{limit:g} s" in forced.note
        assert clock.now() - began == pytest.approx(limit)
    os.close(kept)


def test_an_orderly_detach_within_the_limit_is_not_forced(
    disk: PlainDisk, target: str, tmp_path: Path, clock: VirtualClock
) -> None:
    with Volume("v", disk, str(tmp_path / "v.journal"), clock=clock, max_stop_duration=0) as volume:
        begun(volume, target)
        assert not volume.detach().forced


def test_a_device_that_was_pulled_out_is_a_failed_volume(volume: Volume, target: str, disk: PlainDisk) -> None:
    begun(volume, target)
    write(f"{target}/lost", sync=False)
    disk.remove()
    failed = volume.recover()
    assert (failed.state, failed.note) == (State.FAILED, "the device was pulled out")
    detached = volume.detach()
    assert detached.state is State.DETACHED
    assert target in detached.sync_error
    assert not disk.bound()


def test_what_the_kernel_refuses_is_raised_and_leaves_it_failed(volume: Volume, target: str, disk: PlainDisk) -> None:
    volume.attach("node-1")
    disk.spec = msgspec.structs.replace(EXT4, mount_options="nonsense")
    with pytest.raises(Misuse, match="nonsense"):
        volume.mount(target)
    assert volume.state is State.FAILED
    assert "nonsense" in volume.last.note
    with pytest.raises(Misuse, match="is failed"):
        volume.mount(target)
    assert volume.detach().state is State.DETACHED
    assert not disk.bound()


def test_a_split_attachment_is_found_and_named(volume: Volume, disk: PlainDisk) -> None:
    first = volume.attach("node-1")
    with loop.attach(disk.image.fd, label="life") as second:
        failed = volume.recover()
        assert failed.state is State.FAILED
        assert first in failed.note and second.path in failed.note
        with pytest.raises(VolumeStuck, match=second.path):
            volume.detach(timeout=1)
    volume.detach()


def test_a_journal_is_of_one_volume_and_of_a_history_that_can_be(disk: PlainDisk, tmp_path: Path) -> None:
    path = str(tmp_path / "v.journal")
    Volume("v", disk, path).close()
    with pytest.raises(Misuse, match="is the journal of volume v, not of w"):
        Volume("w", disk, path)
    with Volume("v", disk, path), pytest.raises(Misuse, match=f"open in process {os.getpid()}"):
        Volume("v", disk, path)
    with Journal(path, Record) as journal:
        journal.append(Record(volume="v", state=State.MOUNTED))
    with pytest.raises(BadJournal, match="record 2 goes from created to mounted"):
        Volume("v", disk, path)

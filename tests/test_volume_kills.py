"""SIGKILL between any two steps of a volume's life, and its journal cut anywhere: a definite state, nothing left."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from volume_support import (
    DATA,
    EXT4,
    begun,
    bound,
    fresh,
    mount_point,
    plain_disk,
    write,
)

from harness.machine import owners
from harness.machine.holders import own_mounts
from harness.machine.image import Image
from harness.machine.process import wait_readable
from harness.machine.sandbox import spawn_init
from harness.volume.disks import PlainDisk, ServedDisk
from harness.volume.life import Volume
from harness.volume.states import State

pytestmark = pytest.mark.root


Act = Callable[[Callable[[str], None]], object]
"""What a child does, given a step hook."""


@pytest.fixture
def target() -> Iterator[str]:
    with mount_point("life") as path:
        yield path


def live(volume: Volume, target: str, end: str) -> None:
    """A life whose end is orderly or by force, with a file that must survive it."""
    begun(volume, target)
    write(f"{target}/durable")
    volume.detach() if end == "detach" else volume.force_detach()


def steps_of(end: str, image: Image, target: str, folder: Path) -> list[str]:
    names: list[str] = []
    with (
        PlainDisk(EXT4, image, "steps") as disk,
        Volume("v", disk, str(folder / "names.journal"), step=names.append) as volume,
    ):
        live(volume, target, end)
    return names


def killed_after(number: int, act: Act, *, private: bool) -> None:
    """`act` in a child that gets SIGKILL when so many steps are done. `private`: its mounts end with it.

    Pid 1 of a namespace cannot kill itself: it waits, and the parent does it.
    """
    ready, announce = os.pipe()
    left = number

    def step(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.write(announce, b"1")
            signal.pause()

    def main() -> int:
        act(step)
        return 1

    with spawn_init(main, name="killed", mounts=private) as init:
        assert wait_readable(ready, 20), "it never came to that step"
        assert init.kill() == -signal.SIGKILL
    os.close(ready)
    os.close(announce)


@pytest.mark.parametrize("private", [False, True], ids=["shared-mounts", "private-mounts"])
@pytest.mark.parametrize("end", ["detach", "force"])
def test_sigkill_between_any_two_steps_leaves_a_definite_state_and_nothing_behind(
    end: str, private: bool, target: str, tmp_path: Path
) -> None:
    with fresh() as image:
        names = steps_of(end, image, target, tmp_path)
    assert len(names) == len(set(names)) == (10 if end == "detach" else 11)
    for number, name in enumerate(names, 1):
        path = str(tmp_path / f"{number}.journal")
        with fresh() as image:

            def act(step: Callable[[str], None], image: Image = image, path: str = path) -> None:
                with PlainDisk(EXT4, image, "killed") as disk, Volume("v", disk, path, step=step) as volume:
                    live(volume, target, end)

            killed_after(number, act, private=private)
            with PlainDisk(EXT4, image, "killed") as disk, Volume("v", disk, path) as volume:
                assert_definite(volume, disk, name)
                if volume.state not in (State.CREATED, State.DETACHED):
                    volume.detach()
                assert not disk.bound() and not os.path.ismount(target), name
                begun(volume, target)
                if not name.startswith(("attach", "mount")):
                    assert Path(f"{target}/durable").read_bytes() == DATA, name
                volume.detach()
            assert not bound("killed"), name


def assert_definite(volume: Volume, disk: PlainDisk, name: str) -> None:
    """The state after recovery is what the kernel has, and a second look changes nothing."""
    live = [status.path for status in disk.bound() if not status.removed]
    mounted = bool(live and own_mounts(live[0]))
    assert {
        State.CREATED: not live,
        State.ATTACHED: len(live) == 1 and not mounted,
        State.MOUNTED: len(live) == 1 and mounted,
        State.DETACHING: len(live) == 1,
        State.DETACHED: not live and not mounted,
    }[volume.state], (name, volume.last)
    assert not live or volume.last.device == live[0]
    assert volume.recover() == volume.last
    before = volume.history
    volume.recover()
    assert volume.history == before
    if name in ("force: removed", "force: unmounted", "force: released", "force: done"):
        assert (volume.state, volume.last.forced) == (State.DETACHED, True), "a force that took effect is finished"


def test_sigkill_of_the_process_that_serves_the_disk_too(target: str, tmp_path: Path) -> None:
    for number in range(1, 11):
        path = str(tmp_path / f"{number}.journal")
        with fresh() as base:

            def act(step: Callable[[str], None], base: Image = base, path: str = path) -> None:
                with ServedDisk(EXT4, base, log_max=64 << 20, label="life-killed") as disk:
                    live(Volume("v", disk, path, step=step), target, "detach")

            killed_after(number, act, private=True)
            with (
                ServedDisk(EXT4, base, log_max=64 << 20, label="life-killed") as disk,
                Volume("v", disk, path) as volume,
            ):
                if volume.state not in (State.CREATED, State.DETACHED):
                    volume.detach()
                assert not bound("life-killed"), number
                begun(volume, target)
                volume.detach()


def test_a_device_that_outlives_its_owner_is_adopted(target: str, tmp_path: Path) -> None:
    path = str(tmp_path / "v.journal")
    with fresh() as image:

        def act(step: Callable[[str], None]) -> None:
            live(Volume("v", PlainDisk(EXT4, image, "adopted"), path, step=step), target, "detach")

        killed_after(6, act, private=False)
        (before,) = bound("adopted")
        with PlainDisk(EXT4, image, "adopted") as disk, Volume("v", disk, path) as volume:
            (after,) = bound("adopted")
            assert (after.path, after.backing) == (before.path, before.backing)
            assert after.owner == owners.this_process() != before.owner
            assert volume.state is State.MOUNTED
            write(f"{target}/more")
            volume.detach()
        assert not bound("adopted")


def test_wherever_a_record_is_cut_the_journal_gives_a_definite_state(target: str, tmp_path: Path) -> None:
    """What the kernel has decides: an attached volume is not taken for a detached one. (Every byte: the journal's.)"""
    with plain_disk("cut") as disk:
        with Volume("v", disk, str(tmp_path / "v.journal")) as volume:
            begun(volume, target)
            volume.detach()
            volume.attach("node-2")
        content = (tmp_path / "v.journal").read_bytes()
        path = tmp_path / "cut.journal"
        ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
        for cut in sorted({0, 1, *ends, *(end - 1 for end in ends), *(end + 40 for end in ends)}):
            path.write_bytes(content[:cut])
            with Volume("v", disk, str(path)) as again:
                assert again.state in (State.ATTACHED, State.DETACHING, State.FAILED), (cut, again.last)

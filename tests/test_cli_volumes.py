"""`harness volumes` and `harness sweep`: what is there and whose; of dead runs alone anything is taken."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from cli_support import harness
from volume_support import EXT4, bound, eventually, fresh, place, plain_disk, process

from harness.cli.app import COMMANDS
from harness.engine.rules import Rule
from harness.errors import TrialUnknown
from harness.machine import loop, mounts, syscalls, zram
from harness.machine.hanging import Call
from harness.machine.holders import How, own_mounts, own_pid
from harness.machine.image import Image
from harness.machine.sandbox import spawn_init
from harness.machine.syncing import sync_file_system
from harness.verdict import ExitCode
from harness.volume import registry
from harness.volume.disks import PlainDisk, ServedDisk
from harness.volume.life import Volume
from harness.volume.recorded import mount_device
from harness.volume.states import State

pytestmark = pytest.mark.root

POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")


@pytest.fixture
def target() -> Iterator[str]:
    path = place("swept")
    yield path
    while os.path.ismount(path):
        syscalls.umount(path, syscalls.MNT_DETACH)


def by_a_dead_process(act: Callable[[], object]) -> None:
    """`act` in a process that shares our mounts, and is then killed."""
    with process(act):
        pass


@contextlib.contextmanager
def left_behind(label: str, target: str) -> Iterator[loop.Status]:
    """A device that a dead process bound and mounted on `target`, in our mount namespace."""
    with fresh() as image:
        by_a_dead_process(lambda: mount_device(PlainDisk(EXT4, image, label).attach(), target, EXT4))
        (status,) = bound(label)
        yield status
        for left in own_mounts(status.path):
            syscalls.umount(left, syscalls.MNT_DETACH)
        eventually(lambda: not bound(label), f"{label} is still bound")


def rows(out: str, *words: str) -> list[str]:
    return [line for line in out.splitlines() if all(word in line for word in words)]


def test_a_live_volume_is_listed_with_its_owner_and_holders(target: str, tmp_path: Path) -> None:
    with plain_disk("listed") as disk, Volume("db-0", disk, str(tmp_path / "db-0.journal")) as volume:
        device = volume.attach("node-7")
        volume.mount(target)
        ran = harness("volumes", "--state", ".", cwd=tmp_path)
        assert ran.status == ExitCode.INTACT, ran
        assert rows(ran.out, device, "listed", "8 MiB", f"alive, pid {own_pid()}", "2 holders", "memfd:")
        assert rows(ran.out, f"{device} is held by pid {own_pid()} ", f"mount {target}, mount namespace")
        assert rows(ran.out, "db-0", "mounted", "node-7", device, f"alive, pid {own_pid()}", "db-0.journal")
        disk.remove()
        told = harness("volumes", "--state", ".", "--json", cwd=tmp_path).json
        (found,) = (one for one in told["devices"] if one["path"] == device)
        assert (found["label"], found["removed"], found["owner"]) == ("listed", True, "alive")
        assert {"how": "mount", "pid": own_pid(), "path": target}.items() <= found["holders"][0].items()
        (kept,) = told["journals"]
        assert (kept["last"]["volume"], kept["last"]["state"]) == ("db-0", "mounted")
        volume.force_detach()


def test_of_a_dead_run_the_device_is_cleared_and_of_a_live_one_not(target: str, tmp_path: Path) -> None:
    with plain_disk("live") as disk, left_behind("dead", target) as dead:
        mount_device(disk.attach(), place("live"), EXT4)
        (live,) = disk.bound()

        ran = harness("volumes", cwd=tmp_path)
        assert rows(ran.out, dead.path, "dead")
        ran = harness("sweep", "--dry-run", cwd=tmp_path)
        assert ran.status == ExitCode.INTACT, ran
        assert rows(ran.out, "would clear", f"device {dead.path} (dead)")
        assert bound("dead") == [dead] and os.path.ismount(target), "a dry run does nothing"

        ran = harness("sweep", cwd=tmp_path)
        assert ran.status == ExitCode.INTACT, ran
        assert rows(ran.out, "cleared", f"device {dead.path} (dead)")
        assert not bound("dead") and not os.path.ismount(target)

        assert disk.bound() == [live]
        with open(f"{place('live')}/file", "w") as file:
            file.write("untouched")
            os.fsync(file.fileno())
        syscalls.umount(place("live"))
        assert "no dead run of ours left anything" in harness("sweep", cwd=tmp_path).out or bound("live")


def test_it_is_unmounted_in_the_namespaces_of_others_who_live_on(target: str, tmp_path: Path) -> None:
    with fresh() as image, process(lambda: None) as bystander:

        def owner_and_another() -> None:
            mount_device(PlainDisk(EXT4, image, "elsewhere").attach(), target, EXT4)

        by_a_dead_process(owner_and_another)
        with process(lambda: None, private=True) as pid:
            syscalls.umount(target)
            (status,) = bound("elsewhere")
            ran = harness("sweep", cwd=tmp_path)
            assert rows(ran.out, "cleared", status.path), ran
            assert ran.status == ExitCode.INTACT, ran
            assert not bound("elsewhere")
            assert psutil.pid_exists(pid) and psutil.pid_exists(bystander)


def test_what_somebody_still_uses_is_named_and_is_no_success(target: str, tmp_path: Path) -> None:
    with left_behind("busy", target) as status:
        kept = os.open(f"{target}/kept", os.O_CREAT | os.O_WRONLY)
        ran = harness("sweep", cwd=tmp_path)
        assert ran.status == ExitCode.UNKNOWN, ran
        assert rows(ran.out, "still there", status.path, f"pid {own_pid()} ", f"descriptor {kept} /kept")
        os.close(kept)
        eventually(lambda: not bound("busy"), "with its last user it goes")


def test_the_owner_of_a_trial_lives_as_long_as_its_namespace(target: str, tmp_path: Path) -> None:
    """Whoever attached it inside of a trial may have ended: it is still that trial's."""

    def trial() -> None:
        pid = os.fork()
        if pid == 0:
            mount_device(PlainDisk(EXT4, image, "trial").attach(), target, EXT4)
            os._exit(0)
        os.waitpid(pid, 0)

    with fresh() as image:
        with process(trial, private=True):
            (status,) = bound("trial")
            ran = harness("sweep", cwd=tmp_path)
            assert not rows(ran.out, status.path), ran
            assert bound("trial") == [status]
        eventually(lambda: not bound("trial"), "it outlives its namespace")


def test_what_has_no_mark_of_ours_is_never_touched(tmp_path: Path) -> None:
    def plain_loop() -> None:
        """As losetup would: the file's own name where our mark would be."""
        real, loop.OWNER_MARK = loop.OWNER_MARK, b"/var/lib/somebody.img"
        try:
            kept.append(loop.attach(image.fd))
        finally:
            loop.OWNER_MARK = real

    kept: list[loop.LoopDevice] = []
    with Image.create(1 << 20, "foreign") as image:
        with process(plain_loop):
            pass
        plain_loop()
        backing = Path(f"/sys/block/{kept[0].name}/loop/backing_file").read_text()
        ran = harness("sweep", cwd=tmp_path)
        assert not rows(ran.out, kept[0].path), ran
        assert not rows(harness("volumes", cwd=tmp_path).out, kept[0].path)
        assert Path(f"/sys/block/{kept[0].name}/loop/backing_file").read_text() == backing
        kept[0].release()


def test_journals_of_dead_owners_are_cleared_and_no_other_file(tmp_path: Path) -> None:
    with fresh() as image, PlainDisk(EXT4, image, "journals") as disk:
        by_a_dead_process(lambda: Volume("dead", disk, str(tmp_path / "dead.journal")))
        Volume("closed", disk, str(tmp_path / "closed.journal")).close()
        (tmp_path / "damaged.journal").write_bytes((tmp_path / "dead.journal").read_bytes()[5:])
        (tmp_path / "foreign.journal").write_text("-- Logs begin at Mon\n")
        (tmp_path / "dead.txt").write_bytes((tmp_path / "dead.journal").read_bytes())
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with Volume("open", disk, str(tmp_path / "open.journal")):
            ran = harness("sweep", "--state", str(tmp_path), "-n", cwd=tmp_path)
            assert rows(ran.out, "would clear", "dead.journal")
            assert {path.name for path in tmp_path.iterdir()} == {*before, "open.journal"}
            ran = harness("sweep", "--state", str(tmp_path), cwd=tmp_path)
        assert ran.status == ExitCode.INTACT, ran
        assert rows(ran.out, "cleared", "dead.journal") and not rows(ran.out, "closed.journal")
        assert rows(ran.out, "left alone", "damaged.journal", "damaged at byte 0")
        assert rows(ran.out, "left alone", "foreign.journal")
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        del before["dead.journal"]
        assert {name: left[name] for name in before} == before and {*left} == {*before, "open.journal"}
        told = harness("volumes", "--state", ".", cwd=tmp_path)
        assert rows(told.out, "closed", "created", "alive"), told
        assert rows(told.out, "damaged at byte 0", "damaged.journal"), told


def test_listing_and_sweeping_do_not_disturb_a_live_run(target: str, tmp_path: Path) -> None:
    """The other run attaches, mounts, detaches, again and again; a probe in the wrong instant would fail its mount."""

    def run() -> int:
        with (
            fresh() as image,
            PlainDisk(EXT4, image, "undisturbed") as disk,
            Volume("v", disk, str(tmp_path / "v.journal")) as volume,
        ):
            for _ in range(25):
                volume.attach("node")
                volume.mount(target)
                volume.detach()
            return 0 if volume.state is State.DETACHED else 1

    seen = 0
    with spawn_init(run, name="live-run") as init:
        while init.poll() is None:
            seen += any(one.label == "undisturbed" for one in registry.devices())
            assert not [one for one in registry.sweep([str(tmp_path)], dry_run=False) if "undisturbed" in one.name]
        assert init.poll() == 0
    assert seen, "it was never looked at in time"


def test_a_device_of_a_live_run_is_not_asked_whether_it_is_mounted() -> None:
    """That question is an exclusive open: a mount in the same instant would fail. Here, its answer would be yes."""
    with plain_disk("unasked") as disk:
        exclusive = os.open(disk.attach().path, os.O_RDONLY | os.O_EXCL)
        (found,) = (device for device in registry.devices() if device.label == "unasked")
        os.close(exclusive)
        assert {holder.how for holder in found.holders} == {How.OPENED}


def test_two_sweeps_at_once_both_end_well(target: str, tmp_path: Path) -> None:
    with left_behind("twice", target) as status:
        found: list[registry.Swept] = []
        threads = [threading.Thread(target=lambda: found.extend(registry.sweep([], dry_run=False)))]
        threads[0].start()
        ran = harness("sweep", cwd=tmp_path)
        threads[0].join()
        assert ran.status == ExitCode.INTACT, ran
        assert not [one for one in found if status.path in one.name and one.left]


def test_a_zram_device_without_a_keeper_is_told_and_left(tmp_path: Path) -> None:
    if not zram.available():
        pytest.skip("this kernel has no zram")
    pool = zram.ZramPool(mounts.enter_private_mounts(), 1, 1 << 20)
    (name,) = (device.name for device in pool.devices)
    os.kill(pool._keeper, signal.SIGKILL)
    pool.close()
    try:
        others = any(process.name() == "harness-zram" for process in psutil.process_iter())
        ran = harness("sweep", cwd=tmp_path)
        assert ran.status == ExitCode.INTACT, ran
        assert os.path.exists(f"/sys/block/{name}")
        assert others or rows(ran.out, "left alone", f"zram /dev/{name}", "carry no mark", "hot_remove"), ran
    finally:
        zram._remove(int(name.removeprefix("zram")))
    assert not os.path.exists(f"/sys/block/{name}")


def test_a_device_that_does_not_answer_holds_up_nobody(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ANSWER_SECONDS", 0.2)
    with fresh() as base, ServedDisk(EXT4, base, log_max=64 << 20, label="hangs") as disk:
        mount_device(disk.attach(), target, EXT4)
        disk.engine.arm([Rule(action="hang", on="flush", count=0)])
        write = Call(lambda: sync_file_system(target))
        assert disk.engine.await_hit(10)
        removal = Call(disk.remove)
        eventually(hangs, "the removal did not begin")
        disk.kill_engine()
        assert removal.is_over(10)
        with pytest.raises(OSError, match=r"."):
            write.is_over(10)


def hangs() -> bool:
    try:
        registry.devices()
    except TrialUnknown as error:
        assert "does not answer" in error.cause
        return True
    return False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("volumes", "--jsn"), "did you mean --json?"),
        (("volumes", "--state"), "--state"),
        (("volumes", "--state", "gone"), "gone is no folder"),
        (("volumes", "extra"), "extra"),
        (("sweep", "--dry-rnu"), "did you mean --dry-run?"),
        (("sweep", "--state", "gone"), "gone is no folder"),
        (("sweep", "/dev/loop0"), "/dev/loop0"),
    ],
)
def test_misuse_is_told_with_a_remedy(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    ran = harness(*words, cwd=tmp_path)
    assert ran.status == ExitCode.MISUSE, ran
    ran.assert_one_screen()
    assert expected in ran.err


@pytest.mark.parametrize("command", ["volumes", "sweep"])
def test_without_root_the_want_is_named_and_nothing_seems_empty(command: str) -> None:
    assert command in COMMANDS
    ran = harness(command, cwd=Path("/"), before=POWERLESS)
    assert ran.status == ExitCode.REQUIREMENT_MISSING, ran
    ran.assert_one_screen()
    assert "sudo" in ran.err and not ran.out

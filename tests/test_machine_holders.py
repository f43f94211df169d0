"""Who holds a device: every way to hold one is named, in every mount namespace; what cannot be named is said so."""

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Iterator

import pytest
from volume_support import eventually, place, plain_disk, process

from harness.errors import Misuse
from harness.machine import syscalls
from harness.machine.holders import Holder, How, command_of, holders, own_mounts, own_pid
from harness.machine.owners import Census, Life, Owner, parse, this_process
from harness.machine.sandbox import spawn_init
from harness.settings import Settings
from harness.volume import VolumeSpec
from harness.volume.recorded import mount_device

pytestmark = pytest.mark.root

SPECS = [VolumeSpec.of(Settings(fs=fs)) for fs in ("ext4", "xfs", "btrfs")]


@contextlib.contextmanager
def mounted(spec: VolumeSpec, target: str) -> Iterator[str]:
    """A device mounted on `target`; what is left of the mount in the end goes out of sight."""
    with plain_disk("holders", spec) as disk:
        device = disk.attach()
        mount_device(device, target, spec)
        try:
            yield device.path
        finally:
            for left in reversed(own_mounts(device.path)):
                syscalls.umount(left, syscalls.MNT_DETACH)


def by(how: How, found: list[Holder]) -> list[Holder]:
    return [one for one in found if one.how is how]


def namespace_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino


@pytest.fixture(params=SPECS, ids=lambda spec: spec.fs)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with mounted(request.param, place("held")) as path:
        yield path


def test_a_mount_and_the_open_device_are_named(device: str) -> None:
    mount, opened = holders(device)
    assert mount == Holder(
        how=How.MOUNT,
        pid=own_pid(),
        command=command_of(own_pid()),
        namespace=namespace_of(os.getpid()),
        path=place("held"),
    )
    assert (opened.how, opened.pid, opened.path) == (How.OPENED, own_pid(), device)
    assert os.stat(opened.fd).st_rdev == os.stat(device).st_rdev
    assert "python" in mount.command


def test_an_open_file_is_named_with_process_descriptor_and_path(device: str) -> None:
    path = f"{place('held')}/file with a name"

    def hold() -> None:
        assert os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), 77) == 77

    with process(hold) as pid:
        (found,) = by(How.DESCRIPTOR, [one for one in holders(device) if one.fd == 77])
        assert (found.pid, found.path, found.namespace) == (pid, path, namespace_of(pid))
        assert f"pid {pid} (" in str(found) and f"descriptor 77 {path}" in str(found)


def test_working_directory_root_and_mapping_are_named(device: str) -> None:
    os.mkdir(f"{place('held')}/folder")
    kept: list[mmap.mmap] = []

    def hold() -> None:
        fd = os.open(f"{place('held')}/mapped", os.O_CREAT | os.O_RDWR)
        os.ftruncate(fd, mmap.PAGESIZE)
        kept.append(mmap.mmap(fd, mmap.PAGESIZE))
        os.close(fd)
        os.chroot(f"{place('held')}/folder")
        os.chdir("/")

    with process(hold) as pid:
        found = {one.how: one.path for one in holders(device) if one.pid == pid}
    folder = f"{place('held')}/folder"
    assert found[How.WORKING_DIRECTORY] == found[How.ROOT] == folder
    # mmap(2) of Python keeps a descriptor of its own; the mapping is named besides.
    assert found[How.MAPPING].endswith("mapped")


def test_a_mount_upon_the_volume_is_named(device: str) -> None:
    folder = f"{place('held')}/below"
    os.mkdir(folder)
    syscalls.mount("none", folder, "tmpfs")
    (found,) = by(How.MOUNT_ON_IT, holders(device))
    assert found.path == folder


def test_each_namespace_is_named_once_and_a_bind_mount_too(device: str) -> None:
    def hold() -> None:
        syscalls.mount(place("held"), place("other"), None, 4096)  # MS_BIND

    with process(hold, private=True) as pid:
        found = by(How.MOUNT, holders(device))
        assert {one.namespace for one in found} == {namespace_of(os.getpid()), namespace_of(pid)}
        assert sorted(one.path for one in found if one.pid == pid) == [place("held"), place("other")]
        assert len(found) == 3


def test_a_thread_in_a_namespace_of_its_own_is_found(device: str) -> None:
    left, go = threading.Event(), threading.Event()

    def live() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        left.set()
        go.wait(10)

    thread = threading.Thread(target=live)
    thread.start()
    assert left.wait(10)
    try:
        syscalls.umount(place("held"))
        found = by(How.MOUNT, holders(device))
        assert [one.pid for one in found] == [own_pid()]
        assert found[0].namespace != namespace_of(os.getpid())
    finally:
        go.set()
        thread.join()
    eventually(lambda: not by(How.MOUNT, holders(device)), "the thread's namespace lives on")


def test_after_a_lazy_unmount_the_open_file_is_still_named(device: str) -> None:
    fd = os.open(f"{place('held')}/file", os.O_CREAT | os.O_WRONLY)
    syscalls.umount(place("held"), syscalls.MNT_DETACH)
    found, *_ = (one for one in holders(device) if one.how is not How.OPENED)
    if os.fstat(fd).st_dev == os.stat(device).st_rdev:
        assert (found.how, found.fd, found.path) == (How.DESCRIPTOR, fd, "/file")
    else:  # btrfs gives its files a number of their own: nothing tells whose device is below
        assert found.how is How.KERNEL
        assert "no process that can be seen" in str(found)
    os.close(fd)
    assert [one.how for one in holders(device)] == [How.OPENED]


def test_a_namespace_that_only_a_descriptor_keeps_alive_is_named(device: str) -> None:
    with process(lambda: None, private=True) as pid:
        kept = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        namespace = namespace_of(pid)
    syscalls.umount(place("held"))
    kernel, *keepers = (one for one in holders(device) if one.how is not How.OPENED)
    assert kernel.how is How.KERNEL
    # Others may keep namespaces alive too, and nothing tells from outside what is mounted in them.
    (ours,) = (one for one in keepers if one.fd == kept and one.pid == own_pid())
    assert (ours.how, ours.namespace) == (How.NAMESPACE, namespace)
    assert f"keeps mount namespace {namespace} alive" in str(ours)
    os.close(kept)
    eventually(lambda: [one.how for one in holders(device)] == [How.OPENED], "the namespace lives on")


def test_what_is_seen_from_a_pid_namespace_below_is_its_own_and_the_rest_is_the_kernel(device: str) -> None:
    def look() -> int:
        syscalls.umount(place("held"))
        return 0 if [one.how for one in holders(device)][:2] == [How.OPENED, How.KERNEL] else 1

    with spawn_init(look, name="look") as init:
        assert init.wait(10) == 0


def test_processes_that_come_and_go_do_not_disturb(device: str) -> None:
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            assert [one.how for one in holders(device)] == [How.MOUNT, How.OPENED]
    finally:
        over.set()
        thread.join()


def test_it_is_cheap_enough_to_be_asked_again_and_again(device: str) -> None:
    holders(device)
    before = time.process_time()
    for _ in range(5):
        holders(device)
    each = (time.process_time() - before) / 5
    assert each < 0.05 + 0.0005 * len(os.listdir("/proc")), f"{each * 1000:.0f} ms of processor time"


def test_what_is_no_device_is_misuse() -> None:
    with pytest.raises(Misuse, match="no block device"):
        holders("/dev/null")
    with pytest.raises(FileNotFoundError):
        holders("/dev/loop-of-nobody")


def test_the_owner_of_a_device_is_a_process_and_lives_as_long() -> None:
    with process(lambda: None) as pid:
        (owner,) = (one for one, seen in Census()._seen.items() if seen == pid)
        assert owner.pid == 1, "as counted in its own namespace"
        assert parse(str(owner)) == owner
        assert Census().life(owner) is Life.ALIVE
        assert Census().life(owner._replace(pid=9, start=owner.start + 1)) is Life.ALIVE, "its namespace lives"
        assert Census().life(owner._replace(start=owner.start - 1)) is Life.DEAD, "of an older namespace of that inode"
    assert Census().life(owner) is Life.DEAD
    me = this_process()
    assert Census().life(me) is Life.ALIVE
    assert Census().life(me._replace(start=me.start - 1)) is Life.DEAD, "another process with the same pid"
    assert parse("") is None and parse("1.2") is None and parse("x.y.z") is None


def test_of_a_namespace_that_cannot_be_seen_nothing_is_known() -> None:
    me = this_process()

    def ask() -> int:
        return 0 if Census().life(me) is Life.UNKNOWN and Census().life(this_process()) is Life.ALIVE else 1

    with spawn_init(ask, name="ask") as init:
        assert init.wait(10) == 0


def test_a_zombie_owns_nothing_any_more() -> None:
    ready, announce = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(announce, str(this_process()).encode())
        os._exit(0)
    os.close(announce)
    owner = parse(os.read(ready, 100).decode())
    assert isinstance(owner, Owner)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert Census().life(owner) is Life.DEAD
    os.waitpid(pid, 0)
    os.close(ready)

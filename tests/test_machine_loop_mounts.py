"""File systems on loop devices, mounted by this kernel: every option set that trials use ends clean, copies coexist."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from harness.errors import Misuse, RequirementMissing
from harness.machine import loop, syscalls
from harness.machine.filesystems import FILE_SYSTEMS, lookup, make_image, mount_error
from harness.machine.fsck import fsck
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.machine.mounts import Workspace, enter_private_mounts, mount_volume

pytestmark = pytest.mark.root

NAMES = tuple(FILE_SYSTEMS)
EXT4_OPTION_SETS = ["data=journal", "data=writeback", "nobarrier", "noauto_da_alloc", "nodelalloc", "noatime,lazytime"]
DATA = bytes(range(256)) * 400


@pytest.fixture
def workspace() -> Workspace:
    return enter_private_mounts()


@contextlib.contextmanager
def mounted(name: str, image: Image, target: str, options: str = "", sector_size: int = 4096) -> Iterator[str]:
    """The image on a loop device, mounted at `target`; the device outlives the mount. Gives the device's path."""
    fs = lookup(name)
    os.makedirs(target, exist_ok=True)
    with loop.attach(image.fd, sector_size=sector_size) as device:
        mount_volume(device.path, target, fs.fs_type, fs.all_mount_options(options))
        try:
            yield device.path
        finally:
            syscalls.umount(target)


def work_on(volume: str) -> None:
    """Enough of everything that a journal has something to say: data, names, sizes, removals."""
    os.mkdir(f"{volume}/folder")
    for number in range(8):
        path = f"{volume}/folder/file-{number}"
        with open(path, "wb") as file:
            file.write(DATA)
            os.fsync(file.fileno())
        os.rename(path, f"{volume}/file-{number}")
    os.truncate(f"{volume}/file-1", 5000)
    os.unlink(f"{volume}/file-2")


def cycle_ends_clean(workspace: Workspace, name: str, mkfs_options: str, options: str, sector_size: int) -> None:
    with make_image(name, 0, mkfs_options, sector_size) as image:
        with mounted(name, image, workspace.volume, options, sector_size):
            work_on(workspace.volume)
        with mounted(name, image, workspace.volume, options, sector_size) as device:
            with open(f"{workspace.volume}/file-7", "rb") as file:
                assert file.read() == DATA
            assert os.path.getsize(f"{workspace.volume}/file-1") == 5000
            assert os.path.exists(device)
        with loop.attach(image.fd, sector_size=sector_size, read_only=True) as again:
            result = fsck(lookup(name), again.path)
        assert result.clean is True, result.output.decode()


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("name", NAMES)
def test_every_file_system_ends_clean_on_both_sector_sizes(workspace: Workspace, name: str, sector_size: int) -> None:
    cycle_ends_clean(workspace, name, "", "", sector_size)


@pytest.mark.parametrize("options", EXT4_OPTION_SETS)
def test_every_ext4_option_set_ends_clean(workspace: Workspace, options: str) -> None:
    cycle_ends_clean(workspace, "ext4", "", options, 4096)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_ext4_without_journal_ends_clean(workspace: Workspace, sector_size: int) -> None:
    cycle_ends_clean(workspace, "ext4", "-O ^has_journal", "", sector_size)


@pytest.mark.parametrize(
    ("name", "options"), [("xfs", "noatime"), ("btrfs", "compress=zstd"), ("ext3", "data=journal")]
)
def test_options_of_the_other_file_systems_end_clean(workspace: Workspace, name: str, options: str) -> None:
    cycle_ends_clean(workspace, name, "", options, 4096)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_one_image_are_mounted_at_once(workspace: Workspace, name: str) -> None:
    if not lookup(name).concurrent_copies:
        # What the record claims must hold: without temporary ids the second mount is refused or shows the first.
        assert name == "btrfs"
        return
    with make_image(name) as image, image.copy() as twin, contextlib.ExitStack() as stack:
        places = [workspace.path("copy-1"), workspace.path("copy-2")]
        for disk, place in zip((image, twin), places, strict=True):
            stack.enter_context(mounted(name, disk, place))
        for place in places:
            with open(f"{place}/mine", "w") as file:
                file.write(place)
        for place in places:
            with open(f"{place}/mine") as file:
                assert file.read() == place
        assert os.stat(places[0]).st_dev != os.stat(places[1]).st_dev


@pytest.mark.parametrize("name", ["ext4", "ext3", "xfs"])
def test_fsck_of_a_volume_that_awaits_recovery_knows_nothing(workspace: Workspace, name: str) -> None:
    with make_image(name) as image:
        with mounted(name, image, workspace.volume):
            work_on(workspace.volume)
            cut = image.copy("cut")
        with cut:
            result = fsck(lookup(name), cut.path)
    assert result.clean is None, result


@pytest.mark.parametrize("name", NAMES)
def test_fsck_of_a_mounted_volume_knows_nothing(workspace: Workspace, name: str) -> None:
    with make_image(name) as image, mounted(name, image, workspace.volume) as device:
        work_on(workspace.volume)
        os.sync()
        result = fsck(lookup(name), device)
    assert result.clean is None, result


@pytest.mark.parametrize("name", NAMES)
def test_fsck_leaves_the_device_as_it_was(workspace: Workspace, name: str) -> None:
    with make_image(name) as image:
        with mounted(name, image, workspace.volume):
            work_on(workspace.volume)
        before = [image.read(offset, length) for offset, length in image.extents()]
        with loop.attach(image.fd) as device:
            assert fsck(lookup(name), device.path).clean
        assert [image.read(offset, length) for offset, length in image.extents()] == before


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_mount_option_is_misuse_in_the_kernels_words(workspace: Workspace, name: str) -> None:
    fs = lookup(name)
    with make_image(name) as image, loop.attach(image.fd) as device, KernelLog() as log:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            mount_volume(device.path, workspace.volume, fs.fs_type, fs.all_mount_options("nonsense"))
        error = mount_error(fs, "nonsense", caught.value, log.lines())
    assert isinstance(error, Misuse)
    assert "kernel: " in error.cause
    assert error.cause.count("nonsense") >= 2


def test_a_block_smaller_than_a_sector_is_misuse_in_the_kernels_words(workspace: Workspace) -> None:
    with make_image("ext4", 0, "-b 1024") as image, loop.attach(image.fd) as device, KernelLog() as log:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            mount_volume(device.path, workspace.volume, "ext4")
        error = mount_error(lookup("ext4"), "", caught.value, log.lines())
    assert isinstance(error, Misuse)
    assert "block size" in error.cause


def test_a_file_system_that_the_kernel_lacks_is_a_missing_requirement(workspace: Workspace) -> None:
    with make_image("ext4") as image, loop.attach(image.fd) as device:
        with pytest.raises(OSError, match="No such device") as caught:
            mount_volume(device.path, workspace.volume, "nonesuchfs")
        assert isinstance(mount_error(lookup("ext4"), "", caught.value, []), RequirementMissing)

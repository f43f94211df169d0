"""Images in memory, the file systems made on them, what their own checks say: real mkfs and fsck, no mount."""

import errno
import os
import random
from itertools import pairwise

import msgspec
import pytest

from harness.errors import InternalError, Misuse, RequirementMissing
from harness.machine import process
from harness.machine.filesystems import BLOCK_SIZE, FILE_SYSTEMS, lookup, make_image, mkfs_argv, mount_error
from harness.machine.fsck import fsck
from harness.machine.image import Image

NAMES = tuple(FILE_SYSTEMS)
MIB = 1 << 20


def allocated(image: Image) -> int:
    """Bytes of memory that the image holds: a size costs none."""
    return os.fstat(image.fd).st_blocks * 512


def content(image: Image) -> dict[int, bytes]:
    return {offset: image.read(offset, length) for offset, length in image.nonzero_extents()}


# --- images


def test_an_image_costs_only_what_was_written() -> None:
    with Image.create(8 << 40, "huge") as image:
        assert image.extents() == []
        image.map[4 << 40] = 7
        assert image.read(4 << 40, 2) == b"\7\0"
        assert image.extents() == image.nonzero_extents() == [(4 << 40, 4096)]
        assert image.read(1 << 40, 8) == bytes(8)
        assert allocated(image) == 4096


def test_an_image_can_be_opened_by_its_path_and_is_named_for_its_owner() -> None:
    with Image.create(MIB, "label") as image:
        with open(image.path, "r+b") as file:
            file.write(b"through the path")
        assert image.map[:16] == b"through the path"
        assert os.readlink(image.path).startswith("/memfd:crash-harness:label")
    assert image.fd == -1
    image.close()


def test_a_copy_is_independent_and_as_sparse() -> None:
    with Image.create(64 * MIB, "original") as image:
        image.map[MIB : MIB + 3] = b"old"
        image.map[63 * MIB :] = b"x" * MIB
        with image.copy() as twin:
            image.map[MIB : MIB + 3] = b"new"
            assert twin.read(MIB, 3) == b"old"
            assert twin.read(63 * MIB, MIB) == b"x" * MIB
            assert twin.extents() == image.extents()


@pytest.mark.parametrize("granule", [512, 4096, 65536, 3 * MIB])
@pytest.mark.parametrize("size", [MIB, MIB + 4096, 5 * MIB + 512])
def test_nonzero_extents_hold_every_byte_that_is_not_zero_and_no_zero_granule(granule: int, size: int) -> None:
    draw = random.Random(granule + size)
    with Image.create(size, "drawn") as image:
        for _ in range(30):
            offset = draw.randrange(size)
            image.map[offset] = draw.choice((0, 0, 1))
        os.pwrite(image.fd, bytes(300_000), 200_000)
        expected = {at for at in range(0, size, granule) if any(image.read(at, granule))}
        found = image.nonzero_extents(granule)
        assert {at for start, length in found for at in range(start, start + length, granule)} == expected
        assert all(sum(one) < other[0] for one, other in pairwise(found))
        assert all(sum(extent) <= size for extent in found)


def test_an_image_without_size_is_refused() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        Image.create(0, "nothing")


# --- making file systems


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("name", NAMES)
def test_every_file_system_is_made_clean_small_and_sparse(name: str, sector_size: int) -> None:
    with make_image(name, 0, "", sector_size) as image:
        assert image.size == lookup(name).default_size
        assert allocated(image) < MIB
        result = fsck(lookup(name), image.path)
        assert (result.clean, result.status) == (True, 0), result.output


@pytest.mark.parametrize("name", NAMES)
def test_the_minimal_size_is_enough_and_less_is_misuse(name: str) -> None:
    fs = lookup(name)
    with make_image(name, fs.minimal_size) as image:
        assert fsck(fs, image.path).clean
    with pytest.raises(Misuse, match=f"too small for {name}") as caught:
        make_image(name, fs.minimal_size - BLOCK_SIZE)
    assert "--size" in caught.value.remedy


@pytest.mark.parametrize("name", ["ext3", "ext4"])
def test_the_smallest_volume_still_has_a_journal(name: str) -> None:
    with make_image(name, lookup(name).minimal_size) as image:
        assert b"has_journal" in process.run(["dumpe2fs", "-h", image.path]).output


def test_a_size_that_ends_inside_a_block_is_misuse() -> None:
    with pytest.raises(Misuse, match="does not end with a block"):
        make_image("ext4", 64 * MIB + 512)


@pytest.mark.parametrize("name", ["ext2", "ext3", "ext4"])
def test_the_same_seed_gives_the_same_ext_image_and_another_seed_another(name: str) -> None:
    with make_image(name, seed=3) as one, make_image(name, seed=3) as two, make_image(name, seed=4) as other:
        assert content(one) == content(two)
        assert content(one) != content(other)


def test_the_same_seed_gives_the_same_uuid() -> None:
    argvs = [mkfs_argv(lookup("xfs"), "disk", "", 4096, seed) for seed in (1, 1, 2)]
    assert argvs[0] == argvs[1] != argvs[2]


def test_mkfs_btrfs_does_not_read_the_other_devices_of_the_machine() -> None:
    """With -U it does, to see that the UUID is unique: it then hangs with any device that hangs."""
    assert "-U" not in mkfs_argv(lookup("btrfs"), "disk", "", 4096)


def test_options_reach_mkfs() -> None:
    with make_image("ext4", 0, "-O ^has_journal -L 'two words'") as image:
        said = process.run(["dumpe2fs", "-h", image.path]).output
    assert b"has_journal" not in said
    assert b"two words" in said


def test_extended_options_of_the_user_join_ours() -> None:
    argv = mkfs_argv(lookup("ext4"), "disk", "-E stride=2 -Estripe-width=4 -q", 4096)
    assert argv.count("-E") == 1
    words = argv[argv.index("-E") + 1].split(",")
    assert {"lazy_itable_init=0", "nodiscard", "stride=2", "stripe-width=4"} <= set(words)
    with make_image("ext4", 0, "-E stride=2") as image:
        assert fsck(lookup("ext4"), image.path).clean


def test_a_block_size_of_the_user_replaces_ours() -> None:
    with make_image("xfs", 0, "-b size=1024", 512) as image:
        assert b"blocksize = 1024" in process.run(["xfs_db", "-r", "-c", "sb 0", "-c", "print", image.path]).output


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ext4", "-O nonsense", "Invalid filesystem option set: nonsense"),
        ("ext4", "-E nonsense", "nonsense"),
        ("ext4", "-E", "lacks its argument"),
        ("ext4", "--nonsense", "invalid option"),
        ("xfs", "-d nonsense=1", "unknown option -d nonsense=1"),
        ("xfs", "-b size=1024", "block size 1024 cannot be smaller than sector size 4096"),
        ("btrfs", "--nonsense", "unrecognized option '--nonsense'"),
        ("btrfs", "-O nonsense", "unrecognized filesystem feature 'nonsense'"),
        ("ext4", "-L 'half", "No closing quotation"),
        ("ext4", "-J device=/dev/sda", "names a device"),
    ],
)
def test_bad_mkfs_options_are_misuse_in_the_words_of_mkfs(name: str, options: str, words: str) -> None:
    with pytest.raises(Misuse) as caught:
        make_image(name, 0, options)
    assert words in caught.value.cause
    assert len(str(caught.value).splitlines()) < 12
    assert caught.value.remedy


def test_an_unknown_file_system_is_misuse_that_lists_the_known_ones() -> None:
    with pytest.raises(Misuse, match="unknown file system 'zfs'") as caught:
        lookup("zfs")
    assert all(name in caught.value.remedy for name in NAMES)


# --- what a failed mount means


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EINVAL, Misuse),
        (errno.ENODEV, RequirementMissing),
        (errno.EPERM, RequirementMissing),
        (errno.EUCLEAN, InternalError),
    ],
)
def test_a_failed_mount_is_named_for_its_cause(number: int, kind: type[Exception]) -> None:
    error = mount_error(lookup("ext4"), "data=x", OSError(number, os.strerror(number)), ["usb 1-1: new device"])
    assert type(error) is kind
    assert "usb" not in str(error)


# --- fsck: each check can fail, and tells "damaged" from "could not run"


def damage(image: Image) -> None:
    """Fill a third of the blocks in use with noise, from a fixed seed; the first ones and btrfs's superblock stay."""
    draw = random.Random(1)
    blocks = [at for start, length in image.nonzero_extents() for at in range(start, start + length, 4096)]
    open_to_damage = [at for at in blocks if at >= 4 * 4096 and at != 65536]
    for at in draw.sample(open_to_damage, -(-len(open_to_damage) // 3)):
        os.pwrite(image.fd, draw.randbytes(4096), at)


@pytest.mark.parametrize("name", NAMES)
def test_fsck_finds_planted_damage_and_leaves_it_as_it_is(name: str) -> None:
    with make_image(name) as image:
        damage(image)
        before = content(image)
        result = fsck(lookup(name), image.path)
        assert result.clean is False, result
        assert result.output
        assert content(image) == before


@pytest.mark.parametrize("name", NAMES)
def test_fsck_that_cannot_open_the_device_knows_nothing(name: str) -> None:
    result = fsck(lookup(name), "/nonexistent/disk")
    assert result.clean is None
    assert result.status > 0


def test_fsck_out_of_time_knows_nothing() -> None:
    endless = msgspec.structs.replace(lookup("ext4"), fsck=("sleep",))
    result = fsck(endless, "infinity", timeout=0.05)
    assert result.clean is None
    assert b"did not end" in result.output

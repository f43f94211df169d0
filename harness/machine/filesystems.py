"""The file systems a volume can carry: how each is made, mounted many times over, and checked by its own program.

An image is made straight on its memfd, without a loop device. The same request with the same `seed` gives the same UUID
and hash seed. With e2fsprogs 1.47 two ext2, ext3 or ext4 images are then equal byte for byte (E2FSPROGS_FAKE_TIME stops
mke2fs's clock). xfs images differ in some 45 bytes of three inodes (times, random generation numbers) unless mkfs.xfs
heeds SOURCE_DATE_EPOCH and DETERMINISTIC_SEED (6.1 does not). btrfs images differ in all their UUIDs,
hence in every tree block. Sources: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8).
"""

import errno
import os
import shlex
import stat
import uuid
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from harness.errors import HarnessError, InternalError, Missing, Misuse, ProgramFailed, RequirementMissing
from harness.machine import kernel, process
from harness.machine.image import Image
from harness.settings import show_size

BLOCK_SIZE = 4096

_MIB = 1 << 20
_UUIDS = uuid.UUID("5f1d3c1e-7a52-4f0b-9d0c-6c1a3b8e2d47")
_WORDS_LINES_MAX = 6
_EPOCH = "1600000000"
_STILL_CLOCK = {"E2FSPROGS_FAKE_TIME": _EPOCH, "SOURCE_DATE_EPOCH": _EPOCH, "DETERMINISTIC_SEED": "1"}
_TEMP_FSID = "/sys/fs/btrfs/features/temp_fsid"


class FileSystem(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of file system. Sizes in bytes.

    `mkfs` holds the fixed words of its mkfs, {uuid} and {sector} to be filled in. `mount_options` go with every mount,
    because images share a UUID and copies are mounted at the same time. `log_marks` is how the kernel log names it.
    """

    name: str
    fs_type: str
    mkfs: tuple[str, ...]
    fsck: tuple[str, ...]
    default_size: int
    minimal_size: int
    mount_options: str = ""
    log_marks: tuple[str, ...] = ()

    @property
    def mkfs_program(self) -> str:
        return self.mkfs[0]

    @property
    def fsck_program(self) -> str:
        return self.fsck[0]

    @property
    def concurrent_copies(self) -> bool:
        """Whether copies of one image may be mounted at the same time. If not, one worker must judge alone.

        btrfs tells its file systems apart by their UUID; since Linux 6.7 it gives a second single-device copy a
        temporary one, and announces that in /sys/fs/btrfs/features/temp_fsid.
        """
        return self.fs_type != "btrfs" or os.path.exists(_TEMP_FSID)

    def all_mount_options(self, options: str) -> str:
        """The user's mount options behind those that every mount needs."""
        return ",".join(filter(None, (self.mount_options, options)))


# lazy_*_init=0: no kernel thread writes inode tables after the mount. -b 4096: mke2fs takes 1 KiB below 512 MiB, which
# a device with 4096-byte sectors cannot carry.
_EXT_MKFS = ("-q", "-F", "-b", str(BLOCK_SIZE), "-U", "{uuid}")
_EXT_EXTENDED = "hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,nodiscard"


def _ext(name: str, minimal_size: int) -> FileSystem:
    return FileSystem(
        name=name,
        fs_type=name,
        mkfs=(f"mkfs.{name}", *_EXT_MKFS, "-E", _EXT_EXTENDED),
        fsck=("e2fsck", "-f", "-n"),
        default_size=64 * _MIB,
        minimal_size=minimal_size,
        log_marks=("ext2", "ext3", "ext4", "jbd2"),
    )


_XFS = FileSystem(
    name="xfs",
    fs_type="xfs",
    mkfs=("mkfs.xfs", "-q", "-f", "-K", "-b", f"size={BLOCK_SIZE}", "-m", "uuid={uuid}", "-s", "size={sector}"),
    # -P, bhash: prefetching and a large buffer hash cost more than they give on a volume of some hundred MiB.
    fsck=("xfs_repair", "-n", "-P", "-o", "bhash=64"),
    default_size=300 * _MIB,
    minimal_size=300 * _MIB,
    mount_options="nouuid",
    log_marks=("xfs",),
)

_BTRFS = FileSystem(
    name="btrfs",
    fs_type="btrfs",
    # No -U: to see that the UUID is unique, mkfs.btrfs reads every block device there is, and hangs with one.
    mkfs=("mkfs.btrfs", "-q", "-f", "-K", "-s", str(BLOCK_SIZE)),
    fsck=("btrfs", "check", "--readonly"),
    default_size=128 * _MIB,
    minimal_size=109 * _MIB,
    log_marks=("btrfs",),
)

# Below 8 MiB mke2fs leaves out the journal without an error, and ext3 would be ext2 in all but name.
FILE_SYSTEMS = {
    fs.name: fs for fs in (_ext("ext4", 8 * _MIB), _ext("ext3", 8 * _MIB), _ext("ext2", _MIB), _XFS, _BTRFS)
}


def lookup(name: str) -> FileSystem:
    """The file system called `name`. Raises Misuse that lists the known ones."""
    try:
        return FILE_SYSTEMS[name]
    except KeyError:
        raise Misuse(f"unknown file system {name!r}", "choose one of " + ", ".join(FILE_SYSTEMS)) from None


def make_image(fs: str, size: int = 0, mkfs_options: str = "", sector_size: int = 4096, *, seed: int = 0) -> Image:
    """A fresh file system of `size` bytes (0: the default size) for a device with `sector_size`-byte logical sectors.

    `mkfs_options` are further words for mkfs, quoted as in a shell; `seed` picks the UUID. Raises Misuse for a size or
    an option that cannot be (with mkfs's own words), RequirementMissing where the kernel or mkfs is missing.
    """
    wanted = lookup(fs)
    size = _checked_size(wanted, size)
    argv = mkfs_argv(wanted, "{path}", mkfs_options, sector_size, seed)
    _require(wanted)
    with Image.create(size, "mkfs") as raw:
        _run_mkfs(wanted, [word.replace("{path}", raw.path) for word in argv], mkfs_options)
        return _without_zeros(raw)


def mkfs_argv(fs: FileSystem, path: str, mkfs_options: str, sector_size: int, seed: int = 0) -> list[str]:
    """The command that makes `fs` on `path`. Raises Misuse for options that cannot be split, or that name a device."""
    identity = uuid.uuid5(_UUIDS, f"{fs.name} {seed}")
    fixed = [word.format(uuid=identity, sector=sector_size) for word in fs.mkfs]
    further = _split(mkfs_options)
    if "-E" in fixed:
        _merge_extended(fixed, further)
    return [*_not_overridden(fixed, further), *further, path]


def mount_error(fs: FileSystem, options: str, error: OSError, kernel_lines: Iterable[str]) -> HarnessError:
    """What a failed mount(2) of a fresh volume means for the user, in the kernel's own words.

    `kernel_lines` are all that the kernel logged meanwhile: the line about an unknown option names no device.
    """
    said = [line for line in kernel_lines if any(mark in line.lower() for mark in fs.log_marks)]
    what = f"{fs.name} cannot be mounted" + (f" with the options {options!r}" if options else "")
    cause = f"{what}: {error.strerror}" + "".join(f"\n  kernel: {line}" for line in said)
    if error.errno == errno.ENODEV:
        return RequirementMissing([missing_in_kernel(fs)])
    if error.errno in (errno.EPERM, errno.EACCES):
        return RequirementMissing([Missing("root", f"{what} (CAP_SYS_ADMIN)", "run it as root: sudo harness …")])
    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
        page = "ext4(5)" if fs.name.startswith("ext") else f"{fs.name}(5)"
        return Misuse(cause, f"choose mount and mkfs options that this kernel knows: {page} lists them")
    return InternalError(cause, "the volume was fresh from mkfs: report this with the lines above")


def missing_in_kernel(fs: FileSystem) -> Missing:
    """What to say where the kernel has no such file system."""
    why = f"this kernel ({os.uname().release}) cannot mount {fs.fs_type}, and no module for it could be loaded"
    others = ", ".join(other for other in FILE_SYSTEMS if other != fs.name)
    return Missing(
        f"{fs.fs_type} in the kernel", why, f"boot a kernel that has it, or choose another file system: {others}"
    )


def _checked_size(fs: FileSystem, size: int) -> int:
    size = size or fs.default_size
    if size < fs.minimal_size:
        remedy = f"give --size {show_size(fs.minimal_size)} or more"
        raise Misuse(f"a volume of {show_size(size)} is too small for {fs.name}", remedy)
    if size % BLOCK_SIZE:
        raise Misuse(f"a volume of {size} bytes does not end with a block", f"give a multiple of {BLOCK_SIZE} bytes")
    return size


def _split(mkfs_options: str) -> list[str]:
    try:
        words = shlex.split(mkfs_options)
    except ValueError as error:
        raise Misuse(f"mkfs options {mkfs_options!r}: {error}", "quote them as in a shell") from None
    for word in words:
        if "/dev/" in word or _is_block_device(word):
            raise Misuse(f"mkfs option {word!r} names a device", "the volume is the only device of its file system")
    return words


def _is_block_device(word: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(word).st_mode)
    except (OSError, ValueError):
        return False


def _merge_extended(fixed: list[str], further: list[str]) -> None:
    """Move the user's -E words into our own -E: mke2fs heeds only the last one that it is given."""
    at = fixed.index("-E") + 1
    while (found := next((n for n, word in enumerate(further) if word.startswith("-E")), None)) is not None:
        glued = further.pop(found)[2:]
        if not glued and found == len(further):
            raise Misuse("mkfs option -E lacks its argument", "see mke2fs(8)")
        fixed[at] += "," + (glued or further.pop(found))


def _not_overridden(fixed: list[str], further: list[str]) -> list[str]:
    """Our words without those `-b size=4096` that the user says differently: mkfs.xfs takes a suboption only once."""
    theirs = {(flag, word.split("=")[0]) for flag, words in pairwise(further) for word in words.split(",")}
    kept: list[str] = []
    for word in fixed:
        if "=" in word and (kept[-1], word.split("=")[0]) in theirs:
            kept.pop()
        else:
            kept.append(word)
    return kept


def _require(fs: FileSystem) -> None:
    missing = [] if kernel.has_file_system(fs.fs_type) else [missing_in_kernel(fs)]
    if process.find(fs.mkfs_program) is None:
        missing.append(process.missing_program(fs.mkfs_program, f"it makes {fs.name} volumes"))
    if missing:
        raise RequirementMissing(missing)


def _run_mkfs(fs: FileSystem, argv: Sequence[str], mkfs_options: str) -> None:
    done = process.run(argv, env=_STILL_CLOCK, ok=range(-64, 256))
    if done.status == 0:
        return
    said = done.output.decode(errors="backslashreplace").strip()
    if mkfs_options.strip():
        remedy = f"correct the mkfs options {mkfs_options!r}: {fs.mkfs_program}(8) lists them"
        raise Misuse(f"{fs.mkfs_program} refused its options: {_without_usage(said)}", remedy)
    cause = (
        f"{fs.mkfs_program} {process.describe_status(done.status)}\n  command: {shlex.join(argv)}\n  it said: {said}"
    )
    raise ProgramFailed(cause, "run the command by hand on a file of that size")


def _without_usage(said: str) -> str:
    """The complaint alone: mkfs.xfs and mkfs.btrfs follow it with a page of usage, mke2fs leads it with a banner."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("mke2fs 1.")]
    end = next((n for n, line in enumerate(lines) if n and line.lower().startswith("usage:")), len(lines))
    return "\n  ".join(lines[: min(end, _WORDS_LINES_MAX)])


def _without_zeros(raw: Image) -> Image:
    """A copy that holds only what is not zero: mkfs writes out zeroed journals and inode tables (xfs: 64 MiB)."""
    image = Image.create(raw.size, "base")
    for offset, length in raw.nonzero_extents():
        os.pwrite(image.fd, raw.read(offset, length), offset)
    return image

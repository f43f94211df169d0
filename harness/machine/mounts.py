"""Mounts, all of them in a private mount namespace that ends with its processes.

The volume appears at one path in recording, judging and replay alike, on a private tmpfs, so that a program which
stores absolute paths finds them again, and nothing is ever written to the host's own tree. Source: mount_namespaces(7).
"""

import contextlib
import errno
import os
from typing import NamedTuple

from harness.errors import Missing, Misuse, RequirementMissing
from harness.machine import syscalls

_CANDIDATES = ("/mnt", "/media", "/srv", "/opt")

# mount(8) turns these words into flags of mount(2); all others go to the file system. From mount(8),
# "filesystem-independent mount options".
_FLAG_WORDS = {
    "ro": 1,
    "rw": 0,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
    "defaults": 0,
}


class Workspace(NamedTuple):
    """Where this process's private mounts live. `volume` is the root of the volume under test."""

    root: str

    @property
    def volume(self) -> str:
        return f"{self.root}/volume"

    @property
    def engine(self) -> str:
        return f"{self.root}/engine"

    @property
    def own(self) -> str:
        """A folder that each worker covers with a tmpfs of its own (own_folder): one path, another content in each."""
        return f"{self.root}/own"

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"


_entered: Workspace | None = None


def enter_private_mounts() -> Workspace:
    """Give this process a mount namespace of its own with a small tmpfs for our mount points. Idempotent.

    What the host mounts later still arrives (MS_SLAVE); what we mount never leaves. Raises RequirementMissing without
    CAP_SYS_ADMIN, or where no empty directory can serve as the mount root.
    """
    global _entered
    if _entered is None:
        root = _pick_root()
        try:
            unshare_mounts(syscalls.MS_SLAVE)
        except PermissionError as error:
            why = "volumes are mounted in a private mount namespace (CAP_SYS_ADMIN)"
            raise RequirementMissing([Missing("root", why, "run it as root: sudo harness …")]) from error
        syscalls.mount("crash-harness", root, "tmpfs", syscalls.MS_NOSUID, "mode=0755")
        _entered = Workspace(root)
        os.mkdir(_entered.volume)
        os.mkdir(_entered.engine)
        os.mkdir(_entered.own)
    return _entered


def unshare_again() -> Workspace:
    """In a child of a process that has entered: a further namespace, so that its mounts are its own."""
    if _entered is None:
        return enter_private_mounts()
    unshare_mounts(syscalls.MS_PRIVATE)
    return _entered


def enter_anew() -> Workspace:
    """In a child with mounts of its own: a workspace that it shares with nobody, whatever its parent had entered."""
    global _entered
    if _entered is not None:
        syscalls.umount(_entered.root, syscalls.MNT_DETACH)
        _entered = None
    return enter_private_mounts()


def unshare_mounts(propagation: int) -> None:
    """Give this thread a mount namespace of its own (unshare(2)); `propagation`: MS_PRIVATE or MS_SLAVE for all."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    try:
        syscalls.mount("none", "/", None, syscalls.MS_REC | propagation)
    except OSError as error:
        if error.errno == errno.EINVAL:
            advice = "the root directory is no mount point; before chroot DIR: mount --bind DIR DIR"
            raise OSError(error.errno, advice, "/") from error
        raise


def own_folder(workspace: Workspace) -> str:
    """Cover `workspace.own` with a tmpfs that this mount namespace alone sees, and return its path."""
    syscalls.mount("crash-harness", workspace.own, "tmpfs", syscalls.MS_NOSUID, "mode=0755")
    return workspace.own


def mount_volume(device: str, target: str, fs_type: str, options: str = "") -> None:
    """Mount a block device with the options of mount(8): known words become flags, the rest go to the file system.

    Raises OSError with the kernel's errno (EINVAL: an option it does not know, or no such file system on the device).
    """
    flags, rest = split_options(options)
    syscalls.mount(device, target, fs_type, flags, rest)


def split_options(options: str) -> tuple[int, str]:
    """`noatime,data=journal` -> (MS_NOATIME, "data=journal")."""
    flags = 0
    rest = []
    for word in filter(None, options.split(",")):
        if word in _FLAG_WORDS:
            flags |= _FLAG_WORDS[word]
        else:
            rest.append(word)
    return flags, ",".join(rest)


def device_at(path: str) -> int:
    """The device number (st_dev) of what is mounted at `path`, or of the tree that `path` lies in."""
    return os.stat(path).st_dev


def release_descriptors(device: int) -> None:
    """Point each descriptor of this process into the file system `device` (st_dev) at /dev/null.

    The number stays taken, so that its owner may still flush and close it.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.fstat(int(name)).st_dev == device:
                os.dup2(null, int(name), inheritable=False)
    os.close(null)


def _pick_root() -> str:
    chosen = os.environ.get("HARNESS_MOUNT_ROOT")
    if chosen:
        if not _is_empty_directory(chosen):
            raise Misuse(f"HARNESS_MOUNT_ROOT={chosen} is not an empty directory", "name an empty directory")
        return os.path.realpath(chosen)
    for candidate in _CANDIDATES:
        if _is_empty_directory(candidate):
            return candidate
    why = f"the volume is mounted there, privately; none of {', '.join(_CANDIDATES)} is empty"
    raise RequirementMissing([Missing("an empty directory", why, "mkdir one and set HARNESS_MOUNT_ROOT to it")])


def _is_empty_directory(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return False

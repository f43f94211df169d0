"""Who holds a block device, or the file system on it: in every mount namespace of this machine that can be seen.

A device stays bound, and a superblock alive, as long as anybody has a mount of it, a file, directory or mapping on it,
or the device itself open. `loop.held` tells whether the file system lives; what is here names those who keep it. A
process whose /proc cannot be read (it is gone, or has privileges that we lack) is passed over.

Sources: proc(5) (mountinfo, fd, maps), statx(2), include/uapi/linux/stat.h, mount_namespaces(7).
"""

import contextlib
import ctypes
import enum
import os
import re
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import psutil

from harness.errors import Misuse
from harness.machine import loop

_AT_FDCWD = -100
_AT_NO_AUTOMOUNT = 0x800
_AT_STATX_DONT_SYNC = 0x4000  # what the kernel knows: to ask a FUSE server that hangs would hang as well
_STATX_BASIC_AND_MNT_ID = 0x17FF
_STATX = struct.Struct("<28xH2xQ88xIIIIQ")  # mode, ino; rdev major and minor, dev major and minor, mnt_id
_STATX_BYTES = 256

_OCTAL = re.compile(r"\\([0-7]{3})")
_COMMAND_MAX = 80
_PF_KTHREAD = 0x00200000  # include/linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


class How(enum.StrEnum):
    """In which way a holder holds."""

    MOUNT = "mount"
    MOUNT_ON_IT = "mount on it"
    DESCRIPTOR = "descriptor"
    WORKING_DIRECTORY = "working directory"
    ROOT = "root"
    MAPPING = "mapping"
    OPENED = "device opened"
    NAMESPACE = "empty namespace"
    KERNEL = "kernel"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which one process, or one mount namespace, holds a device.

    For a mount, `pid` is the oldest process of that namespace; for the kernel, 0. `namespace` is 0 where it cannot be
    seen. `path`: mount point or open file, as that process sees it; `fd`: its descriptor, or -1.
    """

    how: How
    pid: int = 0
    command: str = ""
    namespace: int = 0
    path: str = ""
    fd: int = -1

    def __str__(self) -> str:
        if self.how is How.KERNEL:
            return "the kernel: its file system lives, and no process that can be seen from here holds it"
        who = f"pid {self.pid} ({self.command})"
        if self.how is How.NAMESPACE:
            return f"{who}, perhaps: {self.path} keeps mount namespace {self.namespace} alive, which has no process"
        how = f"descriptor {self.fd}" if self.how is How.DESCRIPTOR else self.how.value
        return f"{who}: {how} {self.path}, mount namespace {self.namespace}"


class _Stat(NamedTuple):
    """What statx(2) says: `inode` with the mode, device numbers, and the mount through which the file was opened."""

    mode: int
    ino: int
    rdev: int
    dev: int
    mount: int


class _Mount(NamedTuple):
    mount: int
    parent: int
    dev: int
    root: str
    point: str
    kind: str
    source: str


def holders(device_path: str, *, probe: bool = True) -> list[Holder]:
    """Everybody who holds the block device or a file system on it, mounts first. Costs some ms; blocks on nothing.

    Where the file system lives and no holder of it is found, one says so (a lazy unmount whose last user is in the
    kernel, a PID namespace that is not seen from here, a mount namespace without a process), and those follow who keep
    such mount namespaces alive. Only asked with `probe`, for the question (loop.held) may refuse a mount of the device
    that somebody begins in the same instant.
    Raises OSError where there is no such path, Misuse where it is no block device.
    """
    found = os.stat(device_path)
    if not stat.S_ISBLK(found.st_mode):
        raise Misuse(f"{device_path} is no block device", "name one, such as /dev/loop0")
    search = _Search(os.path.realpath(device_path), found.st_rdev)
    pids = _processes()
    for pid in pids:
        search.mounts_of(pid)
    for pid in pids:
        search.files_of(pid)
    of_the_file_system = [holder for holder in search.found if holder.how is not How.OPENED]
    if probe and not of_the_file_system and loop.held(device_path):
        search.found += [Holder(how=How.KERNEL), *search.empty_namespaces()]
    return list(dict.fromkeys(search.found))  # threads share what their process stands in


def own_mounts(device_path: str) -> list[str]:
    """Where the device is mounted in this process's own mount namespace, in the order in which it was mounted."""
    path, rdev = os.path.realpath(device_path), os.stat(device_path).st_rdev
    return [mount.point for mount in _mounts("/proc/thread-self") if _is_on(mount, path, rdev)]


def own_pid() -> int:
    """This process's pid as /proc counts, and with it all holders: /proc may be of a PID namespace above ours."""
    return int(os.readlink("/proc/self"))


class _Search:
    """One search for one device: the mounts of every namespace first, for files are known by them."""

    def __init__(self, device_path: str, rdev: int) -> None:
        self.found: list[Holder] = []
        self._path = device_path
        self._rdev = rdev
        self._devs = {rdev}
        self._ids: set[int] = set()
        self._read: set[tuple[int, int, int]] = set()
        self._namespaces: set[int] = set()
        self._keepers: list[Holder] = []
        self._nsfs = os.stat("/proc/self/ns/mnt").st_dev

    def mounts_of(self, pid: int) -> None:
        """The mounts of the device in the namespaces of this process's threads, each namespace once."""
        for task in _tasks(pid):
            root, namespace = _statx(f"{task}/root"), _namespace_of(task)
            key = (namespace, root.mount, root.ino) if root else (namespace, 0, 0)
            self._namespaces.add(namespace)
            if key not in self._read or not namespace:  # mountinfo shows what lies below the reader's root
                self._read.add(key)
                self._note(_mounts(task), pid, namespace)

    def _note(self, mounts: list[_Mount], pid: int, namespace: int) -> None:
        on_it = {mount.mount for mount in mounts if _is_on(mount, self._path, self._rdev)}
        for mount in mounts:
            if mount.kind == "nsfs" and mount.root.startswith("mnt:"):
                self._keep(mount.root, pid, mount.point, -1)
            if mount.mount in self._ids:
                continue
            if mount.mount in on_it:
                self._ids.add(mount.mount)
                self._devs.add(mount.dev)
                self._add(How.MOUNT, pid, namespace, mount.point)
            elif mount.parent in on_it:
                self._add(How.MOUNT_ON_IT, pid, namespace, mount.point)

    def files_of(self, pid: int) -> None:
        """What this process has open, has mapped, or stands in."""
        for task in _tasks(pid):
            for name, how in (("cwd", How.WORKING_DIRECTORY), ("root", How.ROOT)):
                if self._holds(_statx(f"{task}/{name}")):
                    self._add(how, pid, _namespace_of(task), _link(f"{task}/{name}"))
        for name in _listed(f"/proc/{pid}/fd"):
            self._look_at(pid, int(name), f"/proc/{pid}/fd/{name}")
        for path in self._mapped(pid):
            self._add(How.MAPPING, pid, _namespace_of(f"/proc/{pid}"), path)

    def _look_at(self, pid: int, fd: int, path: str) -> None:
        found = _statx(path)
        if found is None:
            return
        if found.dev == self._nsfs:
            self._keep(_link(path), pid, path, fd)
        elif stat.S_ISBLK(found.mode) and found.rdev == self._rdev:
            self._add(How.OPENED, pid, _namespace_of(f"/proc/{pid}"), _link(path), fd)
        elif self._holds(found):
            self._add(How.DESCRIPTOR, pid, _namespace_of(f"/proc/{pid}"), _link(path), fd)

    def _holds(self, found: _Stat | None) -> bool:
        return found is not None and (found.dev in self._devs or found.mount in self._ids)

    def _mapped(self, pid: int) -> list[str]:
        """Files of the file system that are mapped; a mapping outlives the descriptor that it was made with."""
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
            content = file.read()
            columns = [b" %02x:%02x " % (os.major(dev), os.minor(dev)) for dev in self._devs]
            if any(column in content for column in columns):
                lines = [line for line in content.split(b"\n") if any(column in line for column in columns)]
                return list(dict.fromkeys(os.fsdecode(line.split(maxsplit=5)[5]) for line in lines))
        return []

    def _add(self, how: How, pid: int, namespace: int, path: str, fd: int = -1) -> None:
        self.found.append(Holder(how=how, pid=pid, command=command_of(pid), namespace=namespace, path=path, fd=fd))

    def _keep(self, name: str, pid: int, path: str, fd: int) -> None:
        """Somebody keeps a namespace alive by a descriptor or a bind mount: `name` is mnt:[INODE]."""
        if (match := re.fullmatch(r"mnt:\[(\d+)\]", name)) is not None:
            self._keepers.append(
                Holder(how=How.NAMESPACE, pid=pid, command=command_of(pid), namespace=int(match[1]), path=path, fd=fd)
            )

    def empty_namespaces(self) -> list[Holder]:
        """Who keeps mount namespaces alive in which no process is. What is mounted there is not seen from outside."""
        return [keeper for keeper in self._keepers if keeper.namespace not in self._namespaces]


def command_of(pid: int) -> str:
    """The command line of a process, shortened; its name where it has none; nothing where it is gone."""
    try:
        process = psutil.Process(pid)
        text = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""
    return text if len(text) <= _COMMAND_MAX else text[: _COMMAND_MAX - 1] + "…"


def _processes() -> list[int]:
    """All but kernel threads, which have no files; the oldest first: it speaks for its namespace."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            if not int(fields[6]) & _PF_KTHREAD:  # flags, field 9
                found.append((int(fields[19]), pid))  # starttime, field 22
    return [pid for _, pid in sorted(found)]


def _tasks(pid: int) -> Iterator[str]:
    """The process, and each thread: one may have left for a namespace and a directory of its own (unshare(2))."""
    yield f"/proc/{pid}"
    yield from (f"/proc/{pid}/task/{name}" for name in _listed(f"/proc/{pid}/task") if int(name) != pid)


def _is_on(mount: _Mount, device_path: str, rdev: int) -> bool:
    """btrfs has a device number of its own (anonymous), and names its device as the source."""
    return mount.dev == rdev or (mount.kind == "btrfs" and os.path.realpath(mount.source) == device_path)


def _mounts(task: str) -> list[_Mount]:
    try:
        with open(f"{task}/mountinfo", errors="surrogateescape") as file:
            return [_parsed(line) for line in file]
    except OSError:
        return []


def _parsed(line: str) -> _Mount:
    """`36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`; any number of fields before the dash."""
    before, _, after = line.partition(" - ")
    mount, parent, dev, root, point = before.split(" ")[:5]
    kind, source = after.split(" ")[:2]
    major, _, minor = dev.partition(":")
    return _Mount(
        int(mount), int(parent), os.makedev(int(major), int(minor)), root, _unescaped(point), kind, _unescaped(source)
    )


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _namespace_of(task: str) -> int:
    try:
        return os.stat(f"{task}/ns/mnt").st_ino
    except OSError:
        return 0


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _statx(path: str) -> _Stat | None:
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    if _libc.statx(_AT_FDCWD, path.encode(), flags, _STATX_BASIC_AND_MNT_ID, buffer) < 0:
        return None
    mode, ino, rmajor, rminor, major, minor, mount = _STATX.unpack_from(buffer)
    return _Stat(mode, ino, os.makedev(rmajor, rminor), os.makedev(major, minor), mount)

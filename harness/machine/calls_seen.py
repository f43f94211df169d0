"""What a waiting system call is about: the kind of call, and the files of the volume that it names.

Read from the caller's registers, memory and descriptors while it waits (notify), through /proc of its PID namespace.
Calls that touch nothing of the volume, and calls that are sure to fail, are no Call. Sources: proc(5), and for each
call its page of section 2 of the manual.
"""

import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from harness.machine.notify import Notification, signed

_AT_FDCWD = -100
_AT_REMOVEDIR = 0x200
_RENAME_EXCHANGE = 2
_PATH_MAX = 4096
_OWN_PROC = re.compile(r"^/proc/(self|thread-self)(?=/)")
_DATA_SYNC = os.O_DSYNC
"""O_SYNC includes this bit."""

SYNCS = ("fsync", "fdatasync", "sync", "syncfs", "msync")
"""Calls that make something durable before they return."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call on the volume, or one to the promise file, in the order in which the kernel was asked.

    `name`: write, truncate, fallocate, mmap, creat, mkdir, symlink, link, rename, exchange, unlink, rmdir, fsync,
    fdatasync, sync, syncfs, msync, sync_file_range, promise. Variants of a call have its plain name (pwritev2: write;
    an open that makes the file: creat; one that empties it: truncate).
    """

    number: int = 0
    name: str
    paths: tuple[str, ...] = ()
    """From the volume's root, `.` for the root itself; of a file without a name, what /proc calls it."""
    directory: bool = False
    """What the call is about is a directory."""
    inode: int = 0
    offset: int = -1
    length: int = -1
    durable: bool = False
    """A write through a descriptor with O_SYNC or O_DSYNC."""
    process: int = 0
    """From 1, in the order of their first calls; `thread` likewise."""
    thread: int = 0
    fate: str = ""
    """Empty: the program's own, and made. `added`: made in its stead. `left out`: told that it was made."""

    @property
    def syncs(self) -> bool:
        return self.name in SYNCS

    @property
    def text(self) -> str:
        """`rename of config.new -> config`."""
        return f"{self.name} of {' -> '.join(self.paths)}" if self.paths else self.name


class _Open(NamedTuple):
    """A descriptor of the caller that leads to the volume."""

    path: str
    inode: int
    size: int
    directory: bool


class _Numbers(dict[int, int]):
    """Gives each key the next number when it is first asked for, and no number twice."""

    given = 0

    def __missing__(self, key: int) -> int:
        self.given += 1
        self[key] = self.given
        return self.given


class CallReader:
    """Makes Calls of the notifications of one workload. `volume` and `promise` are the paths that it knows."""

    def __init__(self, volume: str, promise: str) -> None:
        # /proc tells where a descriptor leads with no symbolic link on the way.
        self._volume = os.path.realpath(volume)
        self._below = self._volume + "/"
        self._promise = os.path.realpath(promise)
        self._processes = _Numbers()
        self._threads = _Numbers()
        self._groups: dict[int, int] = {}
        self._readers = dict(_READERS)

    def read(self, seen: Notification) -> Call | None:
        """The call that waits, without a number; None if it is none of the volume's. OSError: its caller is gone."""
        reader = self._readers.get(seen.name)
        call = reader(self, seen) if reader else None
        if call is None:
            return None
        process, thread = self.who(seen)
        return msgspec.structs.replace(call, process=process, thread=thread)

    def who(self, seen: Notification) -> tuple[int, int]:
        """The caller's process and thread, numbered by their first appearance."""
        if seen.thread not in self._groups:
            self._groups[seen.thread] = _group_of(seen.thread)
        return self._processes[self._groups[seen.thread]], self._threads[seen.thread]

    def process_of(self, seen: Notification) -> int:
        """The number of a process that has made a call on the volume; 0 for any other."""
        return self._processes.get(self._groups.get(seen.thread, 0), 0)

    def forget(self, seen: Notification) -> None:
        """The caller ends: its number may be given to another."""
        group = self._groups.pop(seen.thread, 0)
        if seen.name == "exit_group":
            self._processes.pop(group, None)
        self._threads.pop(seen.thread, None)

    # Descriptors and paths of the caller

    def _inside(self, path: str) -> str | None:
        """The path from the volume's root; None if it lies elsewhere."""
        if path.startswith(self._below):
            return path[len(self._below) :]
        return "." if path == self._volume else None

    def _descriptor(self, seen: Notification, fd: int) -> _Open | None:
        name = f"/proc/{seen.thread}/fd/{fd}"
        try:
            path = self._inside(os.readlink(name))
            if path is None:
                return None
            found = os.stat(name)
        except OSError:
            return None
        directory = stat.S_ISDIR(found.st_mode)
        if not directory and not stat.S_ISREG(found.st_mode):
            return None
        return _Open(path, found.st_ino, found.st_size, directory)

    def _path(self, seen: Notification, directory: int, address: int, *, follow: bool = False) -> str:
        """The absolute path that the caller means; its last part resolved too if `follow`."""
        return self._resolved(seen, directory, _text_at(seen.thread, address), follow)

    def _resolved(self, seen: Notification, directory: int, text: str, follow: bool) -> str:
        if not text.startswith("/"):
            of = f"fd/{directory}" if directory != _AT_FDCWD else "cwd"
            text = f"{os.readlink(f'/proc/{seen.thread}/{of}')}/{text}"
        text = _OWN_PROC.sub(f"/proc/{seen.thread}", text.rstrip("/") or "/")
        if follow:
            return os.path.realpath(text)
        folder, name = os.path.split(text)
        return os.path.join(os.path.realpath(folder), name)

    # One kind of call each

    def write(self, seen: Notification, fd_at: int = 0) -> Call | None:
        """write(2) and its kin; a write to the promise file is a promise."""
        fd = signed(seen.arguments[fd_at])
        link = f"/proc/{seen.thread}/fd/{fd}"
        try:
            path = os.readlink(link)
        except OSError:
            return None
        if path == self._promise:
            return Call(name="promise", length=_length(seen))
        if not path.startswith(self._below):
            return None
        found = self._descriptor(seen, fd)
        if found is None or found.directory:
            return None
        position, flags = _position(seen.thread, fd)
        if seen.name in ("pwrite64", "pwritev", "pwritev2"):
            position = seen.arguments[3]
        elif flags & os.O_APPEND:
            position = found.size
        return Call(
            name="write",
            paths=(found.path,),
            inode=found.inode,
            offset=position,
            length=_length(seen),
            durable=bool(flags & _DATA_SYNC),
        )

    def copy(self, seen: Notification) -> Call | None:
        """copy_file_range(2), splice(2): the third argument is written to."""
        return self.write(seen, fd_at=2)

    def descriptor_call(self, seen: Notification) -> Call | None:
        """Calls on one descriptor: ftruncate, fallocate, fsync, fdatasync, syncfs, sync_file_range."""
        found = self._descriptor(seen, signed(seen.arguments[0]))
        if found is None:
            return None
        name = {"ftruncate": "truncate"}.get(seen.name, seen.name)
        paths = () if name == "syncfs" else (found.path,)
        length = seen.arguments[1] if name == "truncate" else -1
        return Call(name=name, paths=paths, directory=found.directory, inode=found.inode, length=length)

    def sync(self, seen: Notification) -> Call | None:  # noqa: ARG002  (a reader like the others)
        return Call(name="sync")

    def mmap(self, seen: Notification) -> Call | None:
        """A shared, writable mapping: from here on the file may change without a call."""
        found = self._descriptor(seen, signed(seen.arguments[4]))
        return Call(name="mmap", paths=(found.path,), inode=found.inode) if found else None

    def msync(self, seen: Notification) -> Call | None:
        """msync(2) with MS_SYNC (4), of what is mapped at its address."""
        path = self._inside(_mapped_at(seen.thread, seen.arguments[0])) if seen.arguments[2] & 4 else None
        return Call(name="msync", paths=(path,)) if path else None

    def opened(self, seen: Notification) -> Call | None:
        """An open that makes a file, or empties one that holds something."""
        at, flags = self._open_arguments(seen)
        path = self._path(seen, *at, follow=not flags & os.O_NOFOLLOW)
        inside = self._inside(path)
        if inside is None or flags & os.O_TMPFILE == os.O_TMPFILE:
            return None
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return Call(name="creat", paths=(inside,)) if flags & os.O_CREAT else None
        if not flags & os.O_TRUNC or flags & os.O_EXCL or not stat.S_ISREG(found.st_mode) or not found.st_size:
            return None
        return Call(name="truncate", paths=(inside,), inode=found.st_ino, length=0)

    def _open_arguments(self, seen: Notification) -> tuple[tuple[int, int], int]:
        first, second, third = seen.arguments[:3]
        if seen.name == "open":
            return (_AT_FDCWD, first), second
        if seen.name == "creat":
            return (_AT_FDCWD, first), os.O_CREAT | os.O_TRUNC
        if seen.name == "openat2":
            third = struct.unpack("<Q", _memory_at(seen.thread, third, 8))[0]
        return (signed(first), second), third

    def made(self, seen: Notification) -> Call | None:
        """mkdir, mknod, and symlink, whose new name is its last path."""
        name = seen.name.removesuffix("at")
        if name == "symlink":
            at = (signed(seen.arguments[1]), seen.arguments[2]) if seen.name != name else (_AT_FDCWD, seen.arguments[1])
        else:
            at = self._first_path(seen)
        path = self._path(seen, *at)
        inside = self._inside(path)
        if inside is None or os.path.lexists(path):
            return None
        return Call(name="creat" if name == "mknod" else name, paths=(inside,), directory=name == "mkdir")

    def removed(self, seen: Notification) -> Call | None:
        """unlink(2), rmdir(2)."""
        path = self._path(seen, *self._first_path(seen))
        inside = self._inside(path)
        if inside is None or not os.path.lexists(path):
            return None
        directory = seen.name == "rmdir" or (seen.name == "unlinkat" and bool(seen.arguments[2] & _AT_REMOVEDIR))
        return Call(name="rmdir" if directory else "unlink", paths=(inside,), directory=directory)

    def renamed(self, seen: Notification) -> Call | None:
        """rename(2) and its kin. One that exchanges two names is an `exchange`."""
        old, new = self._two_paths(seen)
        inside = self._inside(old), self._inside(new)
        if inside[0] is None or inside[1] is None:  # between file systems it fails (EXDEV)
            return None
        try:
            found = os.lstat(old)
        except FileNotFoundError:
            return None
        swaps = seen.name == "renameat2" and seen.arguments[4] & _RENAME_EXCHANGE
        return Call(
            name="exchange" if swaps else "rename",
            paths=(inside[0], inside[1]),
            directory=stat.S_ISDIR(found.st_mode),
            inode=found.st_ino,
        )

    def linked(self, seen: Notification) -> Call | None:
        """link(2); the old name may be an open file without one (/proc/self/fd/N, or an empty path)."""
        old, new = self._two_paths(seen)
        inside = self._inside(old), self._inside(new)
        if inside[0] is None or inside[1] is None or os.path.lexists(new):
            return None
        return Call(name="link", paths=(inside[0], inside[1]))

    def truncated(self, seen: Notification) -> Call | None:
        """truncate(2), by path."""
        path = self._path(seen, _AT_FDCWD, seen.arguments[0], follow=True)
        inside = self._inside(path)
        if inside is None or not os.path.isfile(path):
            return None
        return Call(name="truncate", paths=(inside,), length=seen.arguments[1])

    def _first_path(self, seen: Notification) -> tuple[int, int]:
        if seen.name.endswith("at"):
            return signed(seen.arguments[0]), seen.arguments[1]
        return _AT_FDCWD, seen.arguments[0]

    def _two_paths(self, seen: Notification) -> tuple[str, str]:
        if seen.name in ("rename", "link"):
            first, second = seen.arguments[:2]
            return self._path(seen, _AT_FDCWD, first), self._path(seen, _AT_FDCWD, second)
        old_at, old, new_at, new = seen.arguments[:4]
        return self._old_path(seen, signed(old_at), old), self._path(seen, signed(new_at), new)

    def _old_path(self, seen: Notification, directory: int, address: int) -> str:
        text = _text_at(seen.thread, address)
        if seen.name != "linkat":
            return self._resolved(seen, directory, text, False)
        # AT_EMPTY_PATH: the descriptor itself; AT_SYMLINK_FOLLOW: what the path leads to, as a link in /proc does.
        text = text or f"/proc/self/fd/{directory}"
        return self._resolved(seen, directory, text, text.startswith("/proc/") or bool(seen.arguments[4] & 0x400))


_Reader = Callable[[CallReader, Notification], Call | None]


def _readers() -> Iterator[tuple[str, _Reader]]:
    kinds: tuple[tuple[_Reader, str], ...] = (
        (CallReader.write, "write pwrite64 writev pwritev pwritev2 sendfile"),
        (CallReader.copy, "copy_file_range splice"),
        (CallReader.descriptor_call, "ftruncate fallocate fsync fdatasync syncfs sync_file_range"),
        (CallReader.sync, "sync"),
        (CallReader.mmap, "mmap"),
        (CallReader.msync, "msync"),
        (CallReader.opened, "open openat openat2 creat"),
        (CallReader.made, "mkdir mkdirat mknod mknodat symlink symlinkat"),
        (CallReader.removed, "unlink unlinkat rmdir"),
        (CallReader.renamed, "rename renameat renameat2"),
        (CallReader.linked, "link linkat"),
        (CallReader.truncated, "truncate"),
    )
    for reader, names in kinds:
        for name in names.split():
            yield name, reader


_READERS: tuple[tuple[str, _Reader], ...] = tuple(_readers())


def _group_of(thread: int) -> int:
    """The process that a thread belongs to."""
    with open(f"/proc/{thread}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    return thread


def _memory_at(thread: int, address: int, length: int) -> bytes:
    """Up to `length` bytes of the caller's memory; fewer where it ends."""
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, length, address)
    finally:
        os.close(fd)


def _text_at(thread: int, address: int) -> str:
    """A C string of the caller. Raises OSError where it has none there; the call would fail as well (EFAULT)."""
    return os.fsdecode(_memory_at(thread, address, _PATH_MAX).split(b"\0", 1)[0])


def _length(seen: Notification) -> int:
    """How many bytes a write is asked for; -1 where only the caller's vector tells."""
    return seen.arguments[2] if seen.name in ("write", "pwrite64") else -1


def _position(thread: int, fd: int) -> tuple[int, int]:
    """A descriptor's file offset and status flags, as /proc/PID/fdinfo has them (proc(5))."""
    with open(f"/proc/{thread}/fdinfo/{fd}", "rb") as file:
        words = file.read(64).split()
    return int(words[1]), int(words[3], 8)


def _mapped_at(thread: int, address: int) -> str:
    """The file that is mapped at an address, or nothing."""
    with open(f"/proc/{thread}/maps", "rb") as file:
        for line in file:
            words = line.rstrip(b"\n").split(maxsplit=5)
            start, _, end = words[0].partition(b"-")
            if int(start, 16) <= address < int(end, 16):
                return os.fsdecode(words[5]) if len(words) > 5 else ""
    return ""

"""A recovered volume as it is found: every name, what it leads to, what the files hold."""

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from harness.machine import fileops
from harness.oracle.history import ROOT, SECTOR, Name

WHOLE_MAX = 1 << 20
"""Files up to so many bytes are read in one go."""

LOST_AND_FOUND = "lost+found"
"""In the root, the file system's own."""

_CANNOT_REACH = (errno.ENOENT, errno.EUCLEAN, errno.EIO, errno.EBADMSG, errno.ESTALE)


class Entry(NamedTuple):
    """One name of a directory. `status` None: lstat says `error`."""

    path: str
    name: Name
    status: os.stat_result | None
    error: int = 0

    @property
    def inode(self) -> int:
        return self.status.st_ino if self.status else 0

    @property
    def kind(self) -> str:
        if self.status is None:
            return ""
        return _KINDS.get(stat.S_IFMT(self.status.st_mode), "special file")


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


def walk(root: str) -> Iterator[Entry]:
    """Every name below `root`, a directory before what is in it. Paths are relative. Raises OSError of readdir.

    A directory that has several names, which no sound file system gives it, is entered once.
    """
    waiting = [(ROOT, "")]
    entered = set()
    while waiting:
        directory, path = waiting.pop()
        for name in sorted(os.listdir(f"{root}/{path}")):
            below = f"{path}/{name}" if path else name
            if below == LOST_AND_FOUND:
                continue
            entry = _entry(root, below, (directory, name))
            if entry.kind == "dir" and entry.inode not in entered:
                entered.add(entry.inode)
                waiting.append((entry.inode, below))
            yield entry


def root_of(root: str) -> Entry:
    """The root itself, under the path `.`."""
    return Entry(".", (ROOT, ""), os.lstat(root))


def has_lost_and_found(root: str) -> bool:
    return os.path.lexists(f"{root}/{LOST_AND_FOUND}")


def _entry(root: str, path: str, name: Name) -> Entry:
    try:
        return Entry(path, name, os.lstat(f"{root}/{path}"))
    except OSError as error:
        if error.errno in _CANNOT_REACH:
            return Entry(path, name, None, error.errno or 0)
        raise


def read_whole(path: str, size: int) -> bytes:
    """The bytes of a small file, as many as there are."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        data = os.pread(fd, size + 1, 0)
        while len(data) < size and (more := os.pread(fd, size - len(data), len(data))):
            data += more
        return data
    finally:
        os.close(fd)


def read_sectors(path: str, size: int) -> dict[int, bytes]:
    """The sectors of a large file that lie in its data extents; all others are zeros."""
    found: dict[int, bytes] = {}
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for start, length in fileops.data_extents(fd):
            stop = min(start + length, size)
            for at in range(start - start % SECTOR, stop, WHOLE_MAX):
                piece = os.pread(fd, min(WHOLE_MAX, stop - at), at)
                for within in range(0, len(piece), SECTOR):
                    sector = piece[within : within + SECTOR]
                    if any(sector):
                        found[(at + within) // SECTOR] = sector.ljust(SECTOR, b"\0")
    finally:
        os.close(fd)
    return found


def xattrs_of(path: str) -> frozenset[tuple[str, str]]:
    """The extended attributes that a plan can set, without the prefix `user.`."""
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
    return frozenset(
        (name[5:], os.getxattr(path, name, follow_symlinks=False).decode(errors="backslashreplace")) for name in names
    )

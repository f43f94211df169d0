"""Files that the user keeps: whole or not there, and nothing else left behind, whenever we are killed.

Source: open(2), O_TMPFILE: a file without a name, which goes away with its last descriptor unless linkat(2) names it.
"""

import contextlib
import errno
import os
from collections.abc import Iterable

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_STEP = 1 << 20

Piece = tuple[int, bytes | memoryview]


def write_atomically(path: str, content: bytes | memoryview) -> None:
    """Write `content` to `path`, making its folder. Readers see the old file or the new one. OSError as open(2)."""
    write_sparse(path, len(content), [(0, content)])


def write_sparse(path: str, size: int, pieces: Iterable[Piece]) -> None:
    """The same for a file of `size` bytes that holds `pieces` (offset, bytes) and is a hole elsewhere."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        _write_and_rename(path, size, pieces)
        return
    try:
        _fill(fd, size, pieces)
        _name(fd, path)
    finally:
        os.close(fd)


def _fill(fd: int, size: int, pieces: Iterable[Piece]) -> None:
    os.ftruncate(fd, size)
    for offset, piece in pieces:
        done = 0
        while done < len(piece):
            done += os.pwrite(fd, piece[done : done + _STEP], offset + done)
    os.fsync(fd)


def _name(fd: int, path: str) -> None:
    try:
        _link(fd, path)
    except FileExistsError:
        # linkat cannot replace: link beside it, then rename over it.
        beside = f"{path}.{os.getpid()}.new"
        _link(fd, beside)
        os.replace(beside, path)


def _link(fd: int, path: str) -> None:
    # os.link asks for AT_SYMLINK_FOLLOW, which the magic link in /proc needs, only if it is given a directory as well.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def _write_and_rename(path: str, size: int, pieces: Iterable[Piece]) -> None:
    beside = f"{path}.{os.getpid()}.new"
    fd = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        _fill(fd, size, pieces)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    finally:
        os.close(fd)

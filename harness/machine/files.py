"""Files that the user keeps: whole or not there, and nothing else left behind, whenever we are killed.

Source: open(2), O_TMPFILE: a file without a name, which goes away with its last descriptor unless linkat(2) names it.
"""

import contextlib
import errno
import os

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


def write_atomically(path: str, content: bytes) -> None:
    """Write `content` to `path`, making its folder. Readers see the old file or the new one. OSError as open(2)."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        _write_and_rename(path, content)
        return
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
        _name(fd, path)


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


def _write_and_rename(path: str, content: bytes) -> None:
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise

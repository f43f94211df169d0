"""syncfs(2), which Python has no function for."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(path: str) -> None:
    """Write out everything of the file system that `path` lies on, and flush its device. Raises OSError (EIO: lost)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)

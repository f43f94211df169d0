"""Whoever keeps the blocks of a disk that our engine only passes on: an engine made elsewhere, or one under test.

The engine in front records, marks and fails requests as for a disk of its own; what it lets through is done here.
"""

import errno
import mmap
import os
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from harness.errors import InternalError
from harness.machine import fileops, fuse

REQUEST_MAX = fuse.REQUEST_MAX + 2 * 4096
"""Bytes: the kernel's largest request, from and to the next whole sector."""


class Backend(Protocol):
    """Blocks. Offsets and lengths in bytes, multiples of the disk's sector; at most REQUEST_MAX at once.

    Each method raises OSError where it could not be done: its errno is what whoever asked is told.
    """

    size: int
    """Bytes."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Exactly `length` bytes, valid until the next request."""

    def write(self, offset: int, data: memoryview) -> None:
        """Done when it returns, and durable after the next flush. `data` is valid until then."""

    def flush(self) -> None:
        """What was done before is durable when it returns."""

    def discard(self, offset: int, length: int) -> None:
        """The range reads as zeros from here on. Of any length."""

    def close(self) -> None: ...


@runtime_checkable
class Movable(Backend, Protocol):
    """A backend whose blocks another process can take over while it serves: a live upgrade."""

    def switch(self, where: str) -> None:
        """Requests from here on are for whoever serves at `where`. Raises OSError if nobody does: nothing changed."""


class Service(NamedTuple):
    """A backend that is opened in the engine's own process. `keep`: the descriptors of ours that it needs there."""

    open: Callable[[], Backend]
    keep: frozenset[int] = frozenset()


class Folder:
    """The folder of an engine's files or sockets, held open.

    Our engine leaves the mounts in which it was started, and with them perhaps the file system that these lie on.
    """

    def __init__(self, path: str) -> None:
        """That of `path`. Raises OSError as open(2) does."""
        self._name = os.path.dirname(os.path.abspath(path))
        self._fd = os.open(self._name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def reach(self, path: str) -> str:
        """A path that leads there from everywhere, if it lies in this folder. It is short: unix(7) allows 107 bytes."""
        folder, name = os.path.split(os.path.abspath(path))
        return f"/proc/self/fd/{self._fd}/{name}" if folder == self._name else path


class Refused(Exception):
    """The backend did not do what it was asked for. `errno`: its answer."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


class Answering:
    """A block in which an OSError is a backend's answer (Refused), told apart from what goes wrong in the engine."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno is None:
            raise InternalError(f"a backend raised {error!r}", "raise OSError(errno, text)") from error
        raise Refused(error.errno) from error


class FileBackend:
    """A file that another engine shows, such as qemu-storage-daemon's FUSE export, or a block device.

    Opened with O_DIRECT: no page cache of ours stands between (open(2)). Data go through aligned memory, as that asks.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError as open(2) does; EINVAL where the file knows no O_DIRECT (tmpfs before Linux 6.6)."""
        self._folder = Folder(path)
        self._path = path
        self._memory = mmap.mmap(-1, REQUEST_MAX)
        self._view = memoryview(self._memory)
        self._fd = -1
        self.switch(path)

    def switch(self, where: str) -> None:
        """See Movable."""
        fd = os.open(self._folder.reach(where), os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self.close()
        self._fd, self._path = fd, where
        self.size = os.lseek(fd, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> memoryview:
        """See Backend."""
        found = self._view[:length]
        fileops.read_exactly(self._fd, found, offset)
        return found

    def write(self, offset: int, data: memoryview) -> None:
        """See Backend."""
        rest = self._view[: len(data)]
        rest[:] = data
        while rest:
            done = os.pwrite(self._fd, rest, offset)
            if not done:
                raise OSError(errno.EIO, f"{self._path} ends at byte {offset}")
            rest, offset = rest[done:], offset + done

    def flush(self) -> None:
        """See Backend."""
        os.fsync(self._fd)

    def discard(self, offset: int, length: int) -> None:
        """See Backend. fallocate(2): a hole of a file, or of a block device that can, reads as zeros."""
        fileops.fallocate(self._fd, fileops.FALLOC_PUNCH_HOLE | fileops.FALLOC_KEEP_SIZE, offset, length)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

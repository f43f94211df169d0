"""A small engine made elsewhere: a process that serves an image over NBD on a unix socket."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from volume_support import SECONDS

from fixtures.systems.children import fork
from harness.engine.nbd_server import serve_nbd
from harness.machine import fileops
from harness.machine.image import Image
from harness.machine.process import wait_readable


class Store:
    """The simplest backend: an image in memory."""

    def __init__(self, image: Image, refuses: Callable[[str, int], int] = lambda _, __: 0) -> None:
        """`refuses(request, offset)`: the errno with which it is answered; 0: it is done."""
        self.image = image
        self.size = image.size
        self.refuses = refuses

    def read(self, offset: int, length: int) -> bytes:
        self._ask("read", offset)
        return self.image.read(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        self._ask("write", offset)
        os.pwrite(self.image.fd, data, offset)

    def flush(self) -> None:
        self._ask("flush", 0)

    def discard(self, offset: int, length: int) -> None:
        self._ask("discard", offset)
        fileops.fallocate(self.image.fd, fileops.FALLOC_PUNCH_HOLE | fileops.FALLOC_KEEP_SIZE, offset, length)

    def close(self) -> None: ...

    def _ask(self, request: str, offset: int) -> None:
        number = self.refuses(request, offset)
        if number:
            raise OSError(number, os.strerror(number))


@contextmanager
def nbd_engine(path: str, store: Store) -> Iterator[int]:
    """A process that serves the store at `path`, until it is killed. Its pid."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    pid = fork("nbd-engine", lambda: serve_nbd(listener, store), 2, {listener.fileno(), store.image.fd})
    listener.close()
    pidfd = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert wait_readable(pidfd, SECONDS)
        os.waitpid(pid, 0)
        os.close(pidfd)
        os.unlink(path)

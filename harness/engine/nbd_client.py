"""The bridge to an engine that speaks NBD: each request goes over a unix socket, one at a time.

The engine may be lost, and another one may come: the kernel's own client has reconnects and a dead_conn_timeout for
that (drivers/block/nbd.c), this one `grace_seconds`. A request without an answer is sent again to whoever comes: NBD
requests change nothing when they are done twice.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time

from harness.engine.backends import REQUEST_MAX, Folder
from harness.engine.nbd_protocol import (
    FLUSH,
    READ,
    READ_ONLY,
    REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SEND_FLUSH,
    SEND_WRITE_ZEROES,
    SIMPLE_REPLY,
    WRITE,
    WRITE_ZEROES,
    greet_server,
    send_exactly,
)

_RETRY_SECONDS = 0.002
_TURN_SECONDS = 0.02
_PATHS_MAX = 1 << 16
_ZEROES_MAX = 1 << 30
_TIMEVAL = struct.Struct("ll")


class _Moved(Exception):
    """Another engine has taken over while this request was under way."""


class NbdBackend:
    """An NBD export at the unix socket `path`; see backends.Backend. It is connected when this returns.

    `grace_seconds`: for so long a request waits for an engine to come back to the path once the connection is lost;
    then it gets EIO, and so do all that follow, until one answers there. `answer_seconds`: an engine that takes longer
    in silence is given up as lost. `moves`: a pipe that brings the paths of engines that take over, a line each,
    while the engine that has a request does not answer it (-1: none).
    """

    def __init__(
        self,
        path: str,
        *,
        export: str = "",
        grace_seconds: float = 0.0,
        answer_seconds: float = 30.0,
        moves: int = -1,
    ) -> None:
        """Raises OSError where nobody serves there, or what is served cannot be written to."""
        self._folder = Folder(path)
        self._path = path
        self._export = export
        self._grace = grace_seconds
        self._answer = answer_seconds
        self._moves = moves
        self._cookie = 0
        self._head = memoryview(bytearray(SIMPLE_REPLY.size))
        self._data = memoryview(bytearray(REQUEST_MAX))
        self._turn = min(answer_seconds, _TURN_SECONDS)
        self._sock: socket.socket | None = None
        self.size = 0
        self._take(self._connected(path))

    def read(self, offset: int, length: int) -> memoryview:
        """See Backend."""
        into = self._data[:length]
        self._ask(READ, offset, length, into=into)
        return into

    def write(self, offset: int, data: memoryview) -> None:
        """See Backend."""
        self._ask(WRITE, offset, len(data), data)

    def flush(self) -> None:
        """See Backend. Nothing is sent where the engine announces no flush: it has no volatile cache (doc/proto.md)."""
        if self._flags & SEND_FLUSH:
            self._ask(FLUSH, 0, 0)

    def discard(self, offset: int, length: int) -> None:
        """See Backend. By WRITE_ZEROES, which may punch a hole: after NBD's TRIM the content is not defined."""
        if not self._flags & SEND_WRITE_ZEROES:
            raise OSError(errno.EOPNOTSUPP, "the engine knows no WRITE_ZEROES")
        for at in range(0, length, _ZEROES_MAX):
            self._ask(WRITE_ZEROES, offset + at, min(_ZEROES_MAX, length - at))

    def switch(self, where: str) -> None:
        """See backends.Movable. The old engine's connection is closed once the new one's stands."""
        self._drain()
        if where != self._path or self._sock is None:  # it may have gone there while it waited for an answer
            self._go(where)

    def close(self) -> None:
        self._drop()

    def _connected(self, path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(self._answer)
            sock.connect(self._folder.reach(path))
            size, flags = greet_server(sock, self._export)
            sock.settimeout(None)
            _limit(sock, socket.SO_SNDTIMEO, self._answer)
            _limit(sock, socket.SO_RCVTIMEO, self._turn)
        except BaseException:
            sock.close()
            raise
        if flags & READ_ONLY or (self.size and size != self.size):
            sock.close()
            why = "can only be read" if flags & READ_ONLY else f"has {size} bytes, not {self.size}"
            raise OSError(errno.EROFS if flags & READ_ONLY else errno.EINVAL, f"what is served at {path} {why}")
        self.size, self._flags = size, flags
        return sock

    def _take(self, sock: socket.socket) -> socket.socket:
        """From here on requests go to this one. What was there before is closed."""
        self._drop()
        self._sock = sock
        return sock

    def _drop(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None

    def _ask(
        self, kind: int, offset: int, length: int, data: bytes | memoryview = b"", into: memoryview | None = None
    ) -> None:
        error = self._asked(kind, offset, length, data, into)
        if error:
            raise OSError(error, os.strerror(error))

    def _asked(self, kind: int, offset: int, length: int, data: bytes | memoryview, into: memoryview | None) -> int:
        """The engine's answer, an errno; EIO where no engine gives one."""
        give_up_at = 0.0
        while True:
            try:
                sock = self._sock or self._take(self._connected(self._path))
                return self._exchange(sock, kind, offset, length, data, into)
            except _Moved:
                continue
            except OSError:  # the connection's: lost, refused, too slow, or what came was no answer
                self._drop()
                now = time.monotonic()
                give_up_at = give_up_at or now + self._grace
                if now >= give_up_at:
                    return errno.EIO
            if self._poll_moves(_RETRY_SECONDS):
                self._move()

    def _exchange(
        self,
        sock: socket.socket,
        kind: int,
        offset: int,
        length: int,
        data: bytes | memoryview,
        into: memoryview | None,
    ) -> int:
        self._cookie += 1
        send_exactly(sock, REQUEST.pack(REQUEST_MAGIC, 0, kind, self._cookie, offset, length), data)
        self._fill(sock, self._head)
        magic, error, cookie = SIMPLE_REPLY.unpack(self._head)
        if magic != REPLY_MAGIC or cookie != self._cookie:
            raise OSError(errno.EPROTO, "not the answer to our request")
        if into is not None and not error:
            self._fill(sock, into, begun=True)
        return int(error)

    def _fill(self, sock: socket.socket, into: memoryview, *, begun: bool = False) -> None:
        """Receive so much. `begun`: part of the answer has come. Raises TimeoutError after `answer_seconds` of silence,
        and _Moved if another engine took over before any of it came.

        The kernel waits, in turns of the socket's own timeout: to poll for both costs each request a system call.
        """
        give_up_at = 0.0
        while into:
            try:
                got = sock.recv_into(into)
            except BlockingIOError:
                if not begun and self._move():
                    raise _Moved from None
                now = time.monotonic()
                give_up_at = give_up_at or now + self._answer - self._turn
                if now >= give_up_at:
                    raise TimeoutError(errno.ETIMEDOUT, f"silent for {self._answer:g} s") from None
                continue
            if not got:
                raise ConnectionResetError(errno.ECONNRESET, "the engine closed the connection")
            into, begun, give_up_at = into[got:], True, 0.0

    def _poll_moves(self, seconds: float) -> bool:
        """Wait for so long, or until another engine is to take over."""
        if self._moves < 0:
            time.sleep(seconds)
            return False
        return bool(select.select([self._moves], [], [], seconds)[0])

    def _move(self) -> bool:
        """Go to the engine that was named last. False: it does not serve, and nothing changed."""
        named = self._drain()
        if named:
            with contextlib.suppress(OSError):
                self._go(named)
                return True
        return False

    def _drain(self) -> str:
        """The path that was named last; empty if none was."""
        if self._moves < 0 or not select.select([self._moves], [], [], 0)[0]:
            return ""
        named = os.read(self._moves, _PATHS_MAX).decode().splitlines()
        return named[-1] if named else ""

    def _go(self, where: str) -> None:
        self._take(self._connected(where))
        self._path = where


def _limit(sock: socket.socket, option: int, seconds: float) -> None:
    """EAGAIN after so long (socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6)))

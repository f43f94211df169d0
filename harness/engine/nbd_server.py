"""An NBD server in its simplest form: one client at a time, one request after another, over any backend."""

import errno
import socket

from harness.engine.backends import REQUEST_MAX, Backend
from harness.engine.nbd_protocol import (
    DISC,
    FLAG_FUA,
    FLUSH,
    READ,
    REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    greet_client,
    receive_exactly,
    send_exactly,
)

PAYLOAD_MAX = 32 << 20
"""Bytes of one request that a client may rely on (doc/proto.md, "Block size constraints")."""


def serve_nbd(listener: socket.socket, backend: Backend) -> None:
    """Serve clients of the listening socket, one after another, until it is closed or shut down.

    An OSError of the backend is its answer. A client that says what is no request loses its connection.
    """
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            try:
                if greet_client(client, backend.size):
                    _serve(client, backend)
            except OSError:  # it left, or speaks something else
                continue


def _serve(client: socket.socket, backend: Backend) -> None:
    head = memoryview(bytearray(REQUEST.size))
    payload = memoryview(bytearray(PAYLOAD_MAX))
    while receive_exactly(client, head):
        magic, flags, kind, cookie, offset, length = REQUEST.unpack(head)
        if magic != REQUEST_MAGIC or kind == DISC or length > PAYLOAD_MAX:
            return
        data = payload[: length if kind == WRITE else 0]
        if not receive_exactly(client, data):
            return
        body: list[bytes | memoryview] = []
        error = 0
        try:
            body = _do(backend, kind, offset, length, data)
            if flags & FLAG_FUA and kind in (WRITE, TRIM, WRITE_ZEROES):
                backend.flush()
        except OSError as refusal:
            error, body = refusal.errno or errno.EIO, []
        send_exactly(client, SIMPLE_REPLY.pack(REPLY_MAGIC, error, cookie), *body)


def _do(backend: Backend, kind: int, offset: int, length: int, data: memoryview) -> list[bytes | memoryview]:
    """What to send behind the reply. In pieces that a backend takes at once."""
    if offset + length > backend.size:
        raise OSError(errno.EINVAL, "beyond the end of the disk")
    if kind == READ:
        return [bytes(backend.read(offset + at, size)) for at, size in _pieces(length)]
    if kind == WRITE:
        for at, size in _pieces(length):
            backend.write(offset + at, data[at : at + size])
    elif kind == FLUSH:
        backend.flush()
    elif kind in (TRIM, WRITE_ZEROES):
        backend.discard(offset, length)
    else:
        raise OSError(errno.EINVAL, f"unknown request {kind}")
    return []


def _pieces(length: int) -> list[tuple[int, int]]:
    return [(at, min(REQUEST_MAX, length - at)) for at in range(0, length, REQUEST_MAX)]

"""The NBD protocol on the wire, both sides: fixed newstyle handshake, simple replies.

Source: doc/proto.md of the NBD project (the protocol's own document), names as there without NBD_; include/uapi/linux/
nbd.h for the kernel's part. All integers are big-endian. Errors are errno values, the same numbers as Linux's.
"""

import errno
import socket
import struct

READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FLAG_FUA = 1
FLAG_NO_HOLE = 2

REQUEST = struct.Struct(">IHHQQI")
"""magic, command flags, type, cookie, offset, length."""
SIMPLE_REPLY = struct.Struct(">IIQ")
"""magic, error, cookie."""
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698

HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES = 1 << 0, 1 << 2, 1 << 3, 1 << 5, 1 << 6
READ_ONLY = 1 << 1
OFFERED = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES
"""The transmission flags that our servers announce."""

_GREETING = struct.Struct(">8s8sH")
_NBDMAGIC, _IHAVEOPT = b"NBDMAGIC", b"IHAVEOPT"
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_CLIENT_FLAGS = struct.Struct(">I")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_LIST, _OPT_INFO, _OPT_GO = 1, 2, 3, 6, 7
_REP_ACK, _REP_SERVER, _REP_INFO = 1, 2, 3
_REP_ERR_UNSUP, _REP_ERR_INVALID = (1 << 31) + 1, (1 << 31) + 3
_INFO_EXPORT = struct.Struct(">HQH")
_EXPORT = struct.Struct(">QH")
_OLD_PADDING = bytes(124)
_NAME_MAX = 4096
_OPTION_MAX = 1 << 16


def receive_exactly(sock: socket.socket, into: memoryview) -> bool:
    """Fill `into`. False where the other side ended before that. Raises OSError as recv(2) does."""
    got, wanted = 0, len(into)
    while got < wanted:
        count = sock.recv_into(into[got:])
        if not count:
            return False
        got += count
    return True


def send_exactly(sock: socket.socket, *parts: bytes | memoryview) -> None:
    """All of the parts, in one sendmsg(2) if the kernel takes them at once. Raises OSError as that does."""
    wanted = sum(map(len, parts))
    sent = sock.sendmsg(parts)
    if sent < wanted:
        sock.sendall(b"".join(parts)[sent:])


def greet_client(sock: socket.socket, size: int) -> bool:
    """The server's part of the handshake: `size` bytes under any name, with OFFERED.

    True: the client goes on to requests. False: it left, or only looked. Raises OSError for what is no NBD client.
    """
    sock.sendall(_GREETING.pack(_NBDMAGIC, _IHAVEOPT, _FIXED_NEWSTYLE | _NO_ZEROES))
    try:
        (flags,) = _CLIENT_FLAGS.unpack(_take(sock, _CLIENT_FLAGS.size))
        while True:
            magic, option, length = _OPTION.unpack(_take(sock, _OPTION.size))
            if magic != _IHAVEOPT or length > _OPTION_MAX:
                raise OSError(errno.EPROTO, "not an NBD option")
            data = _take(sock, length)
            if option == _OPT_EXPORT_NAME:
                padding = b"" if flags & _NO_ZEROES else _OLD_PADDING
                sock.sendall(_EXPORT.pack(size, OFFERED) + padding)
                return True
            if _answer_option(sock, option, data, size):
                return bool(option == _OPT_GO)
    except EOFError:
        return False


def greet_server(sock: socket.socket, export: str = "") -> tuple[int, int]:
    """The client's part of the handshake: size in bytes and transmission flags of the export.

    Raises OSError: EPROTO for what is no NBD server of the fixed newstyle kind, ENOENT for an export that it has not.
    """
    try:
        magic, style, flags = _GREETING.unpack(_take(sock, _GREETING.size))
        if (magic, style) != (_NBDMAGIC, _IHAVEOPT) or not flags & _FIXED_NEWSTYLE:
            raise OSError(errno.EPROTO, "not an NBD server of the fixed newstyle kind")
        name = export.encode()
        wanted = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        ours = _CLIENT_FLAGS.pack(flags & (_FIXED_NEWSTYLE | _NO_ZEROES))
        sock.sendall(ours + _OPTION.pack(_IHAVEOPT, _OPT_GO, len(wanted)) + wanted)
        return _await_export(sock, export)
    except EOFError:
        raise OSError(errno.EPROTO, "the NBD server ended in the middle of the handshake") from None


def _take(sock: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    if not receive_exactly(sock, memoryview(data)):
        raise EOFError
    return bytes(data)


def _answer_option(sock: socket.socket, option: int, data: bytes, size: int) -> bool:
    """True: the handshake is over."""

    def reply(kind: int, body: bytes = b"") -> None:
        sock.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(body)) + body)

    if option in (_OPT_GO, _OPT_INFO):
        (length,) = struct.unpack_from(">I", data) if len(data) >= 6 else (_NAME_MAX + 1,)
        if length > _NAME_MAX or 4 + length + 2 > len(data):
            reply(_REP_ERR_INVALID)
            return False
        reply(_REP_INFO, _INFO_EXPORT.pack(0, size, OFFERED))
        reply(_REP_ACK)
        return option == _OPT_GO
    if option == _OPT_ABORT:
        reply(_REP_ACK)
        return True
    if option == _OPT_LIST:
        reply(_REP_SERVER, struct.pack(">I", 0))
        reply(_REP_ACK)
    else:
        reply(_REP_ERR_UNSUP)
    return False


def _await_export(sock: socket.socket, export: str) -> tuple[int, int]:
    found: tuple[int, int] | None = None
    while True:
        magic, _, kind, length = _OPTION_REPLY.unpack(_take(sock, _OPTION_REPLY.size))
        if magic != _OPTION_REPLY_MAGIC or length > _OPTION_MAX:
            raise OSError(errno.EPROTO, "not an answer to an NBD option")
        body = _take(sock, length)
        if kind == _REP_INFO and len(body) == _INFO_EXPORT.size:
            about, size, flags = _INFO_EXPORT.unpack(body)
            found = (size, flags) if about == 0 else found
        elif kind == _REP_ACK:
            break
        elif kind >= 1 << 31:
            said = body.decode(errors="replace") or f"error {kind - (1 << 31)}"
            raise OSError(errno.ENOENT, f"the NBD server has no export {export!r}: {said}")
    if found is None:
        raise OSError(errno.EPROTO, "the NBD server did not say how large its export is")
    return found

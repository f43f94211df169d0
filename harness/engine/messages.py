"""How bytes written to the engine's two message files become marks."""

import struct

_LENGTH = struct.Struct("<Q")


class Lines:
    """Promises of one open handle: each newline ends one; what has no newline yet waits for the next write or close."""

    __slots__ = ("_parts", "pending")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.pending = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newlines. An empty line is a promise too."""
        *whole, rest = data.split(b"\n")
        if whole:
            self._parts.append(whole[0])
            whole[0] = b"".join(self._parts)
            self._parts = []
            self.pending = 0
        if rest:
            self._parts.append(rest)
            self.pending += len(rest)
        return whole

    def close(self) -> list[bytes]:
        """The unfinished line, if there is one."""
        line = b"".join(self._parts)
        self._parts = []
        self.pending = 0
        return [line] if line else []


class Frames:
    """Marks of the harness: one write(2) at offset 0 each, its length in front. The kernel may cut it into requests."""

    __slots__ = ("_parts", "_wanted", "pending")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._wanted = 0
        self.pending = 0

    def feed(self, offset: int, data: bytes) -> list[bytes]:
        """The mark that `data` completes, if it does. Offset 0 begins a mark, dropping one that was never finished."""
        if offset == 0:
            self._parts = []
            self.pending = 0
            (self._wanted,) = _LENGTH.unpack_from(data)
            data = data[_LENGTH.size :]
        self._parts.append(data)
        self.pending += len(data)
        if self.pending < self._wanted:
            return []
        self.pending = 0
        return [b"".join(self._parts)]

    @staticmethod
    def pack(text: bytes) -> bytes:
        """The bytes of the one write(2) that says `text`."""
        return _LENGTH.pack(len(text)) + text

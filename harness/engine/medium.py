"""What stands behind the file `disk`: the log and the image below it, or a backend that the requests are passed on to.

Either way the log says, in order, what was done: an event is entered when it has been.
"""

from harness.blocklog import LogWriter
from harness.engine.backends import Answering, Backend, Movable, Refused
from harness.engine.blocks import BlockIndex

_EOPNOTSUPP = 95


class Medium:
    """`memory` is the log's; what is to be written stands at its payload_at. Each method raises Refused."""

    def __init__(self, log: LogWriter, memory: memoryview, index: BlockIndex, backend: Backend | None) -> None:
        self._log = log
        self._memory = memory
        self._index = index
        self._backend = backend

    def land(self, offset: int, size: int) -> None:
        """What stands at payload_at is on the medium from here on."""
        at = self._log.payload_at
        self.pass_on(offset, size)
        self._log.commit_write(offset, size)
        self._index.wrote(offset, size, at)

    def pass_on(self, offset: int, size: int) -> None:
        """The part of it that is the backend's, if there is one."""
        if self._backend:
            at = self._log.payload_at
            with Answering():
                self._backend.write(offset, self._memory[at : at + size])

    def flush(self) -> None:
        """All that landed before is durable."""
        if self._backend:
            with Answering():
                self._backend.flush()
        self._log.flush()

    def discard(self, offset: int, length: int) -> None:
        """The range reads as zeros from here on."""
        if self._backend:
            with Answering():
                self._backend.discard(offset, length)
        self._log.discard(offset, length)
        self._index.discarded(offset, length)

    def read(self, out: memoryview, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes from `offset` on, in `out` or where they lie."""
        if self._backend:
            with Answering():
                return self._backend.read(offset, length)
        self._index.read(out, offset, length)
        return out[:length]

    def switch(self, where: str) -> None:
        """Another process keeps the blocks from here on (backends.Movable)."""
        if not isinstance(self._backend, Movable):
            raise Refused(_EOPNOTSUPP)
        with Answering():
            self._backend.switch(where)

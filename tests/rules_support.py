"""An engine's file, open, and things done to it that may not come back for a while."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from harness.blocklog import Kind
from harness.engine import Engine, start_engine
from harness.engine.rules import Rule
from harness.machine import fileops, mounts
from harness.machine.image import Image

BLOCK = 4096
SIZE = 64 * BLOCK
SECONDS = 5.0


class Disk:
    """An engine's file, open."""

    def __init__(self, engine: Engine, fd: int) -> None:
        self.engine = engine
        self.fd = fd

    def write(self, block: int, letter: bytes, blocks: int = 1) -> str:
        """`ok`, or the name of the errno."""
        return _told(lambda: os.pwrite(self.fd, letter * blocks * BLOCK, block * BLOCK))

    def flush(self) -> str:
        return _told(lambda: os.fsync(self.fd))

    def read(self, block: int, blocks: int = 1) -> str:
        """A letter for each block; or the name of the errno."""
        try:
            data = os.pread(self.fd, blocks * BLOCK, block * BLOCK)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        pieces = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        return "".join(chr(piece[0] or ord(".")) if len(set(piece)) == 1 else "?" for piece in pieces)

    def discard(self, block: int) -> str:
        mode = fileops.FALLOC_PUNCH_HOLE | fileops.FALLOC_KEEP_SIZE
        return _told(lambda: fileops.fallocate(self.fd, mode, block * BLOCK, BLOCK))

    def counts(self) -> list[tuple[int, int]]:
        return [(count.seen, count.hit) for count in self.engine.counts()]

    def marks(self) -> list[str]:
        return [mark.text.decode() for mark in self.engine.parsed().marks]

    def kinds(self) -> str:
        """The log: w, d, f."""
        names = {Kind.WRITE: "w", Kind.DISCARD: "d", Kind.FLUSH: "f", Kind.MARK: ""}
        return "".join(names[event.kind] for event in self.engine.parsed().events)


def _told(act: Callable[[], object]) -> str:
    try:
        act()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@contextlib.contextmanager
def disk(rules: Sequence[Rule] = (), log_max: int = 4 << 20) -> Iterator[Disk]:
    workspace = mounts.enter_private_mounts()
    with (
        Image.create(SIZE, "base") as base,
        start_engine(base, log_max=log_max, sector_size=BLOCK, mount_dir=workspace.engine, rules=rules) as engine,
    ):
        fd = os.open(engine.disk_path, os.O_RDWR)
        try:
            yield Disk(engine, fd)
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)


class Held:
    """Something done by another thread, which may not come back for a while."""

    def __init__(self, act: Callable[[], str]) -> None:
        self.result = ""

        def run() -> None:
            self.result = act()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def end(self) -> str:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        return self.result

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

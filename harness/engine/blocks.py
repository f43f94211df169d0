"""Where the newest content of each block lies: in the log, in the base image, or nowhere (zeros).

The log holds written data once; this index is all that reading back costs, 8 bytes a block that was written.
"""

import itertools
import mmap
from array import array
from collections.abc import Iterator

from harness.machine.fileops import read_exactly

_BASE = 0  # the log's superblock lies at 0, so no payload does
_ZEROS = -1


class BlockIndex:
    """Block number -> offset of its payload in the log. Offsets and lengths are bytes, multiples of `sector`."""

    __slots__ = ("_base_fd", "_log", "sector", "words")

    def __init__(self, size: int, sector: int, log: memoryview, base_fd: int) -> None:
        """`base_fd` is only read, by pread(2): a hole of the base stays a hole."""
        self.sector = sector
        self._log = log
        self._base_fd = base_fd
        # Anonymous memory: pages of the index that no write touches are never allocated.
        self.words = memoryview(mmap.mmap(-1, size // sector * 8)).cast("q")

    def wrote(self, offset: int, length: int, data_at: int) -> None:
        """The blocks of [offset, offset + length) now lie in the log from `data_at` on."""
        sector = self.sector
        first = offset // sector
        if length == sector:
            self.words[first] = data_at
        else:
            self.words[first : first + length // sector] = array("q", range(data_at, data_at + length, sector))

    def discarded(self, offset: int, length: int) -> None:
        """The blocks of [offset, offset + length) now read as zeros."""
        first, count = offset // self.sector, length // self.sector
        self.words[first : first + count] = array("q", [_ZEROS]) * count

    def read(self, out: memoryview, offset: int, length: int) -> None:
        """Fill out[:length] with the content of [offset, offset + length)."""
        done = 0
        for where, size in self._runs(offset // self.sector, length // self.sector):
            part = out[done : done + size]
            if where > _BASE:
                part[:] = self._log[where : where + size]
            elif where == _BASE:
                read_exactly(self._base_fd, part, offset + done)
            else:
                part[:] = bytes(size)
            done += size

    def _runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """(place, bytes) of neighbours that lie together: a log offset, _BASE or _ZEROS."""
        words = self.words[first : first + count].tolist()
        step = self.sector
        # Within a run of the log the offset grows with the position: their difference is the run's key.
        keys = (word - at * step if word > _BASE else (word,) for at, word in enumerate(words))
        at = 0
        for _, group in itertools.groupby(keys):
            size = sum(1 for _ in group)
            yield words[at], size * step
            at += size

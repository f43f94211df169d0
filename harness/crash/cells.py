"""The volume cut into cells, and what may stand in each.

A cell is a range of bytes that every atom of the log covers wholly or not at all. So the content of a cell always has
one source: a place in the log, zeros, or the base. A write of 1 MiB that no other write divides is one cell.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from struct import Struct

from xxhash import xxh3_128_intdigest

from harness.crash.model import Atom, Epoch
from harness.extents import Extent, merge

ZERO = -1
"""Source: the range was discarded, or lies in a hole of the base."""
BASE = -2
"""Source: no persisted event covers the range."""

_NUMBER = Struct("<Q")
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


class Cells:
    """The cells of one state space. `base_data`: extents of the base outside which it is known to hold zeros."""

    def __init__(
        self,
        epochs: Iterable[Epoch],
        log: memoryview,
        base: memoryview,
        sector: int,
        base_data: Sequence[Extent] | None,
    ) -> None:
        self.size = len(base)
        self.sector = sector
        self._log = log
        self._base = base
        data = merge(base_data, sector, self.size) if base_data is not None else [(0, self.size)]
        self._data_starts = [start for start, _ in data]
        self._data_stops = [start + length for start, length in data]
        edges = {0, self.size, *self._data_starts, *self._data_stops}
        for epoch in epochs:
            for atom in epoch.atoms:
                edges.add(atom.offset)
                edges.add(atom.offset + atom.length)
        # A sector of which only a part is written is cut out, so that it can be named as a whole.
        for edge in [edge for edge in edges if edge % sector]:
            edges.add(edge // sector * sector)
            edges.add(min(self.size, -(-edge // sector) * sector))
        self.starts = sorted(edges)
        self.index = {start: number for number, start in enumerate(self.starts)}
        self._hashes: dict[int, int] = {}
        self._part_hashes: dict[tuple[int, ...], int] = {}

    def sources(self, atom: Atom) -> list[tuple[int, int]]:
        """The cells that the atom covers, each with the source that it has once the atom is persisted."""
        first, last = self.index[atom.offset], self.index[atom.offset + atom.length]
        if atom.data_at < 0:
            return [(cell, ZERO if self.in_data(cell) else BASE) for cell in range(first, last)]
        if last == first + 1:
            return [(first, atom.data_at)]
        shift, starts = atom.data_at - atom.offset, self.starts
        return [(cell, starts[cell] + shift) for cell in range(first, last)]

    def in_data(self, cell: int) -> bool:
        """Whether the base may hold something other than zeros there."""
        start = self.starts[cell]
        at = bisect_right(self._data_starts, start) - 1
        return at >= 0 and start < self._data_stops[at]

    def extent(self, cell: int) -> Extent:
        start = self.starts[cell]
        return start, self.starts[cell + 1] - start

    def fill(self, image: memoryview, cell: int, source: int) -> None:
        """Put the cell's content into the image of the volume. A hole of the base is never read."""
        start, length = self.extent(cell)
        if source >= 0:
            image[start : start + length] = self._log[source : source + length]
        elif source == BASE and self.in_data(cell):
            image[start : start + length] = self._base[start : start + length]
        else:
            for at in range(start, start + length, _CHUNK):
                step = min(_CHUNK, start + length - at)
                image[at : at + step] = _ZEROS[:step]

    def part_of(self, cell: int) -> int | None:
        """The number of the sector of which the cell is only a part; None for a cell of whole sectors."""
        start, stop = self.starts[cell], self.starts[cell + 1]
        if start % self.sector == 0 and (stop % self.sector == 0 or stop == self.size):
            return None
        return start // self.sector

    def parts(self, sector_number: int) -> range:
        """The cells of which a sector consists."""
        start = sector_number * self.sector
        return range(self.index[start], self.index[min(self.size, start + self.sector)])

    def hash(self, cell: int, source: int) -> int:
        """What a cell of whole sectors adds to a disk's name; 0 where its content is that of the base."""
        if source == BASE:
            return 0
        # A place in the log belongs to one cell only, so it is key enough.
        key = source if source >= 0 else ZERO - cell - 1
        known = self._hashes.get(key)
        if known is None:
            known = self._hashes[key] = self._hash_sectors(cell, source)
        return known

    def hash_parts(self, sector_number: int, sources: tuple[int, ...]) -> int:
        """The same for a sector of several cells with these sources."""
        key = (sector_number, *sources)
        known = self._part_hashes.get(key)
        if known is None:
            pairs = zip(self.parts(sector_number), sources, strict=True)
            content = b"".join([self._bytes(cell, source, *self.extent(cell)) for cell, source in pairs])
            base = b"".join([self._bytes(cell, BASE, *self.extent(cell)) for cell in self.parts(sector_number)])
            known = self._part_hashes[key] = _hash_sector(sector_number, content, base)
        return known

    def _hash_sectors(self, cell: int, source: int) -> int:
        start, length = self.extent(cell)
        total = 0
        for at in range(start, start + length, self.sector):
            step = min(self.sector, start + length - at)
            place = source + at - start if source >= 0 else source
            content = self._bytes(cell, place, at, step)
            total ^= _hash_sector(at // self.sector, content, self._bytes(cell, BASE, at, step))
        return total

    def _bytes(self, cell: int, source: int, start: int, length: int) -> bytes:
        if source >= 0:
            return bytes(self._log[source : source + length])
        if source == BASE and self.in_data(cell):
            return bytes(self._base[start : start + length])
        return bytes(length)


def _hash_sector(number: int, content: bytes, base: bytes) -> int:
    return 0 if content == base else xxh3_128_intdigest(_NUMBER.pack(number) + content)

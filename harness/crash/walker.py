"""Walking through the states of a log, forward, knowing at each step which cells change."""

from collections.abc import Iterator, Sequence

from harness.crash.cells import BASE, Cells
from harness.crash.model import Epoch
from harness.errors import InternalError


def set_bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set. Linear also in a mask of 100,000 bits."""
    text = bin(mask)[:1:-1]
    at = text.find("1")
    while at >= 0:
        yield at
        at = text.find("1", at + 1)


class Walker:
    """A disk as a map from cell to source. A step costs what changes, and the epoch's atoms on entering an epoch."""

    def __init__(self, epochs: Sequence[Epoch], cells: Cells) -> None:
        self._epochs = epochs
        self._cells = cells
        self._index = 0
        self._kept = 0
        self._layers: dict[int, list[tuple[int, int]]] | None = None
        self._covered: list[list[tuple[int, int]]] = []
        self.now: dict[int, int] = {}
        """The source of each cell that differs from the base."""

    def move(self, epoch: int, kept: int) -> dict[int, int]:
        """Go to the disk with all epochs before `epoch` and the atoms `kept` of it; returns changed cells and sources.

        Raises InternalError for an epoch that lies behind.
        """
        if epoch < self._index:
            raise InternalError(f"a walk through crash states went back from epoch {self._index} to {epoch}")
        changes = self._advance(epoch) if epoch > self._index else {}
        if kept != self._kept:
            changes.update(self._select(kept))
        return changes

    def _advance(self, epoch: int) -> dict[int, int]:
        final: dict[int, int] = {}
        sources = self._cells.sources
        for passed in self._epochs[self._index : epoch]:
            for atom in passed.atoms:
                final.update(sources(atom))
        self._index, self._kept, self._layers = epoch, 0, None
        return self._apply(final)

    def _select(self, kept: int) -> dict[int, int]:
        layers = self._layers if self._layers is not None else self._enter()
        differ = {cell for atom in set_bits(kept ^ self._kept) for cell, _ in self._covered[atom]}
        self._kept = kept
        # A sentinel bit makes the text as long as the epoch has atoms; text[i] is then atom i, without big shifts.
        text = bin(kept | 1 << len(self._covered))[:2:-1]
        final: dict[int, int] = {}
        for cell in differ:
            for atom, source in reversed(layers[cell]):
                if atom < 0 or text[atom] == "1":
                    final[cell] = source
                    break
        return self._apply(final)

    def _enter(self) -> dict[int, list[tuple[int, int]]]:
        """For each cell of the epoch: what lies there before it, then its atoms in log order."""
        layers: dict[int, list[tuple[int, int]]] = {}
        self._covered = [self._cells.sources(atom) for atom in self._epochs[self._index].atoms]
        for number, covered in enumerate(self._covered):
            for cell, source in covered:
                layer = layers.get(cell)
                if layer is None:
                    layer = layers[cell] = [(-1, self.now.get(cell, BASE))]
                layer.append((number, source))
        self._layers = layers
        return layers

    def _apply(self, final: dict[int, int]) -> dict[int, int]:
        now = self.now
        changes = {cell: source for cell, source in final.items() if now.get(cell, BASE) != source}
        now.update(changes)
        return changes


class Namer:
    """The names of states met on one walk: an XOR over the sectors that differ from the base."""

    def __init__(self, epochs: Sequence[Epoch], cells: Cells) -> None:
        self._walker = Walker(epochs, cells)
        self._cells = cells
        self._shares: dict[int, int] = {}
        self._part_shares: dict[int, int] = {}
        self._name = 0

    def name(self, epoch: int, kept: int) -> int:
        """128 bits; 0 for a disk that equals the base. Walks forward only."""
        cells, shares = self._cells, self._shares
        partial: set[int] = set()
        name = self._name
        for cell, source in self._walker.move(epoch, kept).items():
            part = cells.part_of(cell)
            if part is None:
                share = cells.hash(cell, source)
                name ^= shares.get(cell, 0) ^ share
                shares[cell] = share
            else:
                partial.add(part)
        now = self._walker.now
        for part in partial:
            share = cells.hash_parts(part, tuple([now.get(cell, BASE) for cell in cells.parts(part)]))
            name ^= self._part_shares.get(part, 0) ^ share
            self._part_shares[part] = share
        self._name = name
        return name

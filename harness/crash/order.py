"""The order in which states are looked at: most telling first, every epoch touched early. See docs/crash-model.md.

Each stage numbers its candidates, so that any of them can be had without listing the others.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from math import isqrt
from random import Random

from harness.crash.model import Cut, Epoch, Model


class Writes:
    """The writes of one epoch as groups of atoms: group i is atoms edges[i] to edges[i + 1] - 1."""

    def __init__(self, epoch: Epoch) -> None:
        atoms = epoch.atoms
        self.edges = [i for i, atom in enumerate(atoms) if not i or atoms[i - 1].event != atom.event]
        self.edges.append(len(atoms))
        self.fua = sum_bits([i for i, atom in enumerate(atoms) if atom.fua], len(atoms))

    @cached_property
    def tears(self) -> list[int]:
        """How many torn candidates the writes before each have: first units, last units, single units."""
        units = (after - before for before, after in zip(self.edges, self.edges[1:], strict=False))
        return list(accumulate((3 * n - 2 if n > 1 else 0 for n in units), initial=0))


def sum_bits(bits: Sequence[int], width: int) -> int:
    """The mask with these bits set; linear, where or-ing shifted ones together is quadratic."""
    raw = bytearray((width + 7) // 8)
    for bit in bits:
        raw[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(raw, "little")


class Choices:
    """The subsets that are allowed at one cut. Each method yields a mask that holds every FUA atom before the cut."""

    def __init__(self, cut: Cut, writes: Writes) -> None:
        self.cut = cut
        self.writes = writes
        self.full = (1 << cut.atoms) - 1
        self.fua = writes.fua & self.full if cut.fua else 0

    @property
    def count(self) -> int:
        """How many writes lie before the cut."""
        return bisect_left(self.writes.edges, self.cut.atoms)

    def first(self, writes: int) -> int:
        return (1 << self.writes.edges[writes]) - 1 | self.fua

    def group(self, write: int) -> int:
        start, stop = self.writes.edges[write], self.writes.edges[write + 1]
        return (1 << stop) - (1 << start)

    def without(self, *dropped: int) -> int:
        mask = self.full
        for write in dropped:
            mask &= ~self.group(write)
        return mask | self.fua

    def torn(self, number: int) -> int:
        """The writes before some write, and of that one a proper part of its units."""
        write = bisect_right(self.writes.tears, number) - 1
        start, stop = self.writes.edges[write], self.writes.edges[write + 1]
        rest, units = number - self.writes.tears[write], stop - start
        if rest < units:
            part = 1 << rest
        elif (rest := rest - units) < units - 1:
            part = (1 << rest + 1) - 1
        else:
            rest -= units - 1
            part = (1 << units) - (1 << rest + 1)
        return (1 << start) - 1 | part << start | self.fua

    def subset(self, number: int) -> int:
        """The subset in which bit i of `number` says whether the i-th atom that is not FUA is there."""
        if not self.cut.fua:
            return number
        free = [atom for atom in range(self.cut.atoms) if not self.fua >> atom & 1]
        return self.fua | sum(1 << free[bit] for bit in range(len(free)) if number >> bit & 1)

    def random(self, rng: Random, whole_writes: bool) -> int:
        bits = rng.getrandbits(self.count if whole_writes else self.cut.atoms) if self.cut.atoms else 0
        if whole_writes:
            bits = sum(self.group(write) for write in range(self.count) if bits >> write & 1)
        return bits | self.fua


class Stage(ABC):
    """One class of candidates over all cuts."""

    @abstractmethod
    def count(self, cut: Cut, writes: Writes) -> int:
        """How many candidates the cut has."""

    @abstractmethod
    def mask(self, choices: Choices, number: int) -> int:
        """Candidate `number` of them."""


class OnlyFlushed(Stage):
    """Nothing but what was certainly durable."""

    def count(self, cut: Cut, writes: Writes) -> int:  # noqa: ARG002
        return 1

    def mask(self, choices: Choices, number: int) -> int:  # noqa: ARG002
        return choices.fua


class OrderedPrefixes(Stage):
    """Every prefix of a device that keeps order: one that ends before a completed FUA write is impossible."""

    def count(self, cut: Cut, writes: Writes) -> int:
        return cut.atoms - _least(cut, writes) + 1

    def mask(self, choices: Choices, number: int) -> int:
        return (1 << _least(choices.cut, choices.writes) + number) - 1


def _least(cut: Cut, writes: Writes) -> int:
    return (writes.fua & (1 << cut.atoms) - 1).bit_length() if cut.fua else 0


class Prefixes(Stage):
    """Every prefix, and FUA writes behind it."""

    def count(self, cut: Cut, writes: Writes) -> int:
        return bisect_left(writes.edges, cut.atoms) + 1

    def mask(self, choices: Choices, number: int) -> int:
        return choices.first(number)


class OneDropped(Stage):
    def count(self, cut: Cut, writes: Writes) -> int:
        return bisect_left(writes.edges, cut.atoms)

    def mask(self, choices: Choices, number: int) -> int:
        return choices.without(number)


class OneAlone(OneDropped):
    def mask(self, choices: Choices, number: int) -> int:
        return choices.group(number) | choices.fua


class PairDropped(Stage):
    def count(self, cut: Cut, writes: Writes) -> int:
        n = bisect_left(writes.edges, cut.atoms)
        return n * (n - 1) // 2

    def mask(self, choices: Choices, number: int) -> int:
        # Pair (a, b) with a < b has the number b * (b - 1) / 2 + a.
        b = (1 + isqrt(8 * number + 1)) // 2
        return choices.without(number - b * (b - 1) // 2, b)


class TornLast(Stage):
    def count(self, cut: Cut, writes: Writes) -> int:
        return writes.tears[bisect_left(writes.edges, cut.atoms)]

    def mask(self, choices: Choices, number: int) -> int:
        return choices.torn(number)


class Whole(Stage):
    """Every subset, at the cuts with `least` to `most` atoms that may be there or not."""

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def count(self, cut: Cut, writes: Writes) -> int:  # noqa: ARG002
        return 1 << cut.free if self.least <= cut.free <= self.most else 0

    def mask(self, choices: Choices, number: int) -> int:
        return choices.subset(number)


def stages(model: Model, bound: int) -> list[Stage]:
    """The stages of a model, in order; random subsets of large epochs come after them."""
    if model is Model.FLUSHED:
        return [OnlyFlushed()]
    if model is Model.PREFIX:
        return [OrderedPrefixes()]
    listed: list[Stage] = [Prefixes(), OneDropped(), OneAlone(), PairDropped()]
    if model is Model.TORN:
        listed.append(TornLast())
    return [*listed, Whole(0, bound)]

"""Cuts right after each promise only: the few states that tell whether what was just promised is durable.

Of each such cut two disks are wanted: everything unflushed lost, and nothing lost. The model subset allows both. With
an honest flush behind the promise they are one and the same.
"""

from bisect import bisect_left
from typing import TYPE_CHECKING

from harness.crash.model import CrashState, Selection
from harness.crash.walker import Namer

if TYPE_CHECKING:
    from harness.crash.space import StateSpace


def after_promises(space: "StateSpace") -> Selection:
    """The states at the first cut after each promise, distinct by name and promises. Never complete."""
    picked = []
    stops = [epoch.stop for epoch in space.epochs]
    for promises, at in space.promised:
        epoch = space.epochs[bisect_left(stops, at)]
        before = [atom for atom in epoch.atoms if atom.event < at]
        everything = (1 << len(before)) - 1
        durable = sum(1 << n for n, atom in enumerate(before) if atom.fua)
        picked += [(epoch.index, kept, at + 1, promises) for kept in {durable, everything}]
    namer = Namer(space.epochs, space.cells)
    found: dict[tuple[int, int], CrashState] = {}
    for epoch_index, kept, cut, promises in sorted(picked):
        name = namer.name(epoch_index, kept)
        found.setdefault((name, promises), CrashState(epoch_index, cut, kept, promises, f"{name:032x}"))
    return Selection(sorted(found.values()), len(picked), complete=False)

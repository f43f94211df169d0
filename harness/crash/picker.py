"""Choosing states within a budget: stage by stage, spread evenly over the epochs, each distinct state once."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from math import gcd
from random import Random
from typing import TYPE_CHECKING

from harness.crash.model import CrashState, Model, Selection
from harness.crash.order import Choices, Stage, Whole, stages
from harness.crash.walker import Namer

if TYPE_CHECKING:
    from harness.crash.space import StateSpace


def spread(total: int, rng: Random) -> tuple[int, int]:
    """Start and step of a walk that visits 0..total-1 once each, and covers them evenly wherever it stops."""
    # The golden section: of all steps the one whose points leave the most even gaps.
    step = max(1, total * 618033988749895 // 10**15)
    while gcd(step, total) != 1:
        step += 1
    return rng.randrange(total), step


class Picker:
    """One run of StateSpace.states."""

    def __init__(self, space: "StateSpace", budget: int | None, seed: int) -> None:
        self._space = space
        self._budget = budget
        self._rng = Random(seed)
        # Where nearly all candidates are one and the same disk, a search for more of them must end.
        self._tries_left = 10_000 + 20 * budget if budget is not None else 0
        self._seen: set[tuple[int, int]] = set()
        self._found: dict[tuple[int, int], CrashState] = {}
        self._overflow = False

    def run(self) -> Selection:
        """Go through the stages until the budget is spent or nothing is left."""
        for stage in stages(self._space.model, self._space.bound):
            self._take(stage)
        if self._space.model in (Model.SUBSET, Model.TORN):
            self._take_large()
        states = sorted(self._found.values())
        complete = not self._overflow and len(self._seen) == self._space.allowed
        return Selection(states, len(self._seen), complete)

    @property
    def _missing(self) -> int:
        return max(0, (self._budget or 0) - len(self._found))

    @property
    def _done(self) -> bool:
        return self._budget is not None and (not self._missing or self._tries_left <= 0)

    def _take(self, stage: Stage) -> None:
        if self._done:
            return
        space = self._space
        upto = list(accumulate((stage.count(cut, space.writes(cut.epoch)) for cut in space.cuts), initial=0))
        total = upto[-1]
        if self._budget is None or total <= self._missing:
            self._offer(stage, upto, range(total))
            return
        start, step = spread(total, self._rng)
        at = 0
        while at < total and not self._done:
            size = min(total - at, self._batch)
            self._offer(stage, upto, [(start + (at + i) * step) % total for i in range(size)])
            at += size

    @property
    def _batch(self) -> int:
        """Some more than are missing, for some will turn out equal to others."""
        return self._missing + self._missing // 4 + 16

    def _offer(self, stage: Stage, upto: list[int], numbers: Iterable[int]) -> None:
        space = self._space
        picked = []
        at, choices = -1, None
        for number in numbers:
            index = bisect_right(upto, number) - 1
            if choices is None or index != at:
                cut = space.cuts[index]
                at, choices = index, Choices(cut, space.writes(cut.epoch))
            picked.append((index, stage.mask(choices, number - upto[index])))
        self._accept(picked)

    def _accept(self, picked: list[tuple[int, int]]) -> None:
        """Add the states that are new, in the order given, until the budget is spent."""
        self._tries_left -= len(picked)
        fresh = [pair for pair in dict.fromkeys(picked) if pair not in self._seen]
        self._seen.update(fresh)
        namer = Namer(self._space.epochs, self._space.cells)
        cuts = self._space.cuts
        # Neighbours in this order differ little, and a step costs what differs.
        walk = sorted((cuts[index].epoch, kept, index) for index, kept in fresh)
        names = {(index, kept): namer.name(epoch, kept) for epoch, kept, index in walk}
        for index, kept in fresh:
            cut, name = cuts[index], names[index, kept]
            if (name, cut.promises) in self._found:
                continue
            if self._budget is not None and not self._missing:
                self._overflow = True
                break
            self._found[name, cut.promises] = CrashState(cut.epoch, cut.cut, kept, cut.promises, f"{name:032x}")

    def _take_large(self) -> None:
        """Epochs beyond the bound: whole if the budget has room for all that they allow, else random subsets."""
        space = self._space
        large = [cut for cut in space.cuts if cut.free > space.bound]
        if self._budget is None or not large or self._done:
            return
        most = max(cut.free for cut in large)
        if most < 63 and sum(1 << cut.free for cut in large) <= min(self._budget, self._tries_left):
            self._take(Whole(space.bound + 1, most))
        else:
            self._take_random()

    def _take_random(self) -> None:
        space = self._space
        large = [index for index, cut in enumerate(space.cuts) if cut.free > space.bound]
        start, step = spread(len(large), self._rng)
        turn = 0
        while not self._done:
            picked = []
            for _ in range(self._batch):
                index = large[(start + turn * step) % len(large)]
                choices = Choices(space.cuts[index], space.writes(space.cuts[index].epoch))
                # In a large epoch, tearing every write at once hides what tearing none shows: take turns.
                whole_writes = space.model is Model.TORN and turn // len(large) % 2 == 0
                picked.append((index, choices.random(self._rng, whole_writes)))
                turn += 1
            self._accept(picked)

"""All states that a model allows for a log, and a choice among them."""

import mmap
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from harness.blocklog import BlockLog, Kind
from harness.crash.cells import Cells
from harness.crash.checkpoints import after_promises
from harness.crash.epochs import find_cuts, split_epochs
from harness.crash.model import CrashState, Cut, Epoch, Model, Selection
from harness.crash.order import OrderedPrefixes, Writes
from harness.crash.picker import Picker
from harness.crash.walker import Namer
from harness.errors import Misuse
from harness.extents import Extent, merge

Buffer = bytes | bytearray | mmap.mmap | memoryview


class StateSpace:
    """The states of `log` over the volume `base`, a buffer of the volume's bytes before the log.

    `unit`: bytes that the device writes atomically (model torn). `sector`: granularity of names and of the extents that
    a DiskBuilder returns. `bound`: an epoch with at most so many atoms is enumerated whole. Only cuts from `begin` to
    `end` (counted in events before the cut) are wanted; what happened earlier is applied. `base_data` names the extents
    outside which the base is known to be zeros, so that a sparse one stays sparse.

    Raises Misuse for a size that makes no sense, BadLog for a log that does not fit the volume.
    """

    def __init__(
        self,
        log: BlockLog,
        base: Buffer,
        *,
        model: Model = Model.SUBSET,
        unit: int = 4096,
        sector: int = 4096,
        bound: int = 10,
        begin: int = 0,
        end: int | None = None,
        base_data: Sequence[Extent] | None = None,
    ) -> None:
        _check_size("unit", unit)
        _check_size("sector", sector)
        view = memoryview(base).cast("B").toreadonly()
        self.model = model
        self.bound = bound
        self._log = log
        self._begin = begin
        self._end = len(log.events) if end is None else end
        self.epochs: list[Epoch] = split_epochs(log, len(view), unit if model is Model.TORN else None)
        self.cuts: list[Cut] = find_cuts(log, self.epochs, begin, self._end)
        self.cells = Cells(self.epochs, log.view, view, sector, base_data)
        self._writes: dict[int, Writes] = {}

    @cached_property
    def allowed(self) -> int:
        """How many states the model allows, before equal ones are taken together. Exact, and possibly enormous."""
        if self.model is Model.FLUSHED:
            return len(self.cuts)
        if self.model is Model.PREFIX:
            stage = OrderedPrefixes()
            return sum(stage.count(cut, self.writes(cut.epoch)) for cut in self.cuts)
        return sum(times << free for free, times in Counter(cut.free for cut in self.cuts).items())

    @cached_property
    def footprint(self) -> list[Extent]:
        """All that any event of the log touches: sorted, merged (offset, length) in whole sectors."""
        touched = [
            (event.offset, event.length) for event in self._log.events if event.kind in (Kind.WRITE, Kind.DISCARD)
        ]
        return merge(touched, self.cells.sector, self.cells.size)

    def writes(self, epoch: int) -> Writes:
        """The writes of an epoch as groups of its atoms."""
        known = self._writes.get(epoch)
        if known is None:
            known = self._writes[epoch] = Writes(self.epochs[epoch])
        return known

    @cached_property
    def promised(self) -> list[tuple[int, int]]:
        """(how many promises had been made, event index) of each promise between the first cut and the last."""
        made = enumerate((promise.at for promise in self._log.promises(self._end)), 1)
        return [(number, at) for number, at in made if at >= self._begin]

    def after_promises(self) -> Selection:
        """Only the cuts right after each promise: all that is unflushed there lost, and nothing lost."""
        return after_promises(self)

    def named(self, state: CrashState) -> CrashState:
        """The state with the name of its disk, whatever name it had."""
        return state._replace(name=f"{Namer(self.epochs, self.cells).name(state.epoch, state.kept):032x}")

    def states(self, budget: int | None, seed: int) -> Selection:
        """At most `budget` distinct states, in the order of the law; the same for the same seed, anywhere.

        None: every state of the epochs within the bound, and of the larger ones all that the law lists by class, but no
        random subsets; with thousands of unflushed writes in one epoch that is more than can be judged.
        """
        return Picker(self, budget, seed).run()


def _check_size(name: str, size: int) -> None:
    if size < 512 or size & (size - 1):
        raise Misuse(f"{name} {size} is not a possible size", f"give {name} as a power of two from 512")

"""A recording: the volume before, and everything its device was asked to do. All crash states come from it alone."""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import msgspec

from harness.blocklog import BlockLog, Kind
from harness.crash import CrashState, Model, StateSpace
from harness.machine.image import Image
from harness.settings import Settings
from harness.volume import VolumeSpec

Count = Annotated[int, msgspec.Meta(ge=0)]


class ChosenState(msgspec.Struct, frozen=True, kw_only=True):
    """A CrashState as messages and JSON carry it: `kept` is a bitmask in hex, bit n for the n-th unflushed write."""

    epoch: Count
    cut: Count
    kept: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+$")]
    promises: Count
    name: str

    @classmethod
    def of(cls, state: CrashState) -> "ChosenState":
        return cls(epoch=state.epoch, cut=state.cut, kept=f"{state.kept:x}", promises=state.promises, name=state.name)

    def state(self) -> CrashState:
        return CrashState(
            epoch=self.epoch, cut=self.cut, kept=int(self.kept, 16), promises=self.promises, name=self.name
        )


class Recording(NamedTuple):
    """`begin` and `end` are event indices: cuts before the workload's first event or after `end` are not asked for.

    `orderly` is true if the recording ends with a clean unmount, so that the whole log is a clean volume.
    """

    spec: VolumeSpec
    base: Image
    log: BlockLog
    begin: int
    end: int
    orderly: bool = True
    notes: tuple[str, ...] = ()

    def space(self, settings: Settings) -> StateSpace:
        """The states that `settings.model` allows for this recording."""
        return StateSpace(
            self.log,
            self.base.map,
            model=Model(settings.model),
            unit=settings.unit,
            sector=self.spec.sector_size,
            bound=settings.bound,
            begin=self.begin,
            end=self.end,
            base_data=self.base.nonzero_extents(),
        )

    def count(self, kind: Kind) -> int:
        return sum(1 for event in self.log.events[: self.end] if event.kind is kind)


def whole(space: StateSpace, recording: Recording) -> CrashState:
    """The disk with nothing lost: all of the log up to `end`. What the control is judged on."""
    epoch = space.epochs[-1]
    kept = (1 << sum(1 for atom in epoch.atoms if atom.event < recording.end)) - 1
    promises = len(recording.log.promises(recording.end))
    return CrashState(epoch=epoch.index, cut=recording.end, kept=kept, promises=promises, name="")


def walk(states: Iterable[CrashState]) -> list[CrashState]:
    """In the order in which a DiskBuilder goes through them; neighbours differ in few writes, so each is cheap."""
    return sorted(states, key=lambda state: (state.epoch, state.kept, state.cut))


def lost_atoms(space: StateSpace, state: CrashState) -> list[int]:
    """Indices into the epoch's atoms of the writes that happened before the cut and that this disk lost."""
    atoms = space.epochs[state.epoch].atoms
    return [n for n, atom in enumerate(atoms) if atom.event < state.cut and not state.kept >> n & 1]

"""One worker's tools: a disk image, a scratch device, an examiner. Recordings over one base come and go on them.

What a state costs is the difference to the state before it; so it is with the first state of the next recording.
"""

import mmap
from collections.abc import Sequence

from harness.crash import CrashState, DiskBuilder, StateSpace
from harness.extents import Extent
from harness.machine import mounts, zram
from harness.machine.image import Image
from harness.machine.scratch import LoopScratch, Scratch, ZramScratch
from harness.machine.tracing import Tracepoint
from harness.oracle.checks import Checker
from harness.oracle.examine import Examiner
from harness.trial.recording import Recording
from harness.trial.report import Deep
from harness.verdict import Finding
from harness.volume import VolumeSpec

_MAP_NORESERVE = 0x4000
_AUDIT_FACTOR = 16


class Bench:
    """Judges the states of one recording after another, each forward only, on disks of their own."""

    def __init__(
        self,
        spec: VolumeSpec,
        base: Image,
        workspace: mounts.Workspace,
        device: zram.ZramDevice | None,
        tracepoint: Tracepoint | None,
        *,
        fsck: bool,
    ) -> None:
        """`device` None: loop devices. To be called in the process that judges, which owns its mounts."""
        self._image = private_copy(base)
        extents = base.nonzero_extents()
        self._scratch: Scratch
        if device:
            self._scratch = ZramScratch(device, self._image, extents, tracepoint)
        else:
            self._scratch = LoopScratch(self._image, extents, spec.sector_size)
        self._examiner = Examiner(spec.file_system, spec.mount_options, workspace, run_fsck=fsck)
        self._builder: DiskBuilder | None = None
        self._changed: list[Extent] = []
        self._done = 0
        self._next_audit = 1

    def load(
        self, recording: Recording, space: StateSpace, states: Sequence[CrashState], checker: Checker | None
    ) -> None:
        """From now on `judge` means these states, sorted by epoch. The recording's base is the bench's."""
        self.unload()
        self._builder = DiskBuilder(space, self._image)
        self._scratch.cover(self._builder.footprint)
        self._states = states
        self._promises = recording.log.promises(recording.end)
        self._checker = checker

    def unload(self) -> None:
        """Make the image the base again, and let go of the recording."""
        if self._builder:
            self._changed += self._builder.reset()
            self._builder.release()
            self._builder = None

    def close(self) -> None:
        self.unload()
        self._scratch.close()

    def take_deep(self) -> list[Deep]:
        """Nothing: this bench judges first crashes alone."""
        return []

    def judge(self, index: int) -> list[Finding]:
        """Everything wrong with state `index`. Raises InternalError for a state of an earlier epoch than the last."""
        state = self._states[index]
        assert self._builder is not None
        changed = [*self._changed, *self._builder.build(state)]
        self._changed = []
        path = self._scratch.put(changed)
        # The second put is the first that relies on what was traced; after that, ever more rarely is enough.
        if self._done == self._next_audit:
            self._scratch.audit()
            self._next_audit *= _AUDIT_FACTOR
        self._done += 1
        made = self._promises[: state.promises]
        return self._examiner.examine(path, self._scratch.name, made, self._checker)


def private_copy(base: Image) -> mmap.mmap:
    """The base's bytes in private memory, for a builder to change. Costs what is not zero, not the volume's size."""
    image = mmap.mmap(-1, base.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    for offset, length in base.nonzero_extents():
        image[offset : offset + length] = base.read(offset, length)
    return image

"""Building the disks of crash states, one after the other, in place."""

import mmap

from harness.crash.cells import BASE
from harness.crash.model import CrashState
from harness.crash.space import StateSpace
from harness.crash.walker import Walker
from harness.errors import InternalError
from harness.extents import Extent, merge


class DiskBuilder:
    """One for each worker. `image` is a writable buffer of the volume's size that holds the base; it is mutated.

    What a build costs depends on what changes since the one before it, not on the log or the volume.
    """

    def __init__(self, space: StateSpace, image: mmap.mmap | bytearray | memoryview) -> None:
        self._space = space
        self._walker = Walker(space.epochs, space.cells)
        self._image = memoryview(image).cast("B")
        if len(self._image) != space.cells.size:
            raise InternalError(f"an image of {len(self._image)} bytes for a volume of {space.cells.size}")

    @property
    def footprint(self) -> list[Extent]:
        """All that any event of the log touches: sorted, merged (offset, length) in whole sectors."""
        return self._space.footprint

    def build(self, state: CrashState) -> list[Extent]:
        """Make the image this state's disk; returns what changed since the previous build, merged, in whole sectors.

        Raises InternalError for a state of an earlier epoch than the previous one.
        """
        cells, image = self._space.cells, self._image
        changes = self._walker.move(state.epoch, state.kept)
        for cell, source in changes.items():
            cells.fill(image, cell, source)
        return merge([cells.extent(cell) for cell in changes], cells.sector, cells.size)

    def differences(self) -> list[Extent]:
        """Where the image that was built last may differ from the base: merged, in whole sectors."""
        cells = self._space.cells
        return merge([cells.extent(cell) for cell in self._touched()], cells.sector, cells.size)

    def reset(self) -> list[Extent]:
        """Make the image the base again, for a builder of another log; returns what changed. This one is then over."""
        for cell in self._touched():
            self._space.cells.fill(self._image, cell, BASE)
        return self.differences()

    def _touched(self) -> list[int]:
        return [cell for cell, source in self._walker.now.items() if source != BASE]

    def release(self) -> None:
        """Let go of the image, so that its mmap can be closed."""
        self._image.release()

"""Building the disks of crash states, one after the other, in place."""

import mmap

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

    def release(self) -> None:
        """Let go of the image, so that its mmap can be closed."""
        self._image.release()

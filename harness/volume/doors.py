"""How a process that we did not write serves a volume to the harness: the doors for engines.

Whatever the door, our recording engine stands in front: so each request is recorded, can be made to fail, and has its
place among marks and promises. The engine behind the door is what is killed, stopped and upgraded.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from harness.engine.backends import Backend, FileBackend
from harness.engine.nbd_client import NbdBackend


class Door(Protocol):
    """Leads to whoever keeps the blocks of a volume."""

    @property
    def keep(self) -> frozenset[int]:
        """Descriptors of ours that it needs in the front's process."""

    def open(self, moves: int) -> Backend:
        """Called once, in the front's process. `moves`: see NbdBackend. Raises OSError where nobody serves."""


class NbdSocket(msgspec.Struct, frozen=True):
    """An engine that speaks NBD on a unix socket. For the seconds see NbdBackend."""

    path: str
    export: str = ""
    grace_seconds: float = 0.0
    answer_seconds: float = 30.0
    keep: frozenset[int] = frozenset()

    def open(self, moves: int) -> NbdBackend:
        """See Door."""
        return NbdBackend(
            self.path,
            export=self.export,
            grace_seconds=self.grace_seconds,
            answer_seconds=self.answer_seconds,
            moves=moves,
        )


class ExportedFile(msgspec.Struct, frozen=True):
    """An engine that shows the volume as one file, as qemu-storage-daemon does by its own FUSE export."""

    path: str
    keep: frozenset[int] = frozenset()

    def open(self, moves: int) -> FileBackend:  # noqa: ARG002  (a file moves between two requests alone)
        """See Door."""
        return FileBackend(self.path)


class Blocks(msgspec.Struct, frozen=True):
    """An engine in Python: `make` is called in the front's process, and serves there over our FUSE transport."""

    make: Callable[[], Backend]
    keep: frozenset[int] = frozenset()

    def open(self, moves: int) -> Backend:  # noqa: ARG002  (it is not moved)
        """See Door."""
        return self.make()

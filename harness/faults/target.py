"""What a fault is injected into."""

from typing import TYPE_CHECKING

import msgspec

from harness.engine import Engine
from harness.volume.disks import PlainDisk, ServedDisk
from harness.volume.spec import VolumeSpec

if TYPE_CHECKING:
    from harness.faults.injection import Injection


class Target(msgspec.Struct, kw_only=True, eq=False):
    """A disk, where its volume is mounted (empty: it is not), and the process that writes to it (0: not known).

    One injection at a time. `injection` is the last one, in force or healed.
    """

    disk: PlainDisk | ServedDisk
    mount: str = ""
    writer: int = 0
    injection: "Injection | None" = None

    @property
    def spec(self) -> VolumeSpec:
        return self.disk.spec

    @property
    def served(self) -> ServedDisk | None:
        """The disk, if an engine serves it."""
        return self.disk if isinstance(self.disk, ServedDisk) else None

    @property
    def engine(self) -> Engine | None:
        """The engine, if there is one and it lives."""
        served = self.served
        return served.engine if served and served.device and served.engine.alive else None

"""Faults of the device: the engine does something else than it was asked for, at the very request."""

import errno
from typing import Annotated, ClassVar

import msgspec

from harness.engine.rules import POSSIBLE, Action, Rule
from harness.errors import Misuse
from harness.faults.fault import Back, Claim, SingleFault
from harness.faults.target import Target

_MIB = 1 << 20

Times = Annotated[int, msgspec.Meta(ge=0)]
Size = Annotated[int, msgspec.Meta(ge=1)]


class DeviceFault(SingleFault, frozen=True):
    """A rule of the engine. `count`: on so many requests in a row from the address on; 0: on all of them."""

    count: Times = 1

    action: ClassVar[Action]
    errno: ClassVar[int] = errno.EIO

    def __post_init__(self) -> None:
        """Raises Misuse for a request that cannot have this fault."""
        super().__post_init__()
        request = self.at.request or self.request
        possible = POSSIBLE[self.action]
        if request not in possible:
            raise Misuse(f"{self}: a {request} cannot have that", f"{self.name} is for: " + ", ".join(sorted(possible)))
        if self.at.on == "mark" and self.at.n > 1:
            raise Misuse(f"{self}: requests are counted since the first such mark", "use one that is said once")

    @property
    def by_engine(self) -> bool:
        return True

    def claims(self) -> tuple[Claim, ...]:
        """See SingleFault."""
        first = self.at.n if self.at.request else 1
        last = first + self.count - 1 if self.count else float("inf")
        return (Claim(self.at.request or self.request, first, last, self.where, self.at.start),)

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        rule = self.counting(self.action, target, awaited)
        return [msgspec.structs.replace(rule, errno=self.errno, count=self.count)]


class Eio(DeviceFault, frozen=True, tag="eio"):
    """The request fails with EIO and is not done: a write, a flush, a read or a discard."""

    action = "error"


class Enospc(DeviceFault, frozen=True, tag="enospc"):
    """The same with ENOSPC: a thin pool that is full. Only writes can fail in this way."""

    action = "error"
    errno = errno.ENOSPC


class ShortWrite(DeviceFault, frozen=True, tag="short"):
    """Half of the write (in whole sectors) reaches the medium, then EIO."""

    action = "short"


class Drop(DeviceFault, frozen=True, tag="drop"):
    """The write or discard is acknowledged, and lost."""

    action = "drop"
    gives_back = Back.VOLUME


class BitFlip(DeviceFault, frozen=True, tag="flip"):
    """The write is done with the lowest bit of its byte number `byte` inverted."""

    byte: Times = 0

    action = "flip"
    gives_back = Back.VOLUME

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        return [msgspec.structs.replace(rule, shift=self.byte) for rule in super().rules(target, awaited)]


class Misdirect(DeviceFault, frozen=True, tag="misdirect"):
    """The write is done `shift` bytes further on: whole sectors, at most a quarter of the device."""

    shift: Size = _MIB

    action = "misdirect"

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        return [msgspec.structs.replace(rule, shift=self.shift) for rule in super().rules(target, awaited)]


class LateEio(DeviceFault, frozen=True, tag="late"):
    """The write is acknowledged and lost, and the next flush fails with EIO: a write-back cache."""

    action = "late"


class LyingFlush(DeviceFault, frozen=True, tag="lie"):
    """The flush is acknowledged, and not done. What it was to make durable is lost with the next power cut."""

    action = "lie"
    request = "flush"
    gives_back = Back.VOLUME


class Delay(DeviceFault, frozen=True, tag="delay"):
    """The request is done after `seconds`, and all that come meanwhile wait behind it."""

    count: Times = 0
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 0.1

    action = "delay"
    gives_back = Back.VOLUME

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        return [msgspec.structs.replace(rule, seconds=self.seconds) for rule in super().rules(target, awaited)]


class Rate(DeviceFault, frozen=True, tag="rate"):
    """Each request takes as long as it has bytes: a device with this throughput."""

    count: Times = 0
    bytes_per_second: Size = _MIB

    action = "delay"
    gives_back = Back.VOLUME

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        return [
            msgspec.structs.replace(rule, seconds_per_mib=_MIB / self.bytes_per_second)
            for rule in super().rules(target, awaited)
        ]


class Hang(DeviceFault, frozen=True, tag="hang"):
    """The request is not answered until the heal, and is done then. Others are served."""

    action = "hang"
    gives_back = Back.VOLUME


class ReadOnly(DeviceFault, frozen=True, tag="read-only"):
    """Every write and discard is refused. To the file system that is EIO: the block layer knows no EROFS."""

    count: Times = 0

    action = "error"
    errno = errno.EROFS

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        writes = super().rules(target, awaited)
        return [msgspec.structs.replace(writes[0], on="discard"), *writes]

    def claims(self) -> tuple[Claim, ...]:
        """See SingleFault."""
        (writes,) = super().claims()
        return (writes, writes._replace(on="discard"))

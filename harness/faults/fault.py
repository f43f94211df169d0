"""What every fault is: a name, an address, whether this target can have it, inject, heal, and how often it struck.

A fault is data and can be in a plan. What becomes of it in one target is kept by that target's injection.
"""

import enum
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import msgspec

from harness.engine.rules import Action, Request, Rule
from harness.errors import Missing, Misuse
from harness.extents import Extent
from harness.faults.address import At, Place, show_address, show_seconds
from harness.faults.injection import Injection
from harness.faults.places import extents_of, missing_place
from harness.faults.target import Target
from harness.settings import show_size


class Back(enum.IntEnum):
    """What works again once a fault is healed, without another mount or attachment."""

    NOTHING = 0
    DEVICE = 1
    """The device answers a read. The file system may have given up."""
    VOLUME = 2
    """The volume takes a write and its fsync."""


class Fault(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="fault"
):
    """One fault, or several at once (compose)."""

    @property
    @abstractmethod
    def parts(self) -> "tuple[SingleFault, ...]":
        """The faults that this is made of: itself alone, or those that were composed."""

    @abstractmethod
    def __str__(self) -> str:
        """As parse_fault reads it: `eio@file:data.bin#2`, `remove@op:7`, `delay@write:1,seconds=0.5`."""

    @property
    def back(self) -> Back:
        """What can be expected of the target after the heal."""
        return min(part.gives_back for part in self.parts)

    @abstractmethod
    def availability(self, target: Target) -> Missing | None:
        """What this target lacks for it; None: it can have it."""

    def inject(self, target: Target) -> None:
        """Let it strike as its address says, or at once. Returns when it is armed: a thread of ours awaits its time.

        Raises RequirementMissing, Misuse for an address that is not on this device or an injection that is in force,
        EngineLost; and what its deed raises, where that is done at once.
        """
        Injection.begin(target, self.parts)

    def heal(self, target: Target) -> None:
        """Undo what can be undone, and let go of what was held. The counts stay. A second time: nothing is done.

        Raises TrialUnknown where the deed itself hangs, OSError where it cannot be undone, Misuse for what was never
        injected.
        """
        self.injection_in(target).heal()

    def hits(self, target: Target) -> int:
        """How often it struck since it was injected: of several at once the least."""
        injection = self.injection_in(target)
        return min(injection.part(part).hits for part in self.parts)

    def await_hit(self, target: Target, seconds: float) -> bool:
        """Wait, at most so long, until it has struck. False: it has not, or cannot any more (the engine is dead)."""
        injection = self.injection_in(target)
        return all(injection.await_hit(part, seconds) for part in self.parts)

    def injection_in(self, target: Target) -> Injection:
        """What became of it there. Raises Misuse for a target that has never had a fault."""
        if target.injection is None:
            raise Misuse(f"{self} was not injected into {target.disk.label or 'this disk'}", "call inject first")
        return target.injection


class Claim(NamedTuple):
    """Requests about which a fault decides: numbers `first` to `last` of their kind. `on` is "mark …" for a mark."""

    on: str
    first: int
    last: float
    where: Place | None
    since: At | None

    @property
    def everything(self) -> bool:
        """All requests of the kind, for ever."""
        return self[1:] == (1, float("inf"), None, None)


class SingleFault(Fault, frozen=True):
    """One fault. `at` says when it strikes, `where` which requests count. Its class is its name."""

    at: At = At.once
    where: Place | None = None

    request: ClassVar[Request] = "write"
    """What it is about, or triggered by, where its address does not say."""
    gives_back: ClassVar[Back] = Back.DEVICE
    takes_device: ClassVar[bool] = False
    """After it the device answers nothing, or nothing but errors."""
    needs_mount: ClassVar[bool] = False
    needs_engine: ClassVar[bool] = False
    """Whatever its address is: it is about the engine."""
    keeps_hold: ClassVar[bool] = False
    """What its address held stays held until the heal."""

    def __post_init__(self) -> None:
        """Raises Misuse for an address that has no meaning."""
        if self.where and self.at.request in (None, "flush"):
            cause = f"{self.name}@{self.where}: only a write, read or discard has a place, not {self.at}"
            raise Misuse(cause, f"count them: At.write(1), {self.name}@{self.where}#1")

    @property
    def name(self) -> str:
        return str(type(self).__struct_config__.tag)

    @property
    def parts(self) -> "tuple[SingleFault, ...]":
        """See Fault."""
        return (self,)

    @property
    def by_engine(self) -> bool:
        """Whether the engine carries it out by itself, at the very request. Else the harness does."""
        return False

    def __str__(self) -> str:
        """See Fault."""
        address = show_address(self.at, self.where)
        options = [
            f",{field.name}={_shown(getattr(self, field.name))}"
            for field in msgspec.structs.fields(self)
            if field.name not in ("at", "where") and getattr(self, field.name) != field.default
        ]
        return self.name + (f"@{address}" if address else "") + "".join(options)

    def availability(self, target: Target) -> Missing | None:
        """See Fault. Raises Misuse where a mount is needed and there is none."""
        if self.needs_mount and not target.mount:
            raise Misuse(f"{self} is a fault of a mounted volume", "Target(mount=path)")
        if target.served is None and (self.needs_engine or self.by_engine or self.at.request or self.at.words):
            why = f"it carries out {self}, or says when"
            return Missing("an engine below the volume", why, "serve the volume by a ServedDisk")
        return missing_place(self.where, target)

    def claims(self) -> tuple[Claim, ...]:
        """The requests, or the mark, about which it decides. Where two faults decide, only one can."""
        if self.at.request:
            return (Claim(self.at.request, self.at.n, self.at.n, self.where, self.at.start),)
        return (Claim(f"mark {self.at.words}", self.at.n, self.at.n, None, None),) if self.at.words else ()

    def rules(self, target: Target, awaited: str) -> list[Rule]:  # noqa: ARG002
        """What the engine is told to do; `awaited` is the mark that we say when a time or condition has come."""
        return []

    def refusals(self, target: Target) -> list[Extent] | None:  # noqa: ARG002
        """Where the engine refuses everything from the instant of the deed on, empty for everywhere. None: nowhere."""
        return None

    def act(self, target: Target) -> None:
        """What the harness does to the target. Raises OSError, HarnessError."""

    def undo(self, target: Target) -> None:
        """Take it back, as far as it was done."""

    def counting(self, action: Action, target: Target, awaited: str) -> Rule:
        """A rule for the requests of the address: those since it, where that is no request."""
        start = self.at.start
        return Rule(
            action=action,
            on=self.at.request or self.request,
            nth=self.at.n if self.at.request else 1,
            since="" if start is None else start.words or awaited,
            extents=extents_of(self.where, target),
        )

    def striking(self, action: Action, target: Target, awaited: str) -> Rule:
        """A rule for the very request or mark that the address is."""
        if self.at.request:
            return self.counting(action, target, awaited)
        nth = self.at.n if self.at.on == "mark" else 1
        return Rule(action=action, on="mark", text=self.at.words, nth=nth)


def _shown(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return show_size(value) if isinstance(value, int) else show_seconds(value)

"""Several faults at once, and those that cannot be."""

from itertools import combinations

from harness.errors import Missing, Misuse
from harness.faults.catalogue import AnySingle
from harness.faults.fault import Claim, Fault, SingleFault
from harness.faults.kills import EngineKill, EngineStop
from harness.faults.target import Target


class Several(Fault, frozen=True, tag="several"):
    """Faults that are in one target at the same time. Made by compose, or read from JSON."""

    faults: tuple[AnySingle, ...]

    def __post_init__(self) -> None:
        """Raises Misuse for two that contradict each other; it names both."""
        if not self.faults:
            raise Misuse("a composition of no faults", "name at least one")
        for one, other in combinations(self.faults, 2):
            why = _contradiction(one, other) or _contradiction(other, one)
            if why:
                raise Misuse(
                    f"{one} and {other} contradict each other: {why}", "leave out one, or give it another address"
                )

    @property
    def parts(self) -> tuple[SingleFault, ...]:
        """See Fault."""
        return self.faults

    def __str__(self) -> str:
        """See Fault."""
        return " + ".join(map(str, self.faults))

    def availability(self, target: Target) -> Missing | None:
        """See Fault. The first thing that is missing; inject tells all."""
        return next((missing for part in self.parts if (missing := part.availability(target))), None)


def _contradiction(one: SingleFault, other: SingleFault) -> str:
    if one.takes_device and other.takes_device:
        return "each of them takes the device away"
    for claim in one.claims():
        for rival in other.claims():
            if _same(claim, rival):
                return f"both decide about {_wording(claim, rival)}"
            if one.takes_device and _same(claim._replace(last=float("inf")), rival):
                return f"after {one.name} no further {rival.on} comes"
    if one.takes_device and one.at.on == "once" and not one.where:
        return _never_after(one, other)
    return ""


def _same(claim: Claim, rival: Claim) -> bool:
    if claim.on != rival.on:
        return False
    if claim.everything or rival.everything:
        return True
    alike = (claim.where, claim.since) == (rival.where, rival.since)
    return alike and claim.first <= rival.last and rival.first <= claim.last


def _wording(claim: Claim, rival: Claim) -> str:
    if claim.on.startswith("mark"):
        return f"the {claim.on}"
    return f"{claim.on} {max(claim.first, rival.first)}" + (f" to {claim.where}" if claim.where else "")


def _never_after(gone: SingleFault, other: SingleFault) -> str:
    """Without a device what waits for a request waits for ever; without an engine what waits for a mark does too."""
    deaf = isinstance(gone, EngineKill | EngineStop)
    for claim in other.claims():
        if deaf or not claim.on.startswith("mark"):
            return f"after {gone.name}, which is done at once, no {claim.on} comes"
    return ""

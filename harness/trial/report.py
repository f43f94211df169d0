"""What came of one trial: the verdict, what was judged of what is allowed, each finding with its best state."""

import re
from typing import NamedTuple

import msgspec

from harness.crash import CrashState, show_count
from harness.verdict import Finding, Verdict, worst


class Found(msgspec.Struct, kw_only=True):
    """One distinct finding: the state that shows it with the fewest lost writes, and how many states show it."""

    finding: Finding
    state: CrashState
    lost: int
    """Writes of the cut's epoch that the state lost."""
    states: int = 1
    reproduced: str = ""
    """How often it was seen again on a fresh disk: 3/3."""
    bundle: str = ""
    """Path of its bundle, once it is saved."""


class Report(msgspec.Struct, kw_only=True):
    """The result of judging. `verdict` is INTACT only if every selected state was judged and none failed."""

    model: str
    seed: int
    allowed: int
    """States (disk, promises) that the model allows, before de-duplication. May be astronomically large."""
    selected: int
    """Distinct states chosen for judgement."""
    complete: bool
    """Whether the selection is all that the model allows."""
    judged: int = 0
    unknown: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    writes: int = 0
    flushes: int = 0
    promises: int = 0
    found: list[Found] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        verdicts = [found.finding.verdict for found in self.found]
        all_judged = self.judged == self.selected > 0 and not self.interrupted
        verdicts.append(Verdict.INTACT if all_judged and not self.unknown else Verdict.UNKNOWN)
        return worst(verdicts)

    @property
    def rate(self) -> float:
        """Judged states per second."""
        return self.judged / self.seconds if self.seconds else 0.0

    @property
    def scope(self) -> str:
        """What the verdict rests on, in words that never claim more than was done."""
        if self.judged == self.selected and self.complete:
            return f"all {self.judged} distinct states that the {self.model} model allows"
        allowed = show_count(self.allowed)
        return f"{self.judged} distinct states of {allowed} that the {self.model} model allows (a sample)"


class Signature(NamedTuple):
    """What makes two findings one: kind, verdict, and the summary with numbers and addresses blanked."""

    kind: str
    verdict: str
    summary: str


_NUMBER = re.compile(r"0x[0-9a-f]+|\d+|zram\w*|loop\w*")
_LIST = re.compile(r"(['\"]?N['\"]?)(?:, ?['\"]?N['\"]?)+")


def signature(finding: Finding) -> Signature:
    """Numbers become N, and a list of them one N: `lost [3, 4, 5]` and `lost [7]` are one finding."""
    return Signature(finding.kind, finding.verdict, _LIST.sub(r"\1", _NUMBER.sub("N", finding.summary)))


class Tally:
    """Collects findings while states are being judged, one entry a signature, the best state kept."""

    def __init__(self) -> None:
        self._by_signature: dict[Signature, Found] = {}

    def add(self, finding: Finding, state: CrashState, lost: int) -> None:
        """Count a finding of `state`, which lost that many writes; keep the state if it shows it best."""
        key = signature(finding)
        new = Found(finding=finding, state=state, lost=lost)
        old = self._by_signature.setdefault(key, new)
        if old is not new:
            new.states = old.states + 1
            if _badness(new) < _badness(old):
                self._by_signature[key] = new
            else:
                old.states += 1

    @property
    def count(self) -> int:
        return len(self._by_signature)

    def found(self) -> list[Found]:
        """Findings, corrupted before unknown, then by how many states show them."""
        return sorted(
            self._by_signature.values(),
            key=lambda f: (f.finding.verdict is not Verdict.CORRUPTED, -f.states, f.finding.summary),
        )


def _badness(found: Found) -> tuple[int, int, int, int]:
    state = found.state
    return (found.lost, state.epoch, state.cut, state.kept)

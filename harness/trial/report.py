"""What came of one trial: the verdict, what was judged of what is allowed, each finding with its best state."""

import re
from typing import NamedTuple

import msgspec

from harness.blocklog import BlockLog
from harness.crash import CrashState, show_count
from harness.trial.recording import ChosenState, Recording
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
    deeper: Recording | None = None
    """Where the power went a second time, during recovery: the recording of both crashes, to which `state` belongs."""


class DeepFinding(msgspec.Struct, frozen=True, array_like=True):
    """What is wrong after a second crash: the log of both crashes in one, and the state of it."""

    first_cut: int
    """The power went first after so many events of the workload's log."""
    finding: Finding
    log: bytes
    begin: int
    end: int
    state: ChosenState
    lost: int
    states: int

    def found(self, first: Recording) -> "Found":
        """As an entry of the report; `first` is the recording whose recovery it is about."""
        note = f"second crash: the power went after {self.first_cut} events of the workload, and again in the recovery"
        both = first._replace(log=BlockLog.parse(self.log), begin=self.begin, end=self.end, notes=(*first.notes, note))
        return Found(finding=self.finding, state=self.state.state(), lost=self.lost, states=self.states, deeper=both)


class Deep(msgspec.Struct, frozen=True, array_like=True):
    """What judging the recovery of one crash state came to. `allowed` is hex: it may be longer than a message's int."""

    judged: int
    allowed: str
    complete: bool
    findings: list[DeepFinding]


class Recoveries(msgspec.Struct, kw_only=True):
    """Crash states of the recoveries of crash states (depth 2), counted over all of these."""

    judged: int = 0
    allowed: int = 0
    complete: bool = True

    @property
    def scope(self) -> str:
        """The same for the second crash."""
        if self.complete:
            return f"and all {self.judged} of their recoveries"
        return f"and {self.judged} of {show_count(self.allowed)} of their recoveries (a sample)"


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
    recoveries: "Recoveries | None" = None
    """With depth 2: what became of the recoveries of the crash states."""
    found: list[Found] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        verdicts = [found.finding.verdict for found in self.found]
        all_judged = self.judged == self.selected > 0 and not self.interrupted
        verdicts.append(Verdict.INTACT if all_judged and not self.unknown else Verdict.UNKNOWN)
        return worst(verdicts)

    def add_recovery(self, deep: Deep, first: Recording | None, tally: "Tally") -> None:
        """Count what became of the recovery of one of `first`'s crash states, and note what was found in it."""
        into = self.recoveries = self.recoveries or Recoveries()
        into.judged += deep.judged
        into.allowed += int(deep.allowed, 16)
        into.complete &= deep.complete
        for finding in deep.findings:
            assert first is not None
            self.unknown += finding.finding.verdict is Verdict.UNKNOWN
            tally.take(finding.found(first))

    @property
    def rate(self) -> float:
        """Judged states per second."""
        return self.judged / self.seconds if self.seconds else 0.0

    @property
    def scope(self) -> str:
        """What the verdict rests on, in words that never claim more than was done."""
        if self.judged == self.selected and self.complete:
            scope = f"all {self.judged} distinct states that the {self.model} model allows"
        else:
            allowed = show_count(self.allowed)
            scope = f"{self.judged} distinct states of {allowed} that the {self.model} model allows (a sample)"
        return f"{scope}, {self.recoveries.scope}" if self.recoveries else scope


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


_RULE = re.compile(r"\[rule ([a-z0-9-]+)\]")


def group(finding: Finding) -> tuple[str, str]:
    """What findings of many plans are told apart by: the kind, and the rule that was broken, else the summary's shape.

    Paths and versions differ from plan to plan; the rule is what the file system did wrong.
    """
    rule = _RULE.search(finding.summary)
    return finding.kind, rule[1] if rule else signature(finding).summary


class Tally:
    """Collects findings while states are being judged, one entry a signature, the best state kept."""

    def __init__(self) -> None:
        self._by_signature: dict[tuple[Signature, bool], Found] = {}

    def add(self, finding: Finding, state: CrashState, lost: int) -> None:
        """Count a finding of `state`, which lost that many writes; keep the state if it shows it best."""
        self.take(Found(finding=finding, state=state, lost=lost))

    def take(self, new: Found) -> None:
        """Count what was found after a first or second crash; these two are told apart."""
        key = (signature(new.finding), new.deeper is not None)
        old = self._by_signature.setdefault(key, new)
        if old is not new:
            states = old.states + new.states
            best = self._by_signature[key] = min(old, new, key=_badness)
            best.states = states

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

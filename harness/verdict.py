"""Verdicts, findings and exit codes: the words in which every result of the harness is given. No I/O."""

import enum
from collections.abc import Iterable

import msgspec


class ExitCode(enum.IntEnum):
    """What the process exits with; each has one meaning, so that CI can tell "corrupted" from "could not run"."""

    INTACT = 0
    CORRUPTED = 1
    MISUSE = 2
    UNKNOWN = 3
    REQUIREMENT_MISSING = 4
    INTERNAL = 5
    INTERRUPTED = 130


class Verdict(enum.StrEnum):
    """INTACT only for what was judged. What could not be judged is UNKNOWN, and fails CI."""

    INTACT = "INTACT"
    UNKNOWN = "UNKNOWN"
    CORRUPTED = "CORRUPTED"

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode[self.name]


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several verdicts: CORRUPTED over UNKNOWN over INTACT. Of none: UNKNOWN, for nothing was judged."""
    order = list(Verdict)
    return max(verdicts, key=order.index, default=Verdict.UNKNOWN)


class FindingKind(enum.StrEnum):
    """One vocabulary for every scenario and report."""

    LOST_ACKED = "LOST_ACKED"
    LOST_CLEAN = "LOST_CLEAN"
    LOST_UNACKED = "LOST_UNACKED"
    TRUNCATED = "TRUNCATED"
    TORN = "TORN"
    STALE = "STALE"
    FOREIGN = "FOREIGN"
    ZEROED = "ZEROED"
    UNSTABLE = "UNSTABLE"
    CACHE_ONLY = "CACHE_ONLY"
    UNAVAILABLE = "UNAVAILABLE"
    STUCK = "STUCK"
    FALSE_SUCCESS = "FALSE_SUCCESS"
    SPLIT = "SPLIT"
    BLAST = "BLAST"
    META = "META"
    CHECK = "CHECK"
    HARNESS = "HARNESS"

    @property
    def meaning(self) -> str:
        return _MEANING[self]


_MEANING = {
    FindingKind.LOST_ACKED: "fsynced or acknowledged, gone",
    FindingKind.LOST_CLEAN: "closed, orderly detach, gone",
    FindingKind.LOST_UNACKED: "never promised, gone (allowed; shown)",
    FindingKind.TRUNCATED: "a right prefix, too short",
    FindingKind.TORN: "part new, part old inside one atomic unit",
    FindingKind.STALE: "an older acknowledged version",
    FindingKind.FOREIGN: "another file's or tenant's bytes",
    FindingKind.ZEROED: "zeros where data was promised",
    FindingKind.UNSTABLE: "two reads differ",
    FindingKind.CACHE_ONLY: "right through the page cache, wrong on the medium",
    FindingKind.UNAVAILABLE: "EIO or no mount, though the data may still be there",
    FindingKind.STUCK: "no final state by the deadline",
    FindingKind.FALSE_SUCCESS: "a call said yes and lied",
    FindingKind.SPLIT: "two live attachments or engines",
    FindingKind.BLAST: "a fault reached beyond its scope",
    FindingKind.META: "the file system's own check complains",
    FindingKind.CHECK: "the user's check said no, in its own words",
    FindingKind.HARNESS: "the harness could not judge this state",
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with one recovered disk.

    `verdict` is CORRUPTED, or UNKNOWN where the state could not be judged. `summary` is one line; `output` is what the
    check, fsck or mount said; `kernel` holds the kernel's lines for the device since the mount.
    """

    kind: FindingKind
    summary: str
    verdict: Verdict = Verdict.CORRUPTED
    output: str = ""
    kernel: tuple[str, ...] = ()


def unjudged(summary: str, output: str = "", kernel: tuple[str, ...] = ()) -> Finding:
    """What could not be judged, and why: UNKNOWN, never intact."""
    return Finding(kind=FindingKind.HARNESS, verdict=Verdict.UNKNOWN, summary=summary, output=output, kernel=kernel)

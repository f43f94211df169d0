"""What the store keeps, as records: runs, trials, findings, and the signature that makes many findings one bug."""

import msgspec
import xxhash

from harness.verdict import FindingKind, Verdict


class BugSignature(msgspec.Struct, frozen=True, kw_only=True):
    """What two findings have in common if they are one bug. What varies from run to run is not in it."""

    file_system: str
    """With what changes its promises: `ext4`, `ext4 -o data=journal`, `ext4 fault lying-flush`."""
    rule: str
    """The kind, and the contract's rule or the shape of what the check said: `LOST_ACKED durable-name`."""
    shape: str
    """Of the smallest plan that shows it: `creat write rename fsync`; of a program: its command; of a test: its id."""
    lost: str
    """The kinds of the lost blocks, sorted and joined by `, `; `nothing` where none was lost."""

    @property
    def id(self) -> str:
        """Ten hex digits; equal on every machine."""
        return xxhash.xxh3_64_hexdigest(msgspec.json.encode(self))[:10]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was judged: a plan, a recording, a litmus cell, a test."""

    key: str
    """Names its content: a plan's id, a test's node id, the digest of a recording's log."""
    text: str
    """For people: the plan in one line, the command, the test's name."""
    guarantee: str
    """What was to be kept: `ext4 keeps what it owes any plan`, a scenario's name, a check's command."""
    file_system: str
    verdict: Verdict
    expected: Verdict = Verdict.INTACT
    """A canary, or a scenario that convicts a planted bug, expects CORRUPTED."""
    judged: int = 0
    allowed: str = ""
    """For people: `212`, `about 2^40`."""
    complete: bool = False
    recoveries: int = 0
    seconds: float = 0.0


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of one trial."""

    signature: BugSignature
    kind: FindingKind
    verdict: Verdict
    summary: str
    states: int = 1
    lost: int = 0
    """Writes that its best state lost."""
    operations: int = 0
    """Of its plan, if it has one."""
    tries: int = 0
    """How often it was tried again, and how often it came again: the reproduction rate."""
    again: int = 0
    bundle: str = ""
    """Path of the bundle, relative to the reports directory."""
    size: int = 0
    """Of the bundle, in bytes."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the harness."""

    kind: str
    """The command: `check`, `plan`, `judge`, `enumerate`, `litmus`, `run`, `strike`, `soak`, `rejudge`, `pytest`."""
    command: str
    """What was typed, ready to be pasted."""
    seed: int = 0
    settings: str = "{}"
    """As JSON."""

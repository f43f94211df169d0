"""What the store hands out: one frozen record for each kind of row. Times are UTC, ISO 8601."""

import msgspec

from harness.campaign.records import BugSignature
from harness.verdict import FindingKind, Verdict


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """Many trials that were INTACT and of which nothing more is to be told: each is known by a key of 8 bytes.

    `states[n]` were judged of the trial `keys[n]`; `seconds` is what they took together.
    """

    guarantee: str
    file_system: str
    keys: list[bytes]
    states: list[int]
    seconds: float = 0.0


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `ended` is empty and `verdict` None while it goes on, and for ever if it was killed."""

    id: int
    kind: str
    command: str
    seed: int
    settings: str
    host: str
    pid: int
    harness: str
    kernel: str
    started: str
    ended: str = ""
    verdict: Verdict | None = None
    interrupted: bool = False


class GuaranteeRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was judged of one guarantee on one file system. `failed`: trials CORRUPTED that were not to be."""

    guarantee: str
    file_system: str
    trials: int
    states: int
    failed: int
    unknown: int
    first: str
    last: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What one run judged. Each trial counts once, however often it was told."""

    trials: int
    states: int
    recoveries: int
    guarantees: tuple[GuaranteeRow, ...]


class BugRow(msgspec.Struct, frozen=True, kw_only=True):
    """All sightings of one signature. What is said of a bundle is said of the smallest that is still there."""

    signature: BugSignature
    kind: FindingKind
    verdict: Verdict
    """The worst of its sightings."""
    summary: str
    count: int
    """Sightings: trials that showed it."""
    states: int
    first_seen: str
    last_seen: str
    first_run: int
    last_run: int
    tries: int
    again: int
    canary: bool
    """It was never seen but where CORRUPTED was expected."""
    bundle: str = ""
    """Path relative to the reports directory; empty if there is none."""
    size: int = 0
    operations: int = 0
    lost: int = 0

    @property
    def rate(self) -> str:
        """How often it came again: `9/9`; empty where it was not tried."""
        return f"{self.again}/{self.tries}" if self.tries else ""


class BundleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle. `path` is relative to the reports directory, `signature` an id, `size` in bytes."""

    path: str
    signature: str
    size: int
    verdict: Verdict
    recorded: str

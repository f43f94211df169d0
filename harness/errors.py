"""Every error that the harness raises on purpose. Each says what happened (the cause) and what to do (the remedy).

::

    HarnessError
    ├── Misuse                 the command, option, marker or call is wrong               exit 2
    │   └── BadBundle          the file is no bundle, is damaged, or comes from a newer harness
    │   └── BadLog             the bytes are no block log in the dm-log-writes format
    │   └── BadJournal         the file is no journal of a volume, or is damaged other than by a crash
    ├── TrialUnknown           no honest verdict can be given                             exit 3
    │   ├── WorkloadFailed     the workload exited non-zero, hung, or left the volume
    │   ├── CheckUnsound       the check says no even where no power was cut
    │   ├── BoundExceeded      the log or the volume outgrew its bound
    │   ├── EngineLost         the process that serves the volume died
    │   └── VolumeStuck        somebody holds the volume's device, and it cannot be detached, or attached again
    ├── RequirementMissing     this machine lacks something                               exit 4
    └── InternalError          the harness itself is at fault                             exit 5
        └── ProgramFailed      an external program (mkfs, fsck, …) did not do its work

Only the command line exits; everything below it raises one of these.
"""

from collections.abc import Sequence
from typing import NamedTuple

from harness.verdict import ExitCode


class HarnessError(Exception):
    """Base of the tree: `cause` is one or more plain sentences, `remedy` what the user can do about it."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause}\n  remedy: {self.remedy}" if self.remedy else self.cause


class Misuse(HarnessError):
    """The user asked for something that has no meaning. The remedy names what does."""

    exit_code = ExitCode.MISUSE


class BadBundle(Misuse):
    """A bundle that cannot be opened: truncated, damaged, not a bundle, or of a newer schema."""


class BadLog(Misuse):
    """Bytes that are not a block log in the dm-log-writes format, or one cut off in the middle of an entry."""


class BadJournal(Misuse):
    """A file that is no journal of a volume, or whose damage is not the torn end that a crash leaves."""


class TrialUnknown(HarnessError):
    """The trial ended without a verdict that could be defended. Never counted as intact."""

    exit_code = ExitCode.UNKNOWN


class WorkloadFailed(TrialUnknown):
    """The workload did not do what was to be judged; `output` is the end of what it printed."""

    def __init__(self, cause: str, remedy: str = "", output: bytes = b"") -> None:
        super().__init__(cause, remedy)
        self.output = output


class CheckUnsound(TrialUnknown):
    """The control failed: the check rejects the volume as the workload left it, with no power cut at all."""

    def __init__(self, cause: str, remedy: str = "", output: bytes = b"") -> None:
        super().__init__(cause, remedy)
        self.output = output


class BoundExceeded(TrialUnknown):
    """A declared bound (log size, volume size, time) was reached before the work was done."""


class EngineLost(TrialUnknown):
    """The engine's process ended while the volume was in use."""


class VolumeStuck(TrialUnknown):
    """The device is still bound, or its file system alive. `holders`: those who can be named (machine.holders)."""

    def __init__(self, cause: str, remedy: str = "", holders: Sequence[object] = ()) -> None:
        super().__init__(cause, remedy)
        self.holders = tuple(holders)


class Missing(NamedTuple):
    """One thing that this machine lacks, why it is needed, and how to get it."""

    what: str
    why: str
    remedy: str


class RequirementMissing(HarnessError):
    """Everything that is missing for the work asked for, not just the first thing."""

    exit_code = ExitCode.REQUIREMENT_MISSING

    def __init__(self, missing: Sequence[Missing]) -> None:
        self.missing = tuple(missing)
        lines = [f"{m.what}: {m.why}" for m in self.missing]
        super().__init__("missing on this machine:\n  " + "\n  ".join(lines), "; ".join(m.remedy for m in self.missing))


class InternalError(HarnessError):
    """A broken assumption of the harness itself. Whatever was being judged is UNKNOWN."""


class ProgramFailed(InternalError):
    """An external program failed; the cause holds a command that can be pasted into a shell, and what it printed."""

"""Processes that die, or stop: the writer, the engine."""

import os
import signal

import msgspec

from harness.engine.rules import Rule
from harness.errors import InternalError, Misuse
from harness.faults.fault import Back, SingleFault
from harness.faults.target import Target
from harness.machine.process import wait_readable
from harness.volume.disks import ServedDisk

_DEATH_SECONDS = 10.0


class _Kill(SingleFault, frozen=True):
    """At a request, an operation or a mark the engine does it, before anybody is answered; else we do."""

    @property
    def by_engine(self) -> bool:
        return bool(self.at.request or self.at.words)


class WriterKill(_Kill, frozen=True, tag="writer-kill"):
    """SIGKILL to the target's writer. Its user-space buffers are lost, the page cache is not."""

    gives_back = Back.VOLUME

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault."""
        return [msgspec.structs.replace(self.striking("signal", target, awaited), pid=_writer(target))]

    def act(self, target: Target) -> None:
        """See SingleFault. Raises ProcessLookupError where it is gone already."""
        pidfd = os.pidfd_open(_writer(target))
        try:
            if wait_readable(pidfd, 0):
                raise ProcessLookupError(f"the writer, process {target.writer}, had ended before")
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


class EngineKill(_Kill, frozen=True, tag="engine-kill"):
    """SIGKILL to the engine: every request fails from here on, and the medium is what it had answered.

    At a request: before that one is done, or with `done` when it is on the medium, and not answered.
    """

    done: bool = False

    gives_back = Back.NOTHING
    needs_engine = True
    takes_device = True

    def __post_init__(self) -> None:
        """Raises Misuse for a choice that there is not."""
        super().__post_init__()
        if self.done and not self.by_engine:
            raise Misuse(f"{self}: there is no request that could be done", "count requests: engine-kill@write:3")

    def rules(self, target: Target, awaited: str) -> list[Rule]:
        """See SingleFault. An engine behind a door is killed as the request comes; it has done none of it."""
        process = target.served.process if target.served else 0
        if not process:
            return [msgspec.structs.replace(self.striking("die", target, awaited), after=self.done)]
        if self.done:
            raise Misuse(f"{self}: when an engine of its own has done a request is not ours to see", "leave done out")
        return [msgspec.structs.replace(self.striking("signal", target, awaited), pid=process)]

    def act(self, target: Target) -> None:
        """See SingleFault."""
        if not _disk(target).slay_engine(_DEATH_SECONDS):
            raise InternalError("the engine survives SIGKILL", "see `ps -eo pid,stat,wchan,cmd`")


class EngineStop(SingleFault, frozen=True, tag="engine-stop"):
    """SIGSTOP to the engine: no request is answered, those of before included, until the heal lets it go on."""

    gives_back = Back.VOLUME
    needs_engine = True
    takes_device = True
    keeps_hold = True

    def act(self, target: Target) -> None:
        """See SingleFault."""
        _disk(target).halt_engine()


def _disk(target: Target) -> ServedDisk:
    if target.served is None or target.engine is None:
        raise ProcessLookupError("the engine had ended before")
    return target.served


def _writer(target: Target) -> int:
    if target.writer <= 1:
        raise Misuse("the target names no writer that could be killed", "Target(writer=pid)")
    return target.writer

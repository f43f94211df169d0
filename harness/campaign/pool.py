"""Shard servers on this machine: handed shards, one each at a time; replaced when they die or hang."""

import os
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import NamedTuple, Protocol

from harness.campaign.server_process import ServerProcess
from harness.campaign.shards import ShardResult, Task, Working
from harness.closing import Closing
from harness.machine import process
from harness.machine.sandbox import interrupts_held

FIRST_SIGN_SECONDS = 300.0
"""A server may take so long to draw the plans and open a lab (mkfs, zram) before it gives a sign of life."""

_GRACE_SECONDS = 60.0
_REAPED_SECONDS = 5.0


class Answer(NamedTuple):
    """What became of a task. Without a result its server was lost; `why` says how."""

    task: Task
    result: ShardResult | None
    why: str = ""


class Pool(Protocol):
    """Whoever judges shards: processes of this machine, or a cluster."""

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""

    @property
    def workers(self) -> int:
        """How many tasks are judged at a time."""

    @property
    def working(self) -> Sequence[Working]:
        """The last sign of life of each shard that is being judged."""

    def submit(self, task: Task) -> None:
        """Begin with it."""

    def answers(self, seconds: float) -> list[Answer]:
        """What is done by now; waits so long for the first. A task has one answer."""

    def close(self) -> None:
        """End all that is being judged."""


def workers_here() -> int:
    """Two a core: while one waits for the kernel (RCU, a block device), the other computes."""
    return 2 * len(os.sched_getaffinity(0))


class _Server(Closing):
    def __init__(self) -> None:
        self.task: Task | None = None
        self.sign: Working | None = None
        self.process = ServerProcess()
        self._due = 0.0

    def submit(self, task: Task) -> None:
        """Begin with it. A server that has died meanwhile is found out when its answer is asked for."""
        self.task, self.sign = task, None
        self._due = time.monotonic() + FIRST_SIGN_SECONDS
        try:
            self.process.send(task)
        except OSError:
            self._due = 0.0

    def collect(self) -> Answer | None:
        """The answer, if there is one; to be called often."""
        if self.task is None:
            return None
        while self.process.told.poll():
            message = self.process.receive()
            if message is None:
                self.process.status(_REAPED_SECONDS)  # its pipe ends a little before it is dead
                return self._lost()
            if isinstance(message, ShardResult):
                task, self.task, self.sign = self.task, None, None
                return Answer(task, message)
            self.sign = message
            self._due = time.monotonic() + message.seconds + _GRACE_SECONDS
        overdue = time.monotonic() > self._due
        return self._lost() if overdue or self.process.status() is not None else None

    def _lost(self) -> Answer:
        assert self.task is not None
        status = self.process.status()
        how = "hung" if status is None else f"died ({process.describe_status(status)})"
        task, self.task, self.sign = self.task, None, None
        with interrupts_held():
            self.process.close()
            self.process = ServerProcess()
        return Answer(task, None, f"the shard server {how}")

    def close(self) -> None:
        self.process.close()


class LocalPool(Closing):
    """So many servers on this machine. They die with this process."""

    def __init__(self, workers: int = 0) -> None:
        """0: as workers_here() says. Raises RequirementMissing without the rights for it."""
        self._servers: list[_Server] = []
        with interrupts_held():
            for _ in range(workers or workers_here()):
                self._servers.append(_Server())

    @property
    def free(self) -> int:
        return sum(server.task is None for server in self._servers)

    @property
    def workers(self) -> int:
        return len(self._servers)

    @property
    def working(self) -> list[Working]:
        return [server.sign for server in self._servers if server.sign]

    @property
    def pids(self) -> list[int]:
        """Of the servers: for those who want to kill one."""
        return [server.process.pid for server in self._servers]

    def submit(self, task: Task) -> None:
        next(server for server in self._servers if server.task is None).submit(task)

    def answers(self, seconds: float) -> list[Answer]:
        busy = [server for server in self._servers if server.task]
        wait([end for server in busy for end in server.process.ends], seconds)
        return [answer for server in busy if (answer := server.collect())]

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

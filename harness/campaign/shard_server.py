"""A process that judges shards, one after the other. Its labs stay warm from shard to shard.

`python -m harness.campaign.shard_server`: tasks on standard input, answers on standard output, as the Connection of
multiprocessing frames them. It ends when its input does.
"""

import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection

import msgspec

from harness.campaign import pytest_shard
from harness.campaign.drawing import drawn_by
from harness.campaign.plan_shard import PlanShard
from harness.campaign.shards import Message, ShardResult, Task
from harness.closing import Closing
from harness.errors import HarnessError
from harness.machine import mounts
from harness.settings import Settings
from harness.trial.lab import Lab, open_labs

_LABS_MAX = 8

Tell = Callable[[Message], None]


class Labs(Closing):
    """Warm labs by settings; the one that was used least lately goes when there are too many."""

    def __init__(self, most: int = _LABS_MAX) -> None:
        self._most = most
        self._open: OrderedDict[Settings, tuple[Lab, ExitStack]] = OrderedDict()

    def get(self, settings: Settings) -> Lab:
        """A lab for volumes of these settings. Raises Misuse, RequirementMissing."""
        if settings in self._open:
            self._open.move_to_end(settings)
            return self._open[settings][0]
        while len(self._open) >= self._most:
            self._open.popitem(last=False)[1][1].close()
        with ExitStack() as stack:
            (lab,) = stack.enter_context(open_labs(settings, 1))
            self._open[settings] = (lab, stack.pop_all())
        return lab

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()


class ShardServer(Closing):
    """Judges shards in this process and its labs. `tell` is called with signs of life."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._labs = Labs()
        self._workspace = mounts.enter_private_mounts()

    def judge(self, task: Task) -> ShardResult:
        """What the shard comes to; where it cannot be judged, the result says why."""
        shard = task.shard
        started = time.monotonic()
        if shard.drawn_by and shard.drawn_by != drawn_by():
            why = f"the plans of this shard are drawn by {shard.drawn_by}; here is {drawn_by()}"
            return ShardResult(shard=shard.name, trouble=why)
        try:
            if shard.pytest:
                result = pytest_shard.judge(shard, self._tell)
            else:
                lab = self._labs.get(shard.settings)
                result = PlanShard(task, lab, self._workspace.path(f"shard-{os.getpid()}"), self._tell).judge()
        except HarnessError as error:
            result = ShardResult(shard=shard.name, trouble=f"{type(error).__name__}: {error.cause}")
        result.drawn_by = drawn_by()
        result.seconds = time.monotonic() - started
        return result

    def close(self) -> None:
        self._labs.close()


def serve(tasks: Connection, answers: Connection) -> int:
    """Until the parent goes."""
    encode = msgspec.msgpack.encode
    with ShardServer(lambda message: answers.send_bytes(encode(message))) as server:
        while True:
            try:
                task = msgspec.msgpack.decode(tasks.recv_bytes(), type=Task)
            except EOFError:
                return 0
            answers.send_bytes(encode(server.judge(task)))


def main() -> int:
    """Serve standard input and output. What is printed meanwhile goes to standard error."""
    tasks, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return serve(tasks, answers)


if __name__ == "__main__":
    sys.exit(main())

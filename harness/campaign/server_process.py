"""The handle on a shard server: a process of its own, two pipes to it.

It is no init of a PID namespace: the keeper of its zram devices must outlive it, or nobody would remove them. A server
dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG), and ends when its input does.
"""

import os
import subprocess
import sys
from multiprocessing.connection import Connection

import msgspec

from harness.campaign.shards import Message, ShardResult, Task
from harness.closing import Closing
from harness.machine import process

_ORDERLY_SECONDS = 5.0


class ServerProcess(Closing):
    """One server. Its messages come by `told`; what it prints goes to standard error."""

    def __init__(self) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        words = [*process.leash(), sys.executable, "-m", "harness.campaign.shard_server"]
        try:
            # In a session of its own: a Ctrl-C is for the harness, which then ends its servers in order.
            self._child = subprocess.Popen(words, stdin=theirs_in, stdout=theirs_out, start_new_session=True)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._tasks = Connection(ours_out, readable=False)
        self.told = Connection(ours_in, writable=False)
        self._died = os.pidfd_open(self._child.pid)
        self._busy = False

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ends(self) -> list[Connection | int]:
        """What to wait for: a message, or its death."""
        return [self.told, self._died]

    def status(self, seconds: float = 0.0) -> int | None:
        """Exit status, or minus the signal's number; None when it still runs after so long."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, task: Task) -> None:
        """Hand it a shard. Raises OSError if it is dead."""
        self._busy = True
        self._tasks.send_bytes(msgspec.msgpack.encode(task))

    def receive(self) -> Message | None:
        """Its next message, waited for; None if it died."""
        try:
            message: Message = msgspec.msgpack.decode(self.told.recv_bytes(), type=Message)
        except (EOFError, OSError):
            return None
        self._busy = not isinstance(message, ShardResult)
        return message

    def close(self) -> None:
        """End it: in order if it is idle, so that its labs are closed; else, or if that takes long, by force."""
        if self._died < 0:
            return
        self._tasks.close()
        if self._busy or self.status(_ORDERLY_SECONDS) is None:
            self._child.kill()
            self._child.wait()
        self.told.close()
        os.close(self._died)
        self._died = -1

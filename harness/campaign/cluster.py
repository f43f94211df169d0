"""Shards as tasks of a Dask cluster. Each thread of a worker keeps a shard server, a process of its own.

Forking and namespaces happen there and not in the worker, whose other threads could hold a lock at that instant. A
server dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG), so with its worker. Results come home: only
the soak writes to the store. A task whose worker is lost is run again by the scheduler.
"""

import os
import queue
import threading
import time
from typing import Any

import msgspec

from harness.campaign.pool import Answer
from harness.campaign.server_process import ServerProcess
from harness.campaign.shards import ShardResult, Task, Working
from harness.closing import Closing
from harness.errors import Missing, Misuse, RequirementMissing

IN_FLIGHT = 2
"""Shards for each thread of a worker: one is judged, one waits for it."""

_CONNECT_SECONDS = 10.0
_AGAIN_SECONDS = 5.0
_PRIORITY = 1

_of_thread = threading.local()


def judge_shard(task: bytes) -> bytes:
    """What a worker runs: a Task in, a ShardResult out, both as msgpack. A server that dies is not used again."""
    server: ServerProcess | None = getattr(_of_thread, "server", None)
    if server is None:
        server = _of_thread.server = ServerProcess()
    asked = msgspec.msgpack.decode(task, type=Task)
    result = _answer_of(server, asked)
    if result is None:
        server.close()
        _of_thread.server = None
        result = ShardResult(shard=asked.shard.name, trouble="the shard server of a worker died")
    return msgspec.msgpack.encode(result)


def _answer_of(server: ServerProcess, task: Task) -> ShardResult | None:
    """None if the server died. Its signs of life are let go."""
    try:
        server.send(task)
    except OSError:
        return None
    while (message := server.receive()) is not None:
        if isinstance(message, ShardResult):
            return message
    return None


class ClusterPool(Closing):
    """The workers of a scheduler, as a pool. The number in flight follows the workers that there are."""

    def __init__(self, address: str) -> None:
        """Raises RequirementMissing without `distributed`, Misuse where no scheduler answers."""
        distributed = _distributed()
        try:
            self._client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            remedy = "start one: dask scheduler; and workers: dask worker tcp://HOST:8786 --nthreads 1"
            raise Misuse(f"no Dask scheduler answers at {address}: {error}", remedy) from error
        self._failures: tuple[type[Exception], ...] = (distributed.scheduler.KilledWorker, Exception)
        self._done: queue.Queue[Any] = queue.Queue()
        self._futures: dict[str, tuple[Any, Task]] = {}
        self._threads = 0
        self._asked_at = 0.0

    @property
    def workers(self) -> int:
        """Threads of all workers, asked for every few seconds."""
        if time.monotonic() - self._asked_at > _AGAIN_SECONDS or not self._threads:
            self._threads = sum(self._client.nthreads().values())
            self._asked_at = time.monotonic()
        return self._threads

    @property
    def free(self) -> int:
        return max(0, IN_FLIGHT * self.workers - len(self._futures))

    @property
    def working(self) -> list[Working]:
        """All that are in flight; a worker sends no signs of life home."""
        names = list(self._futures)
        return [Working(shard=name, plans=0, states=0, seconds=0.0) for name in names]

    def submit(self, task: Task) -> None:
        """Under the shard's name: the scheduler runs it again where its worker is lost."""
        name = task.shard.name
        future = self._client.submit(
            judge_shard,
            msgspec.msgpack.encode(task),
            key=f"{name}-{task.attempt}",
            pure=False,
            priority=_PRIORITY if task.shard.canary else 0,
        )
        self._futures[name] = (future, task)
        future.add_done_callback(lambda done, name=name: self._done.put((name, done)))

    def answers(self, seconds: float) -> list[Answer]:
        found = []
        try:
            found.append(self._answer(*self._done.get(timeout=seconds)))
            while True:
                found.append(self._answer(*self._done.get_nowait()))
        except queue.Empty:
            return found

    def _answer(self, name: str, future: Any) -> Answer:
        _, task = self._futures.pop(name)
        try:
            raw = future.result()
        except Exception as error:  # of whatever kind: the shard is owed another try, elsewhere
            return Answer(task, None, f"the worker was lost: {type(error).__name__}: {error}")
        finally:
            future.release()
        return Answer(task, msgspec.msgpack.decode(raw, type=ShardResult))

    def close(self) -> None:
        """Give up what is in flight, and leave."""
        if self._futures:
            self._client.cancel([future for future, _ in self._futures.values()], force=True)
            self._futures = {}
        self._client.close(timeout=_CONNECT_SECONDS)


def _distributed() -> Any:
    # The dashboard and the profiler of the client are of no use here.
    os.environ.setdefault("DASK_DISTRIBUTED__DIAGNOSTICS__NVML", "False")
    try:
        import distributed
    except ImportError as error:
        missing = Missing("distributed", "--scheduler spreads shards over a Dask cluster", _REMEDY)
        raise RequirementMissing([missing]) from error
    return distributed


_REMEDY = "pip install 'crash-harness[cluster]'"

"""What the soak costs over bare judging, and Dask over the local pool. `python tests/benchmarks/bench_soak.py [SHARDS]`

Prints figures of one run; decides nothing. Needs root. The same plans each time: judged by bare labs (fleet.judged); by
a soak with its store, canary left out; by a Dask cluster of two local workers and by a local pool of as many servers.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import msgspec

from harness.campaign import budget
from harness.campaign.fleet import Job, judged
from harness.campaign.night import Night, Spec
from harness.campaign.pool import LocalPool, Pool, workers_here
from harness.campaign.shards import Task
from harness.campaign.shelf import Shelf
from harness.campaign.soak import Limits, Soak, Watcher
from harness.campaign.sources import BUILT_IN, Source
from harness.campaign.store import Store
from harness.trial.lab import open_labs

SOURCE: Source = BUILT_IN[0]
SEED = 77


def bare(shards: int, workers: int) -> tuple[float, int]:
    """Seconds and states of the same plans, judged by labs and nothing else."""
    row = itertools.islice(budget.shards(SEED, [SOURCE], {}), shards)
    plans = [plan for shard in row for plan in shard.contents()]
    with open_labs(SOURCE.settings, workers) as labs:
        started = time.monotonic()
        states = sum(judgement.report.judged for _, judgement in judged(labs, (Job(p.id, p) for p in plans)))
        return time.monotonic() - started, states


def soaked(pool: Pool, shards: int) -> tuple[float, int]:
    """The same by a soak, from its first shard to its end."""
    with tempfile.TemporaryDirectory() as reports:
        store = Store.open(reports)
        spec = Spec(sources=(SOURCE,))
        night = Night.begin(store, Shelf(store, 1 << 30), spec, SEED, "bench")
        soak = Soak(night, pool, spec, SEED, Limits(float("inf"), shards), Watcher())
        started = time.monotonic()
        run = soak.run().run
        return time.monotonic() - started, store.totals(run).states


def warm(pool: Pool, workers: int) -> Pool:
    """Every server has begun, and has its lab open."""
    for number in range(workers):
        pool.submit(Task(shard=msgspec.structs.replace(SOURCE.shard(number), plans=2)))
    left = workers
    while left:
        left -= len(pool.answers(1.0))
    return pool


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[str]:
    """A scheduler and so many workers of one thread, on the loopback."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = os.path.join(folder, "scheduler.json")
        common = ["--scheduler-file", file, "--no-dashboard", "--host", "127.0.0.1"]
        _start(stack, "dask_scheduler", *common, "--port", "0")
        while not os.path.exists(file):
            time.sleep(0.05)
        for number in range(workers):
            place = os.path.join(folder, str(number))
            _start(stack, "dask_worker", *common, "--nthreads", "1", "--no-nanny", "--local-directory", place)
        with open(file) as text:
            yield json.load(text)["address"]


def _start(stack: contextlib.ExitStack, module: str, *words: str) -> None:
    argv = [sys.executable, "-m", f"distributed.cli.{module}", *words]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(child.wait)
    stack.callback(child.kill)


def by_cluster(shards: int, workers: int) -> tuple[float, int]:
    """The same shards by Dask workers, whose servers are warm."""
    from harness.campaign.cluster import ClusterPool

    with cluster(workers) as address:
        pool = ClusterPool(address)
        while pool.workers < workers:
            time.sleep(0.2)
        return soaked(warm(pool, workers), shards)


def main(shards: int) -> None:
    """Each twice, by turns, so that a machine that slows down slows all; the better of both counts."""
    workers = workers_here()
    bare_rates, pool_rates = [], []
    for _ in range(2):
        seconds, states = bare(shards, workers)
        bare_rates.append(states / seconds)
        seconds, states = soaked(warm(LocalPool(workers), workers), shards)
        pool_rates.append(states / seconds)
    ratio = max(pool_rates) / max(bare_rates)
    print(f"bare judging, {workers} labs: {max(bare_rates):.0f} states/s")
    print(f"soak, {workers} servers: {max(pool_rates):.0f} states/s, {1 - ratio:.1%} overhead (wanted: under 10 %)")
    seconds, states = soaked(warm(LocalPool(2), 2), shards)
    pool_rate = states / seconds
    seconds, states = by_cluster(shards, 2)
    dask_rate = states / seconds
    print(f"plain pool of 2: {pool_rate:.0f} states/s; Dask, 2 workers: {dask_rate:.0f} states/s")
    print(f"Dask / plain pool: {dask_rate / pool_rate:.2f} (wanted: at least 0.85)")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["24"])[0]))

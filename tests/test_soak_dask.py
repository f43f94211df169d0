"""A soak over a Dask cluster finds what one machine finds with the same seeds, also where a worker is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cli_support import harness
from kill_support import eventually, none_with
from soak_support import BROKEN, SETTINGS, keys, one, shard_names, soaking, sql, wait_for_shards

from harness.campaign.sources import CANARY

pytestmark = pytest.mark.root

SHARDS = 4
NOISE = 3
"""Plans of which the kernel's own threads decide whether the lie shows: no two recordings are quite the same."""
TOKEN = "HARNESS_TEST_TOKEN"


class Cluster:
    """A scheduler and two workers, processes of their own, on the loopback alone. No nanny brings a dead one back."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.token = f"dask-{folder.name}"
        self._folder = folder
        self._stack = stack
        self.file = folder / "scheduler.json"
        self._start(
            "dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--no-jupyter",
            "--scheduler-file",
            str(self.file),
        )
        assert eventually(self.file.exists, 60)
        self.workers = [self._worker(number) for number in range(2)]

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def _worker(self, number: int) -> "subprocess.Popen[bytes]":
        return self._start(
            "dask_worker",
            "--scheduler-file",
            str(self.file),
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--name",
            str(number),
            "--local-directory",
            str(self._folder / f"worker-{number}"),
        )

    def _start(self, module: str, *words: str) -> "subprocess.Popen[bytes]":
        env = {**os.environ, TOKEN: self.token}
        argv = [sys.executable, "-m", f"distributed.cli.{module}", *words]
        with open(self._folder / f"{module}-{time.monotonic_ns()}.log", "wb") as log:
            process = subprocess.Popen(argv, env=env, cwd=self._folder, stdout=log, stderr=log)
        self._stack.callback(_end, process)
        return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    folder = tmp_path / "cluster"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        cluster = Cluster(folder, stack)
        yield cluster
    assert eventually(lambda: none_with(f"{TOKEN}={cluster.token}"), 30)


def found(reports: Path) -> dict[str, set[str]]:
    """The kinds of finding of each plan. Of the further ones a kernel that is never twice the same decides with us."""
    query = "SELECT t.key, s.kind FROM sighting s JOIN trial t ON t.run = s.run AND t.key = s.trial"
    kinds: dict[str, set[str]] = {}
    for plan, kind in sql(reports, f"{query} WHERE t.guarantee NOT LIKE ?", f"{CANARY}%"):
        kinds.setdefault(plan, set()).add(kind)
    return kinds


def judged(reports: Path) -> set[object]:
    """Plans of the seed's shards: by name where they failed, by key where they did not."""
    told = sql(reports, "SELECT key FROM trial WHERE guarantee NOT LIKE ?", f"{CANARY}%")
    return {key for (key,) in told}


def test_two_workers_one_of_them_killed_find_the_same(tmp_path: Path, cluster: Cluster) -> None:
    words = ("--seed", "21", "--shards", str(SHARDS), *BROKEN)
    spread, here = tmp_path / "spread", tmp_path / "here"
    for folder in (spread, here):
        folder.mkdir()
    with soaking(spread, *words, "--scheduler", cluster.address) as soak:
        wait_for_shards(spread / "reports", 2, soak)
        cluster.workers[0].send_signal(signal.SIGKILL)
        out, err = soak.communicate(timeout=300)
    assert soak.returncode == 1, (out, err)
    ran = harness("soak", *words, "--workers", "2", cwd=here)
    assert ran.status == 1, ran
    names = shard_names(21, SHARDS, msgspec.structs.replace(SETTINGS, fault="lying-flush"))
    assert names <= keys(spread / "reports") and names <= keys(here / "reports")
    assert not sql(spread / "reports", "SELECT 1 FROM figure WHERE name = 'shards_lost'")
    one_machine, cluster_of_two = judged(here / "reports"), judged(spread / "reports")
    assert len(one_machine ^ cluster_of_two) <= NOISE
    by_one, by_two = found(here / "reports"), found(spread / "reports")
    both = by_one.keys() & by_two.keys()
    assert len(by_one.keys() ^ by_two.keys()) <= NOISE < len(both), (by_one, by_two)
    assert all(by_one[plan] & by_two[plan] for plan in both), (by_one, by_two)
    assert one(spread / "reports", "SELECT count(*) FROM run") == 1


def test_a_scheduler_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    ran = harness("soak", "--shards", "1", *BROKEN, "--scheduler", "tcp://127.0.0.1:1", cwd=tmp_path)
    assert ran.status == 2 and "no Dask scheduler answers" in ran.err, ran
    ran.assert_one_screen()

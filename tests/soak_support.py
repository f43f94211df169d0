"""A small soak: few states a plan, a volume of 16 MiB; and what its store says, by SQL."""

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cli_support import HARNESS

from harness.campaign import budget
from harness.campaign.sources import own
from harness.settings import Settings

SMALL = ("--fs", "ext4", "--size", "16M", "--max-states", "10", "--no-fsck")
SETTINGS = Settings(fs="ext4", size=16 << 20, max_states=10, fsck=False)
BROKEN = (*SMALL, "--fault", "lying-flush")


def sql(reports: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{reports / 'harness.sqlite'}?mode=ro", uri=True)) as store:
        return store.execute(query, values).fetchall()


def one(reports: Path, query: str, *values: Any) -> Any:
    ((value,),) = sql(reports, query, *values)
    return value


def shard_names(seed: int, count: int, settings: Settings = SETTINGS) -> set[str]:
    """The shards of a first soak of these settings."""
    row = budget.shards(seed, [own(settings)], {})
    return {next(row).name for _ in range(count)}


def keys(reports: Path) -> set[str]:
    """Of the shards; none where the store is not there yet."""
    try:
        return {key for (key,) in sql(reports, "SELECT key FROM shard")}
    except sqlite3.OperationalError:
        return set()


@contextmanager
def soaking(folder: Path, *words: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """A soak on its way; dead at the end of the block, whatever happens in it."""
    argv = [HARNESS, "soak", *words]
    environ = {**os.environ, **env}
    soak = subprocess.Popen(argv, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield soak
    finally:
        soak.kill()
        soak.communicate()


def wait_for_shards(reports: Path, count: int, soak: "subprocess.Popen[str]") -> None:
    """Until the store has so many, or the soak has ended."""
    deadline = time.monotonic() + 120
    while len(keys(reports)) < count and soak.poll() is None:
        assert time.monotonic() < deadline, "no shard comes to an end"
        time.sleep(0.02)


def plans(reports: Path) -> set[Any]:
    """All that was judged, the canaries' plans left out."""
    intact = {key for (key,) in sql(reports, "SELECT key FROM plain")}
    told = sql(reports, "SELECT key FROM trial WHERE guarantee NOT LIKE 'canary%'")
    return intact | {key for (key,) in told}


def signatures(reports: Path) -> set[str]:
    query = "SELECT s.signature FROM sighting s JOIN trial t ON t.run = s.run AND t.key = s.trial"
    return {name for (name,) in sql(reports, f"{query} WHERE t.expected <> 'CORRUPTED'")}


def check_bundles(reports: Path) -> None:
    """Each bundle that the store names is there, and nothing else is."""
    named = {path for (path,) in sql(reports, "SELECT path FROM bundle")}
    there = {f"soak/{path.name}" for path in (reports / "soak").iterdir() if path.name != "lock"}
    assert named == there

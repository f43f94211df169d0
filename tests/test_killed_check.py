"""SIGKILL of `harness check` at any instant leaves no mount, loop device, zram device, process, namespace or file."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from kill_support import block_devices, eventually, namespaces, none_with, processes_with

from harness.trial.bundle import load
from harness.verdict import ExitCode

pytestmark = pytest.mark.root

KILLS = 200
TOKEN = "HARNESS_KILL_TEST"

WORKLOAD = """
for n in 1 2 3 4 5 6; do
    echo entry-$n >> log; [ $FSYNC = no ] || sync log; echo $n > $HARNESS_PROMISE
done
"""
CHECK = """
    [ -s $HARNESS_PROMISES ] || exit 0
    [ "$(tail -n 1 $HARNESS_PROMISES)" = "$(tail -n 1 log 2> /dev/null | cut -c 7-)" ]
"""


def start(command: list[str], token: str, number: int) -> "subprocess.Popen[bytes]":
    name, _, value = token.partition("=")
    environ = {**os.environ, name: value, "FSYNC": "no" if number % 2 else "yes"}
    return subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def length_of_a_run(command: list[str]) -> float:
    """Seconds that the run with findings, which is the longer one, takes here and now."""
    started = time.monotonic()
    with start(command, f"{TOKEN}=whole", 1) as whole:
        assert whole.wait(60) == ExitCode.CORRUPTED
    return time.monotonic() - started


def test_sigkill_at_random_instants_leaves_nothing(tmp_path: Path) -> None:
    before = block_devices(), Path("/proc/self/mountinfo").read_text()
    reports = tmp_path / "reports"
    command = [sys.executable, "-m", "harness.cli.main", "check", "--reports", str(reports)]
    command += ["--workload", WORKLOAD, "--check", CHECK]
    longest = length_of_a_run(command)
    chance = random.Random(5)
    caught = isolated = number = 0
    while caught < KILLS:
        number += 1
        instant = chance.uniform(0.0, longest)
        token = f"{TOKEN}={number}-{os.getpid()}"
        with start(command, token, number) as victim:
            time.sleep(instant)
            caught += victim.poll() is None
            isolated += bool(namespaces(processes_with(token)) - namespaces(["self"]))
            victim.send_signal(signal.SIGKILL)
        assert eventually(partial(none_with, token)), f"processes left after {instant:.3f} s"
        assert eventually(lambda: block_devices() <= before[0]), f"{block_devices()} left after {instant:.3f} s"
    # A namespace lives as long as a process in it, for we never bind one to a file; and no process is left.
    assert isolated, "no run was caught with namespaces of its own"
    assert Path("/proc/self/mountinfo").read_text() == before[1]
    for left in reports.glob("*.crash"):
        assert load(str(left)).manifest.state, "a bundle is there whole or not at all"
    assert [p.name for p in tmp_path.iterdir()] == ["reports"]

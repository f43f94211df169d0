"""SIGKILL of a live trial at any instant leaves no mount, loop device, process, namespace or file; nor do two at once.

HARNESS_KILLS sets how often: 500 of them take some minutes.
"""

import json
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

from harness.verdict import ExitCode

pytestmark = pytest.mark.root

KILLS = int(os.environ.get("HARNESS_KILLS", "45"))
TOKEN = "HARNESS_KILL_TEST"
ROOT = Path(__file__).parent.parent

PLAN = {
    "kind": "crash-harness plan",
    "operations": [
        operation
        for n in range(5)
        for operation in (
            {"op": "creat", "path": f"f{n}"},
            {"op": "write", "path": f"f{n}", "length": 8192},
            {"op": "fsync", "path": f"f{n}"},
        )
    ],
}


def trial(module: str, variant: str, plan: str) -> list[str]:
    return ["trial", f"fixtures.systems.{module}", variant, "--plan", plan, "--repeat", "3", "-q"]


DSTACK = """{"bytes":307200,"chunk":4096,"volume":67108864,"provider":"pulls","runs":[
    {"job":"exits","written_back":38400,"committed":true,"elsewhere":false,"delay_ms":0}]}"""
WAL = '{"sizes":[[3500,4501],[3500,153]],"partition":1,"kill":{"at":"repaired","partition":0}}'

COMMANDS = {
    "dstack": trial("dstack_run", "no-unmount", DSTACK),
    "detach": trial("detach_controller", "fixed", '{"volumes":[{}],"data":1}'),
    "cubefs": trial("wal_node", "fixed", WAL),
    "removal": ["strike", "PLAN", "remove@op:7", "-q"],
    "engine": ["strike", "PLAN", "engine-kill@write:5", "-q"],
}


def start(words: list[str], token: str) -> "subprocess.Popen[bytes]":
    name, _, value = token.partition("=")
    command = [sys.executable, "-m", "harness.cli.main", *words]
    environ = {**os.environ, name: value}
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def left(before: set[str]) -> set[str]:
    return block_devices() - before


def test_sigkill_at_random_instants_leaves_nothing(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    before, mounts = block_devices(), Path("/proc/self/mountinfo").read_text()
    commands = [[str(plan) if word == "PLAN" else word for word in words] for words in COMMANDS.values()]
    lengths = []
    for number, words in enumerate(commands):
        started = time.monotonic()
        with start(words, f"{TOKEN}=whole-{number}") as whole:
            assert whole.wait(60) in (ExitCode.INTACT, ExitCode.CORRUPTED), words
        lengths.append(time.monotonic() - started)
    chance, caught, isolated, number = random.Random(7), 0, 0, 0
    while caught < KILLS:
        words, longest = commands[number % len(commands)], lengths[number % len(commands)]
        number += 1
        instant, token = chance.uniform(0.0, longest), f"{TOKEN}={number}-{os.getpid()}"
        with start(words, token) as victim:
            time.sleep(instant)
            caught += victim.poll() is None
            isolated += bool(namespaces(processes_with(token)) - namespaces(["self"]))
            victim.send_signal(signal.SIGKILL)
        assert eventually(partial(none_with, token)), f"processes left by {words} after {instant:.3f} s"
        assert eventually(lambda: not left(before)), f"{left(before)} left by {words} after {instant:.3f} s"
    assert isolated, "no run was caught with namespaces of its own"
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_killed_run_does_not_disturb_another_one() -> None:
    """Two harness runs on one machine: one is killed again and again, the other's verdicts stand."""
    words = trial("dstack_run", "fixed", DSTACK)
    words[words.index("--repeat") + 1] = "20"
    with start(words, f"{TOKEN}=steady") as steady:
        number = 0
        while steady.poll() is None:
            number += 1
            with start(COMMANDS["dstack"], f"{TOKEN}=victim-{number}") as victim:
                time.sleep(0.3 + 0.05 * (number % 8))
                victim.send_signal(signal.SIGKILL)
        assert steady.returncode == ExitCode.INTACT
        assert number > 1

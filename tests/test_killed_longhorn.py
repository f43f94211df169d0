"""SIGKILL of a trial of several hosts at any instant leaves no namespace, link, process, mount, device or file.

HARNESS_KILLS sets how often: 200 of them take some minutes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from kill_support import WatchedNetworks, abandoned_devices, eventually, namespaces, none_with, processes_with

from harness.verdict import ExitCode

pytestmark = pytest.mark.root

KILLS = int(os.environ.get("HARNESS_KILLS", "20"))
TOKEN = "HARNESS_KILL_TEST"
ROOT = Path(__file__).parent.parent
RUN_SECONDS = 120
HARNESS = [sys.executable, "-m", "harness.cli.main"]


def trial(module: str, variant: str, *which: str) -> list[str]:
    return [*HARNESS, "trial", f"fixtures.systems.{module}", variant, *which, "-q"]


NETWORK = """
import socket
from harness.machine.network import Network
from harness.machine.sandbox import spawn_init
from harness.trial.live import Trial, isolated

def run():
    with Network(hosts=3) as network:
        for host in network.hosts:
            with host.entered():
                server = socket.create_server((host.address, 7000))
                init = spawn_init(lambda: len(server.accept()[0].recv(64, socket.MSG_WAITALL)) - 64)
            with init, server, socket.create_connection((host.address, 7000)) as hub:
                network.delay(host.number, 0.03)
                hub.sendall(bytes(64))
                assert init.wait(20) == 0
            network.cut(host.number)
    return Trial()

assert all(not isolated(run, 60).findings for _ in range(4))
"""
"""Processes on hosts, and connections with data under way on links that are cut: no system, the network alone."""

CUT_OFF = '{"fault":{"type":"partition","replicas":[1],"heal":"never"},"kill":{"at":"U3"}}'
POWER = '{"counter_first":false,"kill":{"at":"R2","victim":"replica","replica":1,"power":true}}'

COMMANDS = {
    "network": [sys.executable, "-c", NETWORK],
    "replicated, cut off": trial("replicated_volume", "fixed", "--plan", CUT_OFF),
    "replicated, power": trial("replicated_volume", "fixed", "--plan", POWER),
    "thin": trial("thin_store", "fixed", "--point", "map"),
    "qemu": trial("qemu_storage", "documented", "--point", "quorum:between"),
}


def start(words: list[str], token: str, folder: Path) -> "subprocess.Popen[bytes]":
    """In an empty folder, which is also where temporary files go: whatever it leaves there shows."""
    name, _, value = token.partition("=")
    cache = f"{folder}-hypothesis"  # Hypothesis keeps a cache where it is told to, for the next run
    environ = {
        **os.environ,
        name: value,
        "TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "HYPOTHESIS_STORAGE_DIRECTORY": cache,
    }
    silent = subprocess.DEVNULL
    return subprocess.Popen(words, cwd=folder, env=environ, stdout=silent, stderr=silent, stdin=silent)


def test_sigkill_at_random_instants_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    before = abandoned_devices()
    mounts, links = Path("/proc/self/mountinfo").read_text(), os.listdir("/sys/class/net")
    lengths = {}
    for name, words in COMMANDS.items():
        started = time.monotonic()
        with start(words, f"{TOKEN}=whole-{name}", folder) as whole:
            assert whole.wait(RUN_SECONDS) == ExitCode.INTACT, words
        lengths[name] = time.monotonic() - started
    chance, caught, isolated, on_hosts = random.Random(10751), 0, 0, 0
    names, watched = list(COMMANDS), dict[str, WatchedNetworks]()
    while caught < KILLS:
        name = names[caught % len(names)]
        instant, token = chance.uniform(0.0, lengths[name]), f"{TOKEN}={caught}-{time.monotonic_ns()}"
        with start(COMMANDS[name], token, folder) as victim:
            time.sleep(instant)
            caught += victim.poll() is None
            processes = processes_with(token)
            isolated += bool(namespaces(processes) - namespaces(["self"]))
            networks = WatchedNetworks(processes)
            on_hosts += networks.left() > 1
            victim.send_signal(signal.SIGKILL)
        when = f"left by {name} after {instant:.3f} s"
        assert eventually(partial(none_with, token)), f"processes {when}"
        assert eventually(lambda: not abandoned_devices() - before), f"{abandoned_devices() - before} {when}"
        watched[when] = networks
        assert not list(folder.iterdir()), f"{list(folder.iterdir())} {when}"
    for when, networks in watched.items():  # at the end: data under way on a cut link keep them for a second
        assert eventually(networks.gone), f"{networks.left()} network namespaces {when}"
    assert isolated, "no run was caught with namespaces of its own"
    assert on_hosts, "no run was caught with processes on several hosts"
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir("/sys/class/net") == links

"""SIGKILL of the harness at any instant of a recording leaves no process, no mount and no loop device."""

import contextlib
import glob
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_DEADLINE_SECONDS = 10.0

# A recording that never ends, with ext4 dirty; it says "up" once it is writing.
_VICTIM = """
import os
from harness.settings import Settings
from harness.volume import RecordedVolume, VolumeSpec, make_base
spec = VolumeSpec.of(Settings(size=16 << 20))
base = make_base(spec)
while True:
    with RecordedVolume(spec, base, log_max=1 << 30) as volume:
        for number in range(60):
            with open(f"{volume.path}/{number % 7}", "wb") as file:
                file.write(bytes(10_000))
                if number % 3 == 0:
                    os.fsync(file.fileno())
            if number == 10:
                print("up", flush=True)
        volume.finish()
"""


def processes_with(token: str) -> list[str]:
    """Processes that the victim forked keep its environment, and with it the token."""
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if token.encode() in Path(path).read_bytes():
                found.append(path)
    return found


def orphaned_engines(_token: str) -> list[str]:
    """A process that hangs while it ends has no environment any more, but still its name."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = Path(path).read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            if name == "harness-engine" and parent == "1" and state not in "ZX":
                found.append(path)
    return found


def mounts_with(token: str) -> list[str]:
    found = []
    for path in glob.glob("/proc/[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            if token in Path(path).read_text():
                found.append(path)
    return found


def loops_with(token: str) -> list[str]:
    found = []
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            # Once the engine's mount is out of the tree, the path of its file begins there.
            if token in (backing := Path(path).read_text()) or "/crash-harness-disk-" in backing:
                found.append(path)
    return found


def await_none(look: Callable[[str], list[str]], token: str) -> list[str]:
    give_up_at = time.monotonic() + _DEADLINE_SECONDS
    while (left := look(token)) and time.monotonic() < give_up_at:
        time.sleep(0.005)
    return left


@contextlib.contextmanager
def victim(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process at a recording, and the token by which all that is its own can be found."""
    token = uuid.uuid4().hex
    root = tmp_path / token
    root.mkdir()
    env = os.environ | {"HARNESS_MOUNT_ROOT": str(root), "VICTIM": token, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", _VICTIM], env=env, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        yield process, token
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    with victim(tmp_path) as (process, token):
        assert len(processes_with(token)) == 2, "the harness and its engine"
        assert mounts_with(token)
        give_up_at = time.monotonic() + _DEADLINE_SECONDS
        while not loops_with(token):
            assert time.monotonic() < give_up_at and process.poll() is None


@pytest.mark.parametrize("seed", range(20))
def test_sigkill_of_the_harness_leaves_nothing(tmp_path: Path, seed: int) -> None:
    with victim(tmp_path) as (process, token):
        time.sleep(random.Random(seed).uniform(0, 0.08))  # an instant of the victim's life
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert await_none(processes_with, token) == []
        assert await_none(orphaned_engines, token) == []
        assert await_none(mounts_with, token) == []
        assert await_none(loops_with, token) == []

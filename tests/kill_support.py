"""What a killed harness may have left, and waiting for it to be gone."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

from harness.machine import loop

SETTLE_SECONDS = 15.0


def processes_with(token: str) -> list[int]:
    """Pids of all processes that inherited the token, in any namespace below ours. Zombies have no environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if token.encode() in environ and int(name) != os.getpid():
            found.append(int(name))
    return found


def none_with(token: str) -> bool:
    return not processes_with(token)


def block_devices() -> set[str]:
    zrams = {name for name in os.listdir("/sys/block") if name.startswith("zram")}
    return zrams | set(loop.ours())


def namespaces(pids: Iterable[object]) -> set[str]:
    """The mount and PID namespaces that these processes are in."""
    found = set()
    for name in pids:
        for kind in ("mnt", "pid"):
            try:
                found.add(os.readlink(f"/proc/{name}/ns/{kind}"))
            except OSError:
                continue
    return found


def eventually(condition: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


@contextlib.contextmanager
def no_device_left(label: str, seconds: float) -> Iterator[None]:
    """No device whose label begins so outlives the block by more than `seconds`, and no child of ours does.

    Other processes may try the same system beside it: their devices come, and go.
    """
    before = _devices(label)
    yield
    left = _devices(label) - before
    assert eventually(lambda: not left & _devices(label), seconds), left
    assert not psutil.Process().children(recursive=True)


def _devices(label: str) -> set[tuple[str, tuple[int, int]]]:
    return {(status.path, status.backing) for status in loop.bound() if status.label.startswith(label)}

"""What a killed harness may have left, and waiting for it to be gone."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

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


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True

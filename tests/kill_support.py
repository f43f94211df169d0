"""What a killed harness may have left, and waiting for it to be gone."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from pyroute2 import IPRoute, NetlinkError  # type: ignore[import-untyped]

from harness.machine import loop, owners

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


def abandoned_devices() -> set[tuple[str, tuple[int, int]]]:
    """Loop devices of ours whose owner is dead: others, on a busy machine, have one who lives."""
    census = owners.Census()
    return {
        (status.path, status.backing)
        for status in loop.bound()
        if status.owner is None or census.life(status.owner) is not owners.Life.ALIVE
    }


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


class WatchedNetworks:
    """The network namespaces that these processes live in or have open, watched to their end.

    Each is given a number in ours, which keeps nothing alive, and which the kernel forgets when it frees the namespace
    (net/core/net_namespace.c): that shows one that a socket alone still holds, and that no process knows of.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        own = os.stat("/proc/self/ns/net").st_ino
        self.numbers: dict[int, int] = {}
        for path in _network_links(pids):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    inode = os.fstat(fd).st_ino
                    if inode != own and inode not in self.numbers:
                        self.numbers[inode] = _numbered(fd)
                finally:
                    os.close(fd)

    def left(self) -> int:
        """How many of them still live."""
        with IPRoute() as routes:
            return sum(_lives(routes, number) for number in self.numbers.values())

    def gone(self) -> bool:
        return not self.left()


def _network_links(pids: Iterable[int]) -> Iterator[str]:
    for pid in pids:
        yield f"/proc/{pid}/ns/net"
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                with contextlib.suppress(OSError):
                    if os.readlink(path).startswith("net:"):
                        yield path


def _numbered(fd: int) -> int:
    with IPRoute() as routes:
        with contextlib.suppress(NetlinkError):  # it has one already
            routes.set_netnsid(fd=fd)
        number: int = routes.get_netnsid(fd=fd)["nsid"]
        return number


def _lives(routes: Any, number: int) -> bool:
    try:
        routes.get_netnsid(nsid=number)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return False
    return True


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

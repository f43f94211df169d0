"""Whose process made a device: a spelling short enough for the device's mark, and whether that process still lives.

`PID.START.NAMESPACE`, in hexadecimal: the pid as its own PID namespace counts, the clock tick of its start (proc(5),
field 22 of stat), the inode of that namespace. A pid alone is used again; in every trial it is 1.
"""

import contextlib
import enum
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import psutil

_INITIAL = 0xEFFFFFFC  # PROC_PID_INIT_INO of include/linux/proc_ns.h: from there every process is seen
_HIDDEN = 0


class Life(enum.StrEnum):
    """Whether an owner lives. UNKNOWN: it is of a PID namespace that cannot be seen from here."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Owner(NamedTuple):
    """A process: its pid inside its own PID namespace, the tick of its start, the inode of that namespace."""

    pid: int
    start: int
    namespace: int

    def __str__(self) -> str:
        return f"{self.pid:x}.{self.start:x}.{self.namespace:x}"


def this_process() -> Owner:
    """The calling process. A forked child is another owner."""
    return Owner(os.getpid(), _stat_of("self")[1], _namespace_of("self"))


def parse(text: str) -> Owner | None:
    """What `str` made of an owner; None for anything else."""
    words = text.split(".")
    try:
        pid, start, namespace = (int(word, 16) for word in words)
    except ValueError:
        return None
    return Owner(pid, start, namespace)


class Census:
    """All processes that can be seen from here, at one instant."""

    def __init__(self) -> None:
        self._seen = {owner: pid for pid in psutil.pids() for owner in _owners_of(pid)}
        self._inits = {owner.namespace: owner.start for owner in self._seen if owner.pid == 1}
        self._here = _namespace_of("self")

    def pid(self, owner: Owner) -> int:
        """Its pid as counted here; 0 where it cannot be seen."""
        return self._seen.get(owner, 0)

    def life(self, owner: Owner) -> Life:
        """A process of a namespace below ours counts as alive as long as that namespace does: a trial is one owner.

        Of a namespace that is neither ours nor below it nothing is known, unless ours is the first of all.
        """
        if self._seen.keys() & {owner, owner._replace(namespace=_HIDDEN)}:
            return Life.ALIVE
        # The kernel uses inodes again: a namespace whose first process began after the owner is another one.
        if owner.namespace != self._here and self._inits.get(owner.namespace, math.inf) <= owner.start:
            return Life.ALIVE
        return Life.DEAD if self._here in (owner.namespace, _INITIAL) else Life.UNKNOWN


def _owners_of(pid: int) -> Iterator[Owner]:
    """One, or none for a process that vanishes or is a zombie."""
    with contextlib.suppress(OSError):
        state, start, threads = _stat_of(str(pid))
        if state in "ZX" and threads <= 1:
            return
        with open(f"/proc/{pid}/status") as file:
            inner = next(line.split()[-1] for line in file if line.startswith("NSpid:"))
        try:
            namespace = _namespace_of(str(pid))
        except PermissionError:  # it has privileges that we lack
            namespace = _HIDDEN
        yield Owner(int(inner), start, namespace)


def _stat_of(process: str) -> tuple[str, int, int]:
    """State, tick of the start, number of threads: fields 3, 22 and 20 of stat."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return fields[0], int(fields[19]), int(fields[17])


def _namespace_of(process: str) -> int:
    return os.stat(f"/proc/{process}/ns/pid").st_ino

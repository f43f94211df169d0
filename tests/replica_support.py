"""A replica for a test: its folder, over a base, and its process with a client that has opened it."""

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.systems.replicated_volume import history
from fixtures.systems.replicated_volume.replica import create
from fixtures.systems.replicated_volume.solo import Client, Kill, ReplicaProcess
from fixtures.systems.replicated_volume.wire import BLOCK

A, B = b"a" * BLOCK, b"b" * BLOCK


def made(path: str | Path, *, base: bool = True, size: int = history.SIZE) -> str:
    """An empty replica in a folder in `path`."""
    if base:
        history.make_base(f"{path}/base")
    folder = f"{path}/replica"
    create(folder, size, f"{path}/base" if base else None, "r1", ("r1", "r2"))
    return folder


@contextlib.contextmanager
def opened(
    folder: str, *, epoch: int = 1, variant: str = "fixed", kill: Kill | None = None, counter_first: bool = True
) -> Iterator[tuple[ReplicaProcess, Client]]:
    """A process that serves it, and a client with an engine's epoch."""
    with ReplicaProcess(folder, variant=variant, kill=kill) as process, Client(process.address) as client:
        client.open(epoch, f"e{epoch}", counter_first=counter_first)
        yield process, client


@contextlib.contextmanager
def in_memory() -> Iterator[str]:
    """A folder on tmpfs, where an fsync costs nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="replica-") as path:
        yield path


@contextlib.contextmanager
def refused(code: int, match: str | None = None) -> Iterator[None]:
    """What is done inside is answered with this errno, and nothing else happens."""
    with pytest.raises(OSError, match=match) as raised:
        yield
    assert raised.value.errno == code, f"{raised.value}, and not {errno.errorcode[code]}"

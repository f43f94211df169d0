"""A process that answers messages: pid 1 of a PID namespace, two pipes to its parent."""

from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from harness.closing import Closing
from harness.machine.sandbox import Init, spawn_init

Serve = Callable[[Connection, Connection], int]
"""Reads tasks from the first connection until EOFError, writes answers to the second; returns the exit status."""


class Remote(Closing):
    """The parent's handle on such a process. Closing it kills whatever it is doing."""

    def __init__(self, serve: Serve, name: str, *, mounts: bool = True) -> None:
        """`mounts`: it gets a mount namespace of its own; else it shares ours."""
        tasks, self.tasks = Pipe(duplex=False)
        self.told, answers = Pipe(duplex=False)

        def life() -> int:
            self.tasks.close()
            self.told.close()
            return serve(tasks, answers)

        self.init: Init = spawn_init(life, name=name, mounts=mounts)
        tasks.close()
        answers.close()

    @property
    def died(self) -> int:
        """A descriptor that is readable once the process is dead."""
        return self.init.fileno()

    def send(self, message: bytes) -> None:
        self.tasks.send_bytes(message)

    def receive(self) -> bytes | None:
        """What it answered; None if it died before it could."""
        try:
            return self.told.recv_bytes()
        except EOFError:
            return None

    def close(self) -> None:
        self.tasks.close()
        self.told.close()
        self.init.close()

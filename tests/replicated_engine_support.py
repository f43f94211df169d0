"""Replicas and engines as real processes over loopback, in a PID namespace of their own: nothing survives a test."""

import functools
import os
import signal
import socket
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fixtures.systems import lines
from fixtures.systems.children import fork
from fixtures.systems.replicated_volume import control as say
from fixtures.systems.replicated_volume import engine, replica, wire
from fixtures.systems.replicated_volume.remote import Address, Remote
from harness.closing import Closing
from harness.engine.nbd_client import NbdBackend
from harness.machine import mounts, syscalls
from harness.machine.process import wait_readable
from harness.machine.sandbox import spawn_init

SIZE = 4 << 20
BLOCK = wire.BLOCK
SECONDS = 20.0
ANSWER_SECONDS = 2.0
"""So long that a busy machine is no lost replica. Tests of a replica that says nothing take less."""

P = ParamSpec("P")
M = TypeVar("M", bound=say.Reply)


def alone(test: Callable[P, None]) -> Callable[P, None]:
    """The test is run as pid 1 of a namespace: whatever it starts ends with it."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        def life() -> int:
            mounts.enter_anew()
            test(*args, **kwargs)
            return 0

        with spawn_init(life, name="replicated-test") as init:
            assert init.wait(SECONDS) == 0

    return run


def block(number: int, version: int = 1) -> bytes:
    """A block that says which one it is, and of which version."""
    return (f"block {number} version {version} ".encode() * BLOCK)[:BLOCK]


class Life:
    """A process of ours, with one descriptor of ours. `kill` and `wait` reap it; wait gives its exit status."""

    def __init__(self, name: str, main: Callable[[], None], keep: int) -> None:
        self.pid = fork(name, main, 2, {keep})

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        fd = os.pidfd_open(self.pid)
        assert wait_readable(fd, SECONDS), "the process does not end"
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def halt(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Engine:
    """A running engine: its process, its control socket, its endpoint."""

    def __init__(self, life: Life, control: socket.socket, endpoint: str) -> None:
        self.life = life
        self.endpoint = endpoint
        self._control = control
        self._id = 0

    def told(self, kind: type[M]) -> M:
        """What it says next, which must be of this kind."""
        reply = self._next()
        assert isinstance(reply, kind), reply
        return reply

    def order(self, make: Callable[[int], say.Order]) -> say.Reply:
        """Give an order and take the answer."""
        self._id += 1
        lines.send(self._control, make(self._id))
        reply = self._next()
        assert getattr(reply, "id", 0) == self._id, reply
        return reply

    def replicas(self) -> say.Replicas:
        reply = self.order(say.Ask)
        assert isinstance(reply, say.Replicas)
        return reply

    def stop(self) -> None:
        """End in order."""
        assert isinstance(self.order(say.Stop), say.Done)
        assert self.life.wait() == 0

    def _next(self) -> say.Reply:
        assert wait_readable(self._control.fileno(), SECONDS), "the engine says nothing"
        reply = say.next_reply(self._control)
        assert reply, "the engine is gone"
        return reply

    def hang_up(self) -> None:
        """Its supervisor is gone."""
        self._control.close()

    def client(self) -> NbdBackend:
        return NbdBackend(self.endpoint, answer_seconds=SECONDS)


class Stage(Closing):
    """Replicas `r0`, `r1`, … of an empty volume, each a process with a folder, and what is needed to start engines."""

    def __init__(self, count: int = 3, variant: str = "fixed", small: int | None = None) -> None:
        """`small`: this one's folder lies on a file system of 32 blocks."""
        self.variant = variant
        self.folder = mounts.own_folder(mounts.enter_private_mounts())
        self.names = tuple(f"r{number}" for number in range(count))
        self.addresses: list[Address] = []
        self.lives: list[Life | None] = []
        self.places = [f"{self.folder}/{name}" for name in self.names]
        self._engines: list[Engine] = []
        for number, name in enumerate(self.names):
            if number == small:
                os.mkdir(self.path(number))
                syscalls.mount("small", self.path(number), "tmpfs", 0, f"size={32 * BLOCK}")
            replica.create(self.path(number), SIZE, None, name, self.names)
            self.addresses.append(("127.0.0.1", 0))
            self.lives.append(None)
            self.start(number)

    def path(self, number: int) -> str:
        return self.places[number]

    def start(self, number: int, step: Callable[[str], None] = lambda _: None) -> None:
        """Start the replica's process, at the address that it always has."""
        listener = socket.create_server(self.addresses[number])
        self.addresses[number] = listener.getsockname()

        def main() -> None:
            replica.serve(listener, self.path(number), variant=self.variant, step=step)

        self.lives[number] = Life(f"replica-{number}", main, listener.fileno())
        listener.close()

    def life(self, number: int) -> Life:
        life = self.lives[number]
        assert life
        return life

    def kill(self, *numbers: int) -> None:
        for number in numbers:
            self.life(number).kill()
            self.lives[number] = None

    def engine(
        self,
        epoch: int = 1,
        *,
        variant: str = "",
        step: Callable[[str], None] = lambda _: None,
        lazy: bool = False,
        step_after_first: bool = False,
        counter_first: bool = True,
        answer_seconds: float = ANSWER_SECONDS,
        refused: bool = False,
    ) -> Engine:
        """Start an engine; unless it is lazy, or to be refused, it serves when this returns."""
        number = len(self._engines) + 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        endpoint = f"{self.folder}/engine-{number}"

        def main() -> None:
            engine.serve(
                endpoint,
                list(zip(self.names, self.addresses, strict=True)),
                epoch=epoch,
                engine_id=f"engine-{number}",
                variant=variant or self.variant,
                step=step,
                control=theirs,
                lazy=lazy,
                step_after_first=step_after_first,
                counter_first=counter_first,
                answer_seconds=answer_seconds,
            )

        started = Engine(Life(f"engine-{number}", main, theirs.fileno()), ours, endpoint)
        theirs.close()
        self._engines.append(started)  # one whose control socket is closed ends
        if not lazy and not refused:
            started.told(say.Serving)
        if not refused:
            started.told(say.Listening)
        return started

    def state(self, number: int) -> wire.State:
        """What the replica says of itself."""
        with Remote(self.names[number], self.addresses[number], ANSWER_SECONDS) as remote:
            answer = remote.ask(wire.Status())
        assert isinstance(answer, wire.State)
        return answer

    def content(self, number: int) -> bytes:
        """All that the volume holds, on this replica."""
        return replica.flatten(self.path(number))

    def epoch(self, number: int) -> int:
        """What the replica's metadata say, whether it runs or not."""
        return replica.read_meta(self.path(number)).epoch

    def close(self) -> None:
        for number, life in enumerate(self.lives):
            if life:
                self.kill(number)

"""The engine's own code over replicas that are a few lines each, so that every place of a fault can be tried.

A volume of one block. Each message to a replica is an event, numbered in its order; a fault strikes at one of them.
"""

import errno
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec

from fixtures.systems.replicated_volume import wire
from fixtures.systems.replicated_volume.mirror import FRAME, Fenced, Mirror, NobodyLeft
from fixtures.systems.replicated_volume.opening import CannotServe, take_over
from fixtures.systems.replicated_volume.remote import HEAD
from fixtures.systems.replicated_volume.salvage import Choice, choose

NAMES = ("a", "b", "c")
_LIVES = 2
_EPOCHS = 100
"""Of each engine: what an old one counts up never comes near the epochs of the next."""

Fault = Literal["lost", "answer-lost", "crash", "intrude"]
"""The message is not delivered and the connection lost; delivered, and the answer lost with the connection; delivered,
and the engine dies; before it, an older engine that is still alive writes."""

_READ_ONLY = (wire.Status, wire.Allocated, wire.Hashes)


class Crash(BaseException):
    """The engine dies. Nothing in it may catch this."""


class Disk:
    """What is durable of one replica."""

    def __init__(self, name: str) -> None:
        self.state = wire.State(
            name=name,
            epoch=0,
            engine="",
            members=NAMES,
            counter=0,
            dirty=False,
            mode="RW",
            size=wire.BLOCK,
            head="",
            chain=(),
            snapshots=(),
            allocated=0,
            mtime_ns=0,
            flatten="",
            sessions=1,
        )
        self.version = 0

    def set(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)


class World:
    """Replicas, faults by the number of the event that they strike at, and what was promised."""

    def __init__(self, variant: str, faults: Mapping[int, Fault]) -> None:
        self.variant = variant
        self.disks = {name: Disk(name) for name in NAMES}
        self.faults = faults
        self.events: list[tuple[Fault, ...]] = []
        """Of each event, the faults that could strike at it and that others do not stand for."""
        self.acked = self.issued = 0
        self.problems: list[str] = []
        self.older: Mirror | None = None
        self._engines = itertools.count(1)

    def event(self, *possible: Fault) -> Fault | None:
        """Count it. Returns the fault that strikes, if it is a possible one."""
        number = len(self.events)
        self.events.append((*possible, *(("intrude",) if self.older else ())))
        fault = self.faults.get(number)
        if fault == "intrude" and self.older:
            older, self.older = self.older, None
            self.write(older, older=True)
        return fault

    def write(self, mirror: Mirror, *, older: bool = False) -> None:
        """The next version, promised when the engine says so."""
        self.issued += 1
        version = self.issued
        frame = memoryview(bytearray(FRAME) + version.to_bytes(wire.BLOCK, "little"))

        def done() -> None:
            self.acked = max(self.acked, version)

        try:
            mirror.change(wire.WRITE, 0, wire.BLOCK, frame, done)
        except (Fenced, NobodyLeft):
            if not older:
                raise

    def read(self, mirror: Mirror) -> None:
        """From each replica in sync: the same, and nothing older than was promised."""
        into = memoryview(bytearray(HEAD + wire.BLOCK))
        seen = set()
        for _ in NAMES:
            mirror.read(0, wire.BLOCK, into)
            seen.add(int.from_bytes(into[HEAD:], "little"))
        if len(seen) > 1 or min(seen) < self.acked:
            self.problems.append(f"reads gave {sorted(seen)}, {self.acked} was acknowledged")

    def engine(self) -> Mirror:
        """A new engine takes over. Raises CannotServe, Fenced, NobodyLeft, Crash."""
        number = next(self._engines)
        mirror = take_over(
            {name: lambda name=name: Model(self, name) for name in NAMES},  # type: ignore[misc]
            wire.Open(number * _EPOCHS, f"engine-{number}"),
            variant=self.variant,
            step=lambda _: None,
        )
        self._check(mirror.members, "after a start")
        return mirror

    def salvaged(self) -> None:
        """Whatever can be asked, from here on: what is chosen has all that was promised."""
        for count in range(1, len(NAMES) + 1):
            for reachable in itertools.combinations(NAMES, count):
                states = {name: self.disks[name].state if name in reachable else None for name in NAMES}
                choice = choose(states, self.variant)
                if isinstance(choice, Choice):
                    self._check(choice.in_sync, f"of {', '.join(reachable)}")

    def _check(self, chosen: tuple[str, ...], when: str) -> None:
        for name in chosen:
            if self.disks[name].version < self.acked:
                self.problems.append(f"{name} is in sync {when}, and has {self.disks[name].version} of {self.acked}")


class Model:
    """See remote.Replica: one connection of an engine to one replica."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.patience = 1
        self._world = world
        self._disk = world.disks[name]
        self._epoch = 0
        self._engine = ""
        self._lost = False
        self._answer = 0
        if world.event("lost") == "lost":
            raise self._gone()

    def send(self, frame: memoryview) -> None:
        op, _, _, _, _ = wire.REQUEST.unpack_from(frame)
        if op == wire.READ:
            self._deliver(lambda: None, "lost")
        else:
            self._deliver(lambda: self._write(frame), "lost", "answer-lost", "crash")

    def settle(self, cookie: int) -> None:
        del cookie
        self._connected()
        self._refuse_if(self._answer)

    def fetch(self, cookie: int, into: memoryview) -> None:
        del cookie
        self._connected()
        into[HEAD:] = self._disk.version.to_bytes(wire.BLOCK, "little")

    def ask(self, call: wire.Call | wire.Open) -> wire.Answer | None:
        if isinstance(call, _READ_ONLY):
            self._deliver(lambda: None, "lost")
        else:
            self._deliver(lambda: self._obey(call), "lost", "answer-lost", "crash")
        self._connected()
        self._refuse_if(self._answer)
        match call:
            case wire.Status():
                return self._disk.state
            case wire.Allocated():
                return wire.Extents(((0, wire.BLOCK),) if self._disk.version else ())
            case wire.Hashes():
                return wire.Digests(self._disk.version.to_bytes(wire.DIGEST, "little"))
        return None

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        self._lost = True

    def _deliver(self, do: Callable[[], None], *possible: Fault) -> None:
        self._connected()
        fault = self._world.event(*possible)
        if fault == "lost" and fault in possible:
            raise self._gone()
        self._answer = 0
        do()
        if fault in possible and fault == "crash":
            raise Crash
        if fault in possible and fault == "answer-lost":
            self._lost = True

    def _write(self, frame: memoryview) -> None:
        self._fence(self._epoch)
        if not self._answer:
            self._disk.version = int.from_bytes(frame[FRAME:], "little")
            self._disk.set(counter=self._disk.state.counter + 1, dirty=True)

    def _obey(self, call: wire.Call | wire.Open) -> None:
        match call:
            case wire.Open(epoch=epoch, engine=engine):
                self._engine = engine
                self._fence(epoch)
                if not self._answer:
                    self._epoch = epoch
                    self._disk.set(epoch=epoch, engine=engine)
                return
            case wire.SetEpoch(epoch=epoch, members=members):
                self._fence(self._epoch)
                if not self._answer:
                    self._epoch = epoch
                    self._disk.set(epoch=epoch, engine=self._engine, members=members)
                return
        self._fence(self._epoch)
        if self._answer:
            return
        match call:
            case wire.SetMode(mode=mode):
                self._disk.set(mode=mode)
            case wire.CloseClean():
                self._disk.set(dirty=False)

    def _fence(self, epoch: int) -> None:
        state = self._disk.state
        over = epoch < state.epoch or (epoch == state.epoch and state.engine not in ("", self._engine))
        self._answer = errno.ESTALE if over and self._world.variant != "no-fencing" else 0

    def _connected(self) -> None:
        if self._lost:
            raise self._gone()

    def _gone(self) -> OSError:
        self._lost = True
        return ConnectionResetError(errno.ECONNRESET, f"{self.name} is lost")

    def _refuse_if(self, number: int) -> None:
        if number:
            raise OSError(number, f"{self.name} refuses")


def run(variant: str, faults: Mapping[int, Fault]) -> World:
    """Engines take over one after another: write, rebuild what is behind, write, read; the last one closes clean."""
    world = World(variant, faults)
    for life in range(_LIVES):
        try:
            mirror = world.engine()
            world.read(mirror)
            world.write(mirror)
            while mirror.rebuilding:
                mirror.rebuild_piece()
            world.write(mirror)
            world.read(mirror)
            world.older = mirror
            if life == _LIVES - 1:
                mirror.tell_all(wire.CloseClean())
        except (Crash, CannotServe, Fenced, NobodyLeft):
            pass
        world.salvaged()
    return world


def explored(variant: str, count: int) -> Iterator[tuple[dict[int, Fault], World]]:
    """Every run with at most `count` faults, at every event and of every kind that no other stands for."""
    waiting: list[dict[int, Fault]] = [{}]
    while waiting:
        faults = waiting.pop()
        world = run(variant, faults)
        yield faults, world
        if len(faults) < count:
            first = max(faults, default=-1) + 1
            waiting += [
                {**faults, number: fault}
                for number in range(first, len(world.events))
                for fault in world.events[number]
            ]

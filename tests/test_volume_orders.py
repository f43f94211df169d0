"""Operations on a volume in any order: what it says is what the kernel has."""

import os
import shutil
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from volume_support import (
    EXT4,
    VirtualClock,
    eventually,
    fresh,
    place,
    write,
)

from harness.errors import Misuse, VolumeStuck
from harness.volume.disks import PlainDisk
from harness.volume.life import Volume
from harness.volume.states import TRANSITIONS, State

pytestmark = pytest.mark.root


class Life(RuleBasedStateMachine):
    """What the volume says is what the kernel has, whatever is done to it in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.target = place("machine")
        self.image = fresh()
        self.disk = PlainDisk(EXT4, self.image, "machine")
        self.kept: list[int] = []
        self.durable: set[str] = set()
        self.expected = State.CREATED
        self.open()

    def open(self) -> None:
        self.volume = Volume("v", self.disk, f"{self.folder}/v.journal", clock=VirtualClock())

    @rule()
    def attach(self) -> None:
        if self.expected in (State.CREATED, State.DETACHED):
            self.volume.attach("node")
            self.expected = State.ATTACHED
        else:
            self.refused(lambda: self.volume.attach("node"), (Misuse, VolumeStuck))

    @rule()
    def mount(self) -> None:
        if self.expected is State.ATTACHED:
            self.volume.mount(self.target)
            self.expected = State.MOUNTED
            for name in self.durable:
                assert os.path.exists(f"{self.target}/{name}"), name
        else:
            self.refused(lambda: self.volume.mount(self.target))

    @rule()
    def detach(self) -> None:
        if self.expected in (State.CREATED, State.DETACHED):
            self.refused(self.volume.detach)
        elif self.busy():
            with pytest.raises(VolumeStuck, match="held by"):
                self.volume.detach(timeout=0.5)
            self.expected = State.DETACHING
        else:
            assert not self.volume.detach(timeout=0.5).forced
            self.expected = State.DETACHED

    @rule()
    def force(self) -> None:
        if self.expected in (State.CREATED, State.DETACHED):
            self.refused(self.volume.force_detach)
        else:
            assert self.volume.force_detach().forced
            self.expected = State.DETACHED

    @rule()
    def reopen(self) -> None:
        self.volume.close()
        self.open()

    @precondition(lambda self: self.expected is State.MOUNTED)
    @rule()
    def write(self) -> None:
        name = f"file-{len(self.durable)}"
        write(f"{self.target}/{name}", b"x")
        self.durable.add(name)

    @precondition(lambda self: os.path.ismount(self.target))
    @rule()
    def keep(self) -> None:
        self.kept.append(os.open(self.target, os.O_RDONLY))

    @precondition(lambda self: self.kept)
    @rule()
    def let_go(self) -> None:
        os.close(self.kept.pop())

    @precondition(lambda self: self.expected is State.MOUNTED)
    @rule()
    def pull_out(self) -> None:
        self.disk.remove()
        assert self.volume.recover().state is State.FAILED
        self.expected = State.FAILED

    @invariant()
    def is_what_the_kernel_has(self) -> None:
        live = [status for status in self.disk.bound() if not status.removed]
        assert len(live) <= 1, "split"
        assert self.volume.state is self.expected
        assert bool(live) == (self.expected in (State.ATTACHED, State.MOUNTED) or self.still_detaching())
        for before, after in zip(self.volume.history, self.volume.history[1:], strict=False):
            assert after.state is before.state or after.state in TRANSITIONS[before.state]

    def still_detaching(self) -> bool:
        return self.expected is State.DETACHING and any(not status.removed for status in self.disk.bound())

    def busy(self) -> bool:
        """Whether a descriptor of ours is on the volume's current file system."""
        device = self.volume.last.device
        return any(os.fstat(fd).st_dev == os.stat(device).st_rdev for fd in self.kept)

    def refused(self, operation: Callable[[], object], error: tuple[type[Exception], ...] = (Misuse,)) -> None:
        before = self.volume.history
        with pytest.raises(error, match=r"^volume v "):
            operation()
        assert self.volume.history == before

    def teardown(self) -> None:
        for fd in self.kept:
            os.close(fd)
        if self.volume.state not in (State.CREATED, State.DETACHED):
            self.volume.detach()
        self.volume.close()
        eventually(lambda: not self.disk.bound(), "something is still bound")
        self.image.close()
        shutil.rmtree(self.folder)


def test_any_order_of_operations() -> None:
    run_state_machine_as_test(
        Life, settings=settings(max_examples=25, stateful_step_count=12, deadline=None, derandomize=True)
    )

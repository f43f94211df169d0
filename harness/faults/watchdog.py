"""The last resort, in the one order that works: give the device back first, kill second.

A process that waits in the kernel for a device that is gone cannot be killed: SIGKILL is taken when the wait ends. So
at the deadline the device is restored (no size limit, no rule, the engine goes on) and what hung gets going; those who
have not ended shortly after are killed.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

from harness.closing import Closing
from harness.errors import HarnessError
from harness.faults.target import Target
from harness.machine.hanging import Call
from harness.machine.process import wait_readable

GRACE_SECONDS = 0.5
"""How long those who are to be killed have for their own end, once the device is back."""

STEP_SECONDS = 5.0


class Watchdog(Closing):
    """A context manager: unless it is left before, the targets are restored after `seconds`, and `pids` killed.

    `did` then says, in order, what had to be done. It is empty if the block ended in time.
    """

    def __init__(
        self,
        seconds: float,
        *targets: Target,
        pids: Sequence[int] = (),
        grace: float = GRACE_SECONDS,
        patience: float = STEP_SECONDS,
    ) -> None:
        """`grace`: seconds between the device's return and the kill; `patience`: what one step of the return may take.

        Raises ProcessLookupError for what is no pid.
        """
        self.did: list[str] = []
        self._targets = targets
        self._pidfds = {}
        for pid in pids:
            self._pidfds[pid] = os.pidfd_open(pid)
        self._grace = grace
        self._patience = patience
        self._called_off = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(seconds,), name="harness-watchdog", daemon=True)
        self._thread.start()

    @property
    def bit(self) -> bool:
        """The deadline passed, and it had to act."""
        return bool(self.did)

    def close(self) -> None:
        """Call it off. What it has begun it ends first."""
        self._called_off.set()
        self._thread.join()
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds = {}

    def _watch(self, seconds: float) -> None:
        if self._called_off.wait(seconds):
            return
        for target in self._targets:
            self.did += restore(target, self._patience)
        self._kill_all()

    def _kill_all(self) -> None:
        give_up_at = time.monotonic() + self._grace
        for pid, pidfd in self._pidfds.items():
            if wait_readable(pidfd, max(0.0, give_up_at - time.monotonic())):
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                self.did.append(f"killed process {pid}")
            if not wait_readable(pidfd, self._patience):
                self.did.append(f"process {pid} survives SIGKILL")


def restore(target: Target, seconds: float = STEP_SECONDS) -> list[str]:
    """Make the device answer again, whatever fault is in force, and say what was done. Each step may take `seconds`.

    An engine that takes no order is killed: then every request fails, which ends a wait too.
    """
    name = target.disk.device.name if target.disk.device else target.disk.label or "the disk"
    engine = target.engine
    did = []
    if engine and target.served:
        with contextlib.suppress(ProcessLookupError):
            target.served.wake_engine()
        if _in_time(engine.heal, seconds):
            did.append(f"healed the engine of {name}")
        else:
            engine.slay(seconds)
            did.append(f"killed the engine of {name}, which took no order")
    if target.disk.device:
        given_back = _in_time(target.disk.restore, seconds)
        did.append(f"gave {name} its capacity back" if given_back else f"could not give {name} its capacity back")
    return did


def _in_time(do: Callable[[], None], seconds: float) -> bool:
    """Whether it came to its end, well and soon."""
    try:
        return Call(do).is_over(seconds)
    except (OSError, HarnessError):
        return False

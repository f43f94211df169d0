"""Live trials: a system of real processes on real volumes, a plan, a fault, and what became of the promises.

A system under test is a `System`: its variants (which of them are at fault, and with which finding), the plans that can
be drawn for it, and a function that runs one trial. Each trial runs in a process of its own, pid 1 of a namespace with
mounts of its own: whatever the system starts, daemonizes or leaves mounted ends with the trial.
"""

import contextlib
import os
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import msgspec

from harness.errors import HarnessError, InternalError, Misuse
from harness.machine import loop, mounts
from harness.machine.sandbox import Init, spawn_init
from harness.oracle.examine import harness_fault
from harness.verdict import Finding, FindingKind, Verdict, worst

P = TypeVar("P", bound=msgspec.Struct)

SECONDS = 60.0
"""What one trial may take, where its system does not say otherwise."""

_RESTORED_SECONDS = 5.0


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What lines tell badly: replicas and their counters, readers and checksums. A row has a cell for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Trial(msgspec.Struct, kw_only=True):
    """What came of one plan. `story`: what happened, line by line, with the times that matter. `kernel`: its words."""

    findings: list[Finding] = []
    story: list[str] = []
    kernel: list[str] = []
    facts: dict[str, str] = {}
    """For tables: "pid unchanged", "acknowledged", …"""
    tables: list[Table] = []

    @property
    def verdict(self) -> Verdict:
        """CORRUPTED or UNKNOWN where a finding says so; a trial without findings is INTACT."""
        return worst([finding.verdict for finding in self.findings]) if self.findings else Verdict.INTACT

    @property
    def convictions(self) -> set[FindingKind]:
        """The kinds of what the system is convicted of."""
        return {finding.kind for finding in self.findings if finding.verdict is Verdict.CORRUPTED}

    @property
    def kinds(self) -> list[FindingKind]:
        """The kinds of what is wrong, in the order in which it was found, without those that convict nobody."""
        return [finding.kind for finding in self.findings if finding.verdict is not Verdict.INTACT]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a system is built. `finding` None: it is right, and every plan must be INTACT."""

    name: str
    about: str
    finding: FindingKind | None = None


class System(msgspec.Struct, Generic[P], frozen=True, kw_only=True):
    """A system under test. `run(variant's name, plan)` is called in the trial's own process, as root, pid 1.

    `home` is the module in which it stands as SYSTEM: `harness trial` finds it there.
    `plans` is a Hypothesis strategy of `plan_type`, a frozen msgspec.Struct whose JSON is the plan in commands and
    reports. `seconds` bounds one trial.
    `points` are named places in the system's work at which plans kill it ("U0"); `at(point)` is the strategy of the
    plans that do it there. A system has both or neither. `check(plan)` raises Misuse for what can never strike.
    """

    name: str
    about: str
    home: str = ""
    variants: tuple[Variant, ...]
    plan_type: type[P]
    plans: Any
    run: Callable[[str, P], Trial]
    seconds: float = SECONDS
    check: Callable[[P], P] | None = None
    points: tuple[str, ...] = ()
    at: Callable[[str], Any] | None = None

    def variant(self, name: str) -> Variant:
        """Raises Misuse for an unknown one."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise Misuse(f"{self.name} has no variant {name!r}", f"choose one of {known}")

    def plans_at(self, point: str) -> Any:
        """The strategy of the plans that strike at this kill point. Raises Misuse for an unknown one."""
        if self.at is None or point not in self.points:
            known = f"choose one of {', '.join(self.points)}" if self.points else "give a plan"
            raise Misuse(f"{self.name} has no kill point {point!r}", known)
        return self.at(point)

    def plan(self, text: str | bytes) -> P:
        """A plan from its JSON. Raises Misuse, saying where, for what is none, or can never strike."""
        try:
            plan = msgspec.json.decode(text, type=self.plan_type)
        except msgspec.MsgspecError as error:
            raise Misuse(f"not a plan of {self.name}: {error}", "copy it whole from the report") from None
        return self.check(plan) if self.check else plan

    def text(self, plan: P) -> str:
        """The plan as it stands in a command."""
        return msgspec.json.encode(plan).decode()

    def trial(self, variant: str, plan: P) -> Trial:
        """Run one, in a process of its own. What goes wrong with the harness itself is a finding, UNKNOWN."""
        self.variant(variant)
        return isolated(lambda: self.run(variant, plan), self.seconds)


def isolated(run: Callable[[], Trial], seconds: float) -> Trial:
    """Run `run` as pid 1 of a new PID and mount namespace. One that does not end in time is UNKNOWN.

    What hangs in the kernel may hang on a device that a fault took away: the watchdog gives all devices of this trial
    back first, and kills second.
    """
    told, tell = Pipe(duplex=False)

    def life() -> int:
        told.close()
        return _tell(tell, run)

    with spawn_init(life, name="harness-trial") as init:
        tell.close()
        if told.poll(seconds):
            answer = _received(told)
        else:
            waits = _RESTORED_SECONDS if _give_back(init) else 0
            answer = _received(told) if told.poll(waits) else None
            if answer is None:
                answer = _unknown(f"the trial did not end within {seconds:g} s, and was killed")
        if answer is None:
            status = init.wait(_RESTORED_SECONDS)
            answer = _unknown(f"the process of the trial died (status {status})")
    told.close()
    return answer


def _tell(tell: Connection, run: Callable[[], Trial]) -> int:
    try:
        mounts.enter_anew()
        trial = run()
    except HarnessError as error:
        trial = Trial(findings=[harness_fault(error)])
    except Exception as error:
        finding = msgspec.structs.replace(harness_fault(error), output=traceback.format_exc())
        trial = Trial(findings=[finding])
    tell.send_bytes(msgspec.msgpack.encode(trial))
    return 0


def _received(told: Connection) -> Trial | None:
    try:
        return msgspec.msgpack.decode(told.recv_bytes(), type=Trial)
    except EOFError:
        return None


def _unknown(summary: str) -> Trial:
    return Trial(findings=[harness_fault(InternalError(summary))])


def _give_back(init: Init) -> bool:
    """Give back the devices of this trial that have no capacity. False: there are none.

    No other trial's device is touched: whose it is stands in its mark.
    """
    namespace = os.stat(f"/proc/{init.pid}/ns/pid_for_children").st_ino
    found = False
    for path, _ in loop.removed():
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                status = loop.status_at(fd, path)
                if status and status.owner and status.owner.namespace == namespace:
                    found = True
                    loop.limit(fd, 0)
            finally:
                os.close(fd)
    return found

"""Plans that are run on real volumes and then judged by the oracle where they are, without any power cut."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.blocklog import Promise
from harness.machine.image import Image
from harness.oracle.checks import Checker, RecoveredState
from harness.oracle.plan_check import PlanCheck
from harness.plan.interpreter import run_plan
from harness.plan.operations import Operation
from harness.plan.plan import Outcome, Plan, persistence_points
from harness.settings import Settings
from harness.verdict import Finding
from harness.volume import VolumeSpec, mounted_plain

MakeChecker = Callable[[Plan, Sequence[Outcome]], Checker]


def spec_of(fs: str) -> VolumeSpec:
    return VolumeSpec.of(Settings(fs=fs, size=16 << 20 if fs.startswith("ext") else 0))


@contextmanager
def fresh_volume(base: Image, fs: str) -> Iterator[str]:
    """The root of an empty volume."""
    with base.copy() as image, mounted_plain(image, spec_of(fs)) as root:
        yield root


def run(root: str, operations: Sequence[Operation], setup: Sequence[Operation] = ()) -> tuple[Plan, list[Outcome]]:
    plan = Plan(setup=tuple(setup), operations=tuple(operations))
    return plan, run_plan(plan, root, lambda _: None)


def state(root: str, points: int) -> RecoveredState:
    """As a volume recovered after so many promises."""
    return RecoveredState(root, [Promise(at=0, raw=b"", is_json=False)] * points)


def points_of(plan: Plan, outcomes: Sequence[Outcome]) -> int:
    return len(persistence_points(plan.all, outcomes))


def findings_as_run(root: str, plan: Plan, outcomes: Sequence[Outcome], fs: str, contract: str) -> list[Finding]:
    """What is wrong with the volume just as the plan left it, after every cut that may leave it so.

    That is after the last persistence call, and before it where nothing came after it. In the end, empties the volume.
    """
    points = points_of(plan, outcomes)
    possible = {points}
    if points and persistence_points(plan.all, outcomes)[-1] == len(plan.all) - 1:
        possible.add(points - 1)
    check = PlanCheck(plan, outcomes, contract, file_system=fs, works=False)
    found = [finding for each in sorted(possible) for finding in check(state(root, each))]
    return found or PlanCheck(plan, outcomes, contract, file_system=fs)(state(root, points))

"""How fast enumerated plans are recorded and judged. `python tests/benchmarks/bench_plans.py [ext4 | xfs | btrfs]`

Prints figures of one run; decides nothing. Needs root. Every sequence of one core operation within the published
bounds: cut only after each persistence point; then every state of the model subset, without fsck; then with it.
"""

import sys
import time
from typing import NamedTuple

from harness.blocklog import Promise
from harness.campaign.fleet import Job, judged
from harness.oracle.checks import RecoveredState
from harness.oracle.plan_check import PlanCheck
from harness.plan.enumeration import sequences
from harness.plan.interpreter import run_plan
from harness.plan.operations import Creat, Link, Mkdir, Sync, Write
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.devices import workers_wanted
from harness.trial.lab import open_labs
from harness.verdict import worst
from harness.volume import VolumeSpec, make_base, mounted_plain


class Measured(NamedTuple):
    """Of one pass over all sequences."""

    plans: int
    states: int
    seconds: float
    verdict: str


def measure(settings: Settings) -> Measured:
    with open_labs(settings, workers_wanted(settings)) as labs:
        started = time.monotonic()
        reports = [j.report for _, j in judged(labs, (Job(s.id, s.plan) for s in sequences(1)))]
        seconds = time.monotonic() - started
    states = sum(report.judged for report in reports)
    return Measured(len(reports), states, seconds, worst(report.verdict for report in reports))


def cost_of_the_check() -> float:
    """Milliseconds of one processor that the oracle takes for a tree of 6 entries, deleting it included."""
    tree = (
        Mkdir(path="A"),
        Creat(path="foo"),
        Write(path="foo", length=9000),
        Creat(path="A/foo"),
        Link(path="foo", new="A/bar"),
        Creat(path="bar"),
        Mkdir(path="B"),
        Sync(),
    )
    plan, spec = Plan(operations=tree), VolumeSpec.of(Settings())
    spent = []
    with make_base(spec) as base, mounted_plain(base, spec) as root:
        for _ in range(50):
            check = PlanCheck(plan, run_plan(plan, root, lambda _: None))
            check.expected(1)
            started = time.process_time()
            assert not check(RecoveredState(root, [Promise(at=0, raw=b"", is_json=False)]))
            spent.append(time.process_time() - started)
    return sorted(spent)[len(spent) // 2] * 1000


def main(fs: str) -> None:
    """The check alone, then the three passes."""
    print(f"the oracle alone, a tree of 6 entries: {cost_of_the_check():.2f} ms")
    points = measure(Settings(fs=fs, cuts="promises", fsck=False))
    print(
        f"{fs}, cut after each persistence point: {points.plans} plans, {points.plans / points.seconds:.0f} plans/s "
        f"(wanted on ext4: 60), {points.states} states, {points.verdict}"
    )
    plain = measure(Settings(fs=fs, fsck=False))
    print(
        f"{fs}, every state of the model subset, no fsck: {plain.states / plain.seconds:.0f} states/s "
        f"(wanted on ext4: 450), {plain.states} states, {plain.verdict}"
    )
    checked = measure(Settings(fs=fs))
    print(
        f"{fs}, the same with fsck: {checked.seconds:.0f} s (wanted on ext4: under 180), "
        f"{checked.states / checked.seconds:.0f} states/s, {checked.states} states, {checked.verdict}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:] or ["ext4"])

"""How fast enumerated plans are recorded and judged. `python tests/benchmarks/bench_plans.py [ext4 | xfs | btrfs]`

Prints figures of one run; decides nothing. Needs root. Every sequence of one core operation within the published
bounds: cut only after each persistence point; then every state of the model subset, without fsck; then with it.
"""

import sys
import time
from typing import NamedTuple

from harness.campaign.fleet import Job, judged
from harness.plan.enumeration import sequences
from harness.settings import Settings
from harness.trial.devices import workers_wanted
from harness.trial.lab import open_labs
from harness.verdict import worst


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


def main(fs: str) -> None:
    """The three passes."""
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

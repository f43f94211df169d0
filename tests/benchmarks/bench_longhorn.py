"""Live-upgrade kill trials of the replicated volume: how long one takes, with three replicas.

    python3 tests/benchmarks/bench_longhorn.py [--trials N]

Asked for: under 400 ms at the median. One trial: three hosts with a replica each, two nodes; a volume attached,
mounted and written to; a live upgrade with the engine killed at one of its places; recovery, a new pod, all read and
judged.
"""

import argparse
import statistics
import time

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import EVERYBODY, UPGRADE, Kill, Point
from fixtures.systems.replicated_volume.trial import base
from harness.verdict import Verdict


def measured(point: Point) -> float:
    """Seconds of one trial. A verdict that is not INTACT ends the benchmark: it would measure something else."""
    plan = ReplicatedPlan(kill=Kill(at=point), cleanups=tuple(EVERYBODY))
    started = time.perf_counter()
    trial = SYSTEM.trial("fixed", plan)
    took = time.perf_counter() - started
    if trial.verdict is not Verdict.INTACT:
        raise SystemExit(f"not INTACT: {trial.findings}")
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=20, help="of each kill point")
    trials = parser.parse_args().trials
    base()
    took: dict[str, list[float]] = {point: sorted(1000 * measured(point) for _ in range(trials)) for point in UPGRADE}
    took["all"] = sorted(each for times in took.values() for each in times)
    for name, times in took.items():
        middle, late = statistics.median(times), times[int(0.95 * len(times))]
        print(f"{name:<4} median {middle:6.1f} ms   95 % {late:6.1f} ms   least {times[0]:6.1f} ms")


if __name__ == "__main__":
    main()

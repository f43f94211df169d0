"""Live kill trials: how long one takes, and how many a second this machine makes.

    python3 tests/benchmarks/bench_live.py [--trials N] [--workers N]

Asked for: under 60 ms at the median for a fresh volume, a plan of 20 operations, the engine killed, the device removed,
attached again, mounted, judged; at least 25 trials a second on 2 cores.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from harness.faults import At, EngineKill, Fault, Remove, WriterKill
from harness.machine import mounts
from harness.machine.image import Image
from harness.machine.remote import Remote
from harness.plan import operations as op
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.kill import KillBench
from harness.verdict import Verdict
from harness.volume import VolumeSpec, make_base

_STEPS = 20


def plan() -> Plan:
    """20 operations: five files, each made, written, fsynced and renamed."""
    operations: list[op.Operation] = []
    for n in range(_STEPS // 4):
        operations += [
            op.Creat(path=f"f{n}"),
            op.Write(path=f"f{n}", length=8192),
            op.Fsync(path=f"f{n}"),
            op.Rename(path=f"f{n}", new=f"g{n}"),
        ]
    return Plan(operations=tuple(operations))


def engine(n: int) -> Fault:
    return EngineKill(at=At.operation(n))


def writer(n: int) -> Fault:
    return WriterKill(at=At.operation(n))


def removal(n: int) -> Fault:
    return Remove(at=At.operation(n))


def measured(bench: KillBench, strike: Callable[[int], Fault], trials: int) -> list[float]:
    """Seconds of each trial. A verdict that is not INTACT ends the benchmark: it would measure something else."""
    took = []
    for n in range(trials):
        started = time.perf_counter()
        struck = bench.trial(plan(), strike(4 + n % (_STEPS - 4)))
        took.append(time.perf_counter() - started)
        if struck.verdict is not Verdict.INTACT:
            raise SystemExit(f"not INTACT: {struck.findings}")
    return took


def rate(settings: Settings, base: Image, workers: int, trials: int) -> float:
    """Trials a second of so many processes at once, each with a bench of its own."""

    def serve(tasks: Connection, answers: Connection) -> int:
        with KillBench(settings, base) as bench:
            measured(bench, engine, 3)
            answers.send_bytes(b"ready")
            tasks.recv_bytes()
            answers.send_bytes(msgspec.msgpack.encode(measured(bench, engine, trials)))
        return 0

    remotes = [Remote(serve, "bench") for _ in range(workers)]
    for remote in remotes:
        remote.receive()
    started = time.perf_counter()
    for remote in remotes:
        remote.send(b"go")
    for remote in remotes:
        if remote.receive() is None:
            raise SystemExit("a worker failed")
    took = time.perf_counter() - started
    for remote in remotes:
        remote.close()
    return workers * trials / took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    mounts.enter_private_mounts()
    for fs, fsck in (("ext4", False), ("ext4", True), ("xfs", False), ("btrfs", False)):
        settings = Settings(fs=fs, fsck=fsck)
        base = make_base(VolumeSpec.of(settings))
        with KillBench(settings, base) as bench:
            for strike in (engine, writer, removal):
                took = sorted(1000 * seconds for seconds in measured(bench, strike, chosen.trials))
                name = f"{fs}{', fsck' if fsck else ''}: {str(strike(0)).partition('@')[0]}"
                middle, late = statistics.median(took), took[int(0.95 * len(took))]
                print(f"{name:<30} median {middle:6.1f} ms   95 % {late:6.1f} ms")
        per_second = rate(settings, base, chosen.workers, chosen.trials)
        print(f"{fs}{', fsck' if fsck else ''}: {chosen.workers} at once".ljust(30), f"{per_second:6.1f} trials/s")


if __name__ == "__main__":
    main()

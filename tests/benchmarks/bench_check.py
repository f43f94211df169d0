"""How long a user waits: `harness check` on the SQLite example from start to verdict, and `harness --help`.

    python tests/benchmarks/bench_check.py [ROUNDS]

Prints a table and decides nothing. Besides the two commands it times what they stand on, in the same run: one start of
the example's own check, which is paid once for each crash state.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "fixtures" / "programs" / "sqlite_ledger.py"
HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]


class Row(NamedTuple):
    """Seconds of wall clock over the rounds, and what the bound is, if the project sets one."""

    what: str
    seconds: list[float]
    bound: str = ""


def timed(argv: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(argv, env=env, cwd=ROOT, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(argv)} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def check_command(folder: str) -> list[str]:
    program = f"{sys.executable} {EXAMPLE}"
    options = ["--workload", f"{program} write", "--check", f"{program} verify", "--reports", folder]
    return [*HARNESS, "check", *options, "--json", f"{folder}/report.json"]


def measure(rounds: int) -> tuple[list[Row], str]:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_VOLUME": folder, "HARNESS_PROMISES": os.devnull}
        commands = {
            "harness --help": ([*HARNESS, "--help"], "0.2"),
            "one check of the example": ([sys.executable, str(EXAMPLE), "verify"], ""),
            "harness check, the SQLite example": (check_command(folder), "5"),
        }
        rows = [Row(what, [timed(argv, env) for _ in range(rounds)], b) for what, (argv, b) in commands.items()]
        return rows, states_judged(Path(folder, "report.json"))


def states_judged(report: Path) -> str:
    told = json.loads(report.read_text())
    return f"verdict {told['verdict']}, {told.get('scope', '')}"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows, scope = measure(rounds)
    print(f"{'':36}{'best':>8}{'median':>8}{'worst':>8}{'bound':>8}   seconds of {rounds} rounds")
    for what, seconds, bound in rows:
        best, median, worst = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{what:36}{best:8.3f}{median:8.3f}{worst:8.3f}{bound:>8}")
    print(f"harness check: {scope}; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

"""The console script as a user runs it, and a small program to judge."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HARNESS = os.path.join(os.path.dirname(sys.executable), "harness")

# Writes five files, and promises each. `careful` fsyncs file and folder first.
APP = """
import os, sys, time
if sys.argv[1] == "verify":
    for line in open(os.environ["HARNESS_PROMISES"], "rb"):
        name = line.strip().decode()
        if not os.path.exists(name) or open(name).read() != "x" * 100:
            print("LOST_ACKED", name)
            sys.exit(1)
    sys.exit(0)
if sys.argv[1] == "slow":
    time.sleep(0.2)
    sys.exit(0)
for n in range(5):
    with open(f"f{n}", "w") as file:
        file.write("x" * 100)
        file.flush()
        if sys.argv[1] == "careful":
            os.fsync(file.fileno())
    if sys.argv[1] == "careful":
        os.fsync(os.open(".", os.O_RDONLY))
    with open(os.environ["HARNESS_PROMISE"], "w") as promise:
        promise.write(f"f{n}\\n")
"""
CAREFUL = ("check", "--workload", "python3 app.py careful", "--check", "python3 app.py verify")
CARELESS = ("check", "--workload", "python3 app.py careless", "--check", "python3 app.py verify")


class Ran(NamedTuple):
    """How one run of the console script ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def assert_one_screen(self) -> None:
        """An error is told in few lines, with a remedy and without a traceback."""
        assert "error: " in self.err, self
        assert "remedy: " in self.err, self
        assert "Traceback" not in self.err + self.out, self
        assert len(self.err.splitlines()) < 25, self


def harness(*words: str, cwd: Path, before: tuple[str, ...] = (), stdin: str = "", **env: str) -> Ran:
    """Run `harness WORDS` in `cwd` with pipes for its streams; `before` are words of a program that runs it."""
    done = subprocess.run(
        [*before, HARNESS, *words],
        cwd=cwd,
        capture_output=True,
        input=stdin,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def place_app(folder: Path) -> Path:
    """A folder with app.py in it."""
    (folder / "app.py").write_text(APP)
    return folder


def bundle_of(folder: Path) -> Path:
    """The bundle that a run in `folder` left; there is exactly one."""
    (found,) = (folder / "reports").glob("*.crash")
    return found

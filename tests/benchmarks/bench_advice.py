"""How long the search for a missing fsync takes. `python tests/benchmarks/bench_advice.py [ext4 | xfs | btrfs]`

Prints figures of one run; decides nothing. Needs root. A plan of 6 operations that replaces a file by rename, asked
"old or new", alone and beside the neighbour; then a plan of 6 operations that its file system keeps, whose own fsyncs
are left out one by one.
"""

import sys
import time

import msgspec

from harness.advice.plan_subject import PlanSubject
from harness.advice.search import Search
from harness.plan import operations as op
from harness.plan.litmus import Litmus
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.litmus import Configuration

REPLACE = msgspec.convert(
    {
        "id": "REPLACE",
        "title": "replace-via-rename of 6 operations",
        "question": "Does a file replaced by rename hold the old content or the new?",
        "outcome": "the file is neither old nor new",
        "initial": [{"op": "creat", "path": "file"}, {"op": "write", "path": "file", "length": 5000, "fill": "o"}],
        "main": [
            {"op": "creat", "path": "tmp"},
            {"op": "write", "path": "tmp", "length": 5000, "fill": "n"},
            {"op": "write", "path": "tmp", "length": 5000, "fill": "n", "append": True},
            {"op": "chmod", "path": "tmp", "mode": 0o600},
            {"op": "rename", "path": "tmp", "new": "file"},
            {"op": "chmod", "path": "file", "mode": 0o644},
        ],
        "surprising": {
            "test": "not",
            "of": {"test": "content", "path": "file", "one_of": [[["o", 5000]], [["n", 10000]]]},
        },
        "nothing_lacks": "the search is to find it",
    },
    Litmus,
)

KEPT = Plan(
    operations=(
        op.Creat(path="f"),
        op.Write(path="f", length=5000),
        op.Fsync(path="f"),
        op.Fsync(path="."),
        op.Write(path="f", length=300, append=True),
        op.Fdatasync(path="f"),
    )
)


def measure(name: str, subject: PlanSubject) -> None:
    """One search, and what it says."""
    started = time.monotonic()
    with subject:
        searching = Search(subject)
        advice = searching.run()
    took = time.monotonic() - started
    states = sum(each.states for each in searching.tried)
    print(f"{name}: {took:.1f} s (wanted on ext4: under 10), {advice.searched} runs, {states} states in the table")
    print(f"  {advice.text}")
    for each in advice.superfluous:
        print(f"  superfluous: {each.text}")


def main(fs: str) -> None:
    """Both searches."""
    options = "noauto_da_alloc" if fs == "ext4" else ""
    measure(f"{fs}, missing fsync", PlanSubject.of_litmus(REPLACE, Configuration(fs, options).settings))
    measure(f"{fs}, superfluous fsync", PlanSubject.of_plan(KEPT, Settings(fs=fs)))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["ext4"])

"""A shard that is a run of pytest: the scenarios of a user or of this project, with new examples each time.

pytest runs in a process of its own, in the folder where the soak was started, so Hypothesis finds the example database
of that folder, tries what is in it first, and puts into it what fails. It is given no --hypothesis-seed: under a seed
Hypothesis leaves the database alone. The shard's seed goes to the sampled crash states (--harness-seed).
HARNESS_SOAK=1 is set for it.
"""

import glob
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings

from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.shards import Message, Shard, ShardResult, Working
from harness.machine import mounts, process
from harness.trial import bundle as bundles
from harness.verdict import FindingKind, Verdict

SOAK_ENV = "HARNESS_SOAK"

_RESULTS_ENV = "HARNESS_RUN_RESULTS"
_COLLECTOR = "harness.cli.collector"
_SECONDS_MAX = 3600.0
_SEED_MAX = 1 << 32


class _Test(msgspec.Struct):
    """What the collector told of one test."""

    outcome: str = "passed"
    message: str = ""
    seconds: float = 0.0
    verdicts: list[Verdict] = []
    expected: list[str] = []
    states: int = 0
    fs: str = ""
    bundles: list[str] = []

    @property
    def verdict(self) -> Verdict:
        """A failure without a violation is UNKNOWN."""
        if self.outcome == "passed":
            return Verdict.INTACT
        pairs = zip(self.verdicts, self.expected, strict=False)
        violated = any(verdict is Verdict.CORRUPTED and expected != verdict for verdict, expected in pairs)
        return Verdict.CORRUPTED if violated else Verdict.UNKNOWN


def judge(shard: Shard, tell: Callable[[Message], None]) -> ShardResult:
    """Run it, for an hour at most. Raises ProgramFailed where pytest did not end, or RequirementMissing."""
    tell(Working(shard=shard.name, plans=0, states=0, seconds=_SECONDS_MAX + 60))
    folder = mounts.enter_private_mounts().path(f"pytest-{os.getpid()}")
    os.makedirs(folder, exist_ok=True)
    try:
        told = os.path.join(folder, "told.jsonl")
        argv = [sys.executable, "-m", "pytest", "-p", _COLLECTOR, "-q", f"--harness-seed={shard.seed % _SEED_MAX}"]
        if settings.default and settings.default.derandomize:
            # Hypothesis has seen that this is CI, where it takes the same examples each time and keeps none.
            argv.append("--hypothesis-profile=default")
        argv += [f"--harness-reports={folder}", "--continue-on-collection-errors", *shard.pytest]
        env = {**os.environ, _RESULTS_ENV: told, SOAK_ENV: "1", "HARNESS_NO_SKIP": "1"}
        ran = process.run(argv, timeout=_SECONDS_MAX, ok=range(-64, 256), env=env)
        return _result(shard, ran, told, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _result(shard: Shard, ran: process.Completed, told: str, folder: str) -> ShardResult:
    result = ShardResult(shard=shard.name)
    tests = _tests(told)
    if not tests:
        said = ran.output.decode(errors="backslashreplace").strip().splitlines()[-3:]
        result.trouble = f"pytest {process.describe_status(ran.status)}: {' / '.join(said)}"
    for name, test in tests.items():
        result.trials.append((_trial(shard, name, test), _sightings(name, test)))
    for path in glob.glob(os.path.join(folder, f"*{bundles.SUFFIX}")):
        with open(path, "rb") as file:
            result.bundles[os.path.basename(path)] = file.read()
    return result


def _tests(path: str) -> dict[str, _Test]:
    found: dict[str, _Test] = {}
    if not os.path.exists(path):
        return found
    with open(path, encoding="utf-8") as file:
        for line in file:
            told: dict[str, Any] = msgspec.json.decode(line)
            test = found.setdefault(told["test"], _Test())
            test.seconds += told["seconds"]
            if told["outcome"] != "passed":
                test.outcome, test.message = told["outcome"], told["message"]
            _add_properties(test, told["properties"])
    return found


def _add_properties(test: _Test, properties: list[tuple[str, Any]]) -> None:
    for name, value in properties:
        if name == "crash_verdict":
            test.verdicts.append(Verdict(value))
        elif name == "crash_expected":
            test.expected.append(str(value))
        elif name == "crash_states":
            test.states += int(value)
        elif name == "crash_fs":
            test.fs = str(value)
        elif name == "crash_bundle":
            test.bundles.append(os.path.basename(str(value)))


def _trial(shard: Shard, name: str, test: _Test) -> Trial:
    # The node id names the test, the seed what was drawn for it.
    return Trial(
        key=f"{name} seed {shard.seed % _SEED_MAX}",
        text=name,
        guarantee=f"{name.partition('[')[0]}",
        file_system=test.fs,
        verdict=test.verdict,
        judged=test.states,
        seconds=test.seconds,
    )


def _sightings(name: str, test: _Test) -> list[Sighting]:
    if test.verdict is Verdict.INTACT:
        return []
    rule = "failed" if test.verdict is Verdict.CORRUPTED else "no verdict"
    signature = BugSignature(file_system=test.fs, rule=f"scenario {rule}", shape=name, lost="nothing")
    bundle = test.bundles[0] if test.bundles else ""
    return [
        Sighting(signature=signature, kind=FindingKind.CHECK, verdict=test.verdict, summary=test.message, bundle=bundle)
    ]

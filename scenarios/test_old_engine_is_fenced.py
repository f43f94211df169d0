"""An engine that was passed over never changes a replica again.

Fault: SIGSTOP to the engine with a write on the first replica alone; a live upgrade passes it over; the new engine
acknowledges newer versions of the same blocks; then the old one wakes, and goes on with its write to the others. Each
replica must refuse it, for the epoch of its connection is over.
Guards Longhorn's rule that a replica has one engine, which its own processes cannot enforce alone.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import Kill
from harness.plugin.systems import LiveTrials
from harness.verdict import FindingKind, Verdict

WRITES = [1, 2]


def halted(write: int, replicas: int) -> ReplicatedPlan:
    return ReplicatedPlan(replicas=replicas, sync_every=2, kill=Kill(at="R1", how="stop", write=write))


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("replicas", [2, 3])
def test_engine_that_wakes_is_refused(write: int, replicas: int) -> None:
    trial = SYSTEM.trial("fixed", halted(write, replicas))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert any("woke, and ended" in line for line in trial.story)


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("replicas", [2, 3])
def test_replica_that_lets_it_in_is_found(replicas: int) -> None:
    """The first write is of the file's blocks, which the new engine is told to write again."""
    trial = SYSTEM.trial("no-fencing", halted(1, replicas))
    assert FindingKind.UNSTABLE in trial.convictions, (trial.findings, trial.story)


@pytest.mark.system("longhorn")
def test_drawn_plans_find_it(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(SYSTEM, "no-fencing", points=("R1",), plans=30)

"""A replica that was cut off serves nothing that it holds from before, until it has been rebuilt.

Fault: the link of a replica's host is taken down by pyroute2 at a write, the engine goes on with the others, and the
link comes up again; the replica joins, and the file is read, past every cache, once from each replica. Or the link is
only slow: what the engine had sent arrives late.
Guards Longhorn issues 8659 and 7714.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import Delay, Partition
from harness.plugin.systems import LiveTrials
from harness.verdict import FindingKind, Verdict


def healed(replica: int, at: int) -> ReplicatedPlan:
    return ReplicatedPlan(upgrade=False, fault=Partition(replicas=(replica,), at=at))


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("replica", [0, 1, 2])
def test_replica_is_rebuilt_before_it_is_read(replica: int) -> None:
    trial = SYSTEM.trial("fixed", healed(replica, at=replica))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["in sync"] == "3 of 3", trial.tables
    assert any(f"replica {replica} is in sync again" in line for line in trial.story)


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("ms", [20, 100, 400])
def test_what_arrives_late_changes_nothing(ms: int) -> None:
    """The engine waits for an answer for 300 ms: it gets it late, or has gone on without the replica by then."""
    trial = SYSTEM.trial("fixed", ReplicatedPlan(upgrade=False, fault=Delay(replica=1, at=2, ms=ms)))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["in sync"] == "3 of 3", trial.tables


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("replica", [0, 2])
def test_replica_that_is_read_as_it_is_is_found(replica: int) -> None:
    trial = SYSTEM.trial("rejoin-without-rebuild", healed(replica, at=1))
    assert FindingKind.STALE in trial.convictions, (trial.findings, trial.story)


@pytest.mark.system("longhorn")
def test_drawn_plans_find_it(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(SYSTEM, "rejoin-without-rebuild", points=("U3", "U0"), plans=30)

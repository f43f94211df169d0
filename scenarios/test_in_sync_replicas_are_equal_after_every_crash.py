"""Replicas that count as in sync hold the same bytes, whoever was killed at whichever write; and what was acknowledged.

Fault: SIGKILL to the engine with a write on one replica of several (R1), to a replica between its data and its revision
counter (R2) or the other way round (R3), to one of them or all; also with the other replicas halted, so that the first
one alone has a write when all end, and then with its disk lost.
Guards Longhorn issue 10751, and its engine's rule that a write is acknowledged by all replicas or by none.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import Kill, Victim
from harness.plugin.systems import LiveTrials
from harness.verdict import FindingKind, Verdict


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("victim", ["engine", "replica", "all"])
@pytest.mark.parametrize("counter_first", [True, False], ids=["counter-first", "data-first"])
def test_replicas_are_equal(victim: Victim, counter_first: bool) -> None:
    kill = Kill(at="R3" if counter_first else "R2", victim=victim, replica=1, write=2)
    trial = SYSTEM.trial("fixed", ReplicatedPlan(kill=kill, sync_every=2, counter_first=counter_first))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["in sync"] == "3 of 3", trial.tables


STALLED = ReplicatedPlan(kill=Kill(at="R1", how="stall"))


@pytest.mark.system("longhorn")
def test_write_on_one_replica_is_not_acknowledged() -> None:
    trial = SYSTEM.trial("fixed", STALLED)
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)


@pytest.mark.system("longhorn")
def test_acknowledgement_by_one_replica_is_found() -> None:
    trial = SYSTEM.trial("ack-before-all-replicas", STALLED)
    assert FindingKind.LOST_ACKED in trial.convictions, (trial.findings, trial.story)


@pytest.mark.system("longhorn")
def test_drawn_plans_find_it(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(SYSTEM, "ack-before-all-replicas", points=("R1",), plans=30)

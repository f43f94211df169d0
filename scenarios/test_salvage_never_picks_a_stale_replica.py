"""A volume is brought up from a replica that has all that was fsynced, or not at all.

Fault: the links of replicas' hosts are cut while blocks are written, the engine is killed, and the links are back when
the volume is recovered: the replicas that were cut off are then reachable, and old. Or those that went on are cut off
in their stead: then nobody who is there knows the latest, and the salvage must refuse until they are back.
Guards Longhorn issues 8659 and 7714: a stale replica was picked.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import Kill, Partition
from harness.plugin.systems import LiveTrials
from harness.verdict import FindingKind, Verdict

CUT = [(0,), (0, 1)]


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("replicas", CUT)
def test_stale_replica_is_rebuilt(replicas: tuple[int, ...]) -> None:
    plan = ReplicatedPlan(kill=Kill(at="U4"), fault=Partition(replicas=replicas, at=1, heal="recovery"))
    trial = SYSTEM.trial("fixed", plan)
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["recovered"] == "1"


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("replicas", CUT)
def test_salvage_refuses_while_those_who_know_are_away(replicas: tuple[int, ...]) -> None:
    plan = ReplicatedPlan(kill=Kill(at="U0"), fault=Partition(replicas=replicas, at=1, heal="swapped"))
    trial = SYSTEM.trial("fixed", plan)
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert any("which cannot be asked: it may have gone on alone" in line for line in trial.story)
    assert trial.facts["served at the end"] == "yes"


@pytest.mark.system("longhorn")
def test_salvage_from_whoever_is_first_is_found(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(SYSTEM, "salvage-picks-first", points=("U3", "U0", "U4"), plans=30)


@pytest.mark.system("longhorn")
def test_stale_replica_that_is_picked_takes_the_latest_with_it() -> None:
    plan = ReplicatedPlan(kill=Kill(at="U4"), fault=Partition(replicas=(0,), at=1, heal="recovery"))
    trial = SYSTEM.trial("salvage-picks-first", plan)
    assert FindingKind.STALE in trial.convictions, trial.findings

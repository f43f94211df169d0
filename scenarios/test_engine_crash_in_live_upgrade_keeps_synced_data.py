"""What was fsynced survives the death of the engine at any moment of a live upgrade, and can be used again.

Fault: SIGKILL, where upstream sends SIGTERM, to the engine, at each named place of the upgrade (U0 … U5), of a write
(R1 … R3), and with the replacement mounted (A1); then recovery by a new pod, while cleanups for the old one come late
and twice. Each block says which version it is: that is more than the md5 of the file that the report compared.
Guards Longhorn issue 10751: both tests by their names there. Drawn plans add partitions, failing disks and power cuts.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import EVERYBODY, POINTS, Kill, Point
from harness.plugin.systems import LiveTrials
from harness.trial.live import Trial
from harness.verdict import FindingKind, Verdict


def crash(variant: str, point: Point) -> Trial:
    """A live upgrade with the engine killed at `point`, and each supervisor cleaning up more often than is needed."""
    plan = ReplicatedPlan(kill=Kill(at=point), cleanups=tuple(EVERYBODY), counter_first=point != "R2")
    return SYSTEM.trial(variant, plan)


@pytest.mark.system("longhorn")
def test_engine_crash_during_live_upgrade() -> None:
    """Ten times in a row: once at each kill point."""
    for point in POINTS:
        trial = crash("fixed", point)
        assert trial.verdict is Verdict.INTACT, (point, trial.findings, trial.story)
        assert trial.facts["struck"] == "yes"
        assert trial.facts["recovered"] != "0", (point, trial.story)
        assert trial.facts["in sync"] == "3 of 3", trial.tables


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("point", ["U0", "U3", "A1"])
def test_engine_crash_during_live_upgrade_fails_upstream(point: Point) -> None:
    """The volume is lost to its new owner, and nothing of what was fsynced is lost with it."""
    trial = crash("cleanup-by-volume-name", point)
    assert trial.convictions == {FindingKind.UNAVAILABLE}, trial.findings
    assert "all that was fsynced is on the replicas" in trial.findings[0].summary
    assert "lost its attachment to the cleanup of supervisor" in trial.findings[0].summary


@pytest.mark.system("longhorn")
@pytest.mark.parametrize(
    "kill",
    [Kill(at="R1"), Kill(at="R1", victim="all", write=2), Kill(at="R3", victim="replica")],
    ids=["engine", "engine-and-replica", "replica"],
)
def test_autosalvage_with_data_locality_enabled(kill: Kill) -> None:
    """One replica, on another host than the workload."""
    trial = SYSTEM.trial("fixed", ReplicatedPlan(replicas=1, upgrade=False, kill=kill, cleanups=tuple(EVERYBODY)))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["recovered"] == "1"
    assert int(trial.facts["connections"]) <= 2, "connections pile up"


@pytest.mark.system("longhorn")
def test_drawn_crashes_at_every_point(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(SYSTEM, "fixed")

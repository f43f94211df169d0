"""A replica's host that loses its power costs nothing while others live, nor do all of them at once.

Fault: the power of a replica's host is cut at a write of its disk, while the volume is written to; or as the replica is
killed between its counter and its data, or with the engine in a live upgrade. The replica's folder lies on a recorded
disk, and what is left of that is one of the disks that the crash model allows. The file system there is mounted without
ext4's own remedy for a rename without fsync, which others do not have.
Guards Longhorn issue 4846: volume.meta was empty after a power cut, and the replica could not be used.
"""

import pytest

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.plan import Kill, Point, PowerCut, Victim
from harness.plugin.systems import LiveTrials
from harness.verdict import FindingKind, Verdict


def cut(at: Point, victim: Victim, seed: int = 0) -> ReplicatedPlan:
    kill = Kill(at=at, victim=victim, replica=1, power=True, cut=seed)
    return ReplicatedPlan(kill=kill, counter_first=at != "R2")


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("write", [1, 2, 3])
def test_host_is_cut_at_a_write_of_its_disk(write: int) -> None:
    fault = PowerCut(replica=1, write=write, cut=write)
    trial = SYSTEM.trial("fixed", ReplicatedPlan(blocks=15, sync_every=3, fault=fault))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["in sync"] == "3 of 3", trial.tables


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("at", ["U3", "R2", "R3"])
def test_one_host_is_cut(at: Point) -> None:
    trial = SYSTEM.trial("fixed", cut(at, "replica", seed=1))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["in sync"] == "3 of 3", trial.tables
    assert trial.facts["recovered"] == "0", "the others live"


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("at", ["U0", "U5", "R2", "R3"])
def test_all_hosts_are_cut(at: Point) -> None:
    trial = SYSTEM.trial("fixed", cut(at, "all", seed=2))
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)


@pytest.mark.system("longhorn")
@pytest.mark.parametrize("at", ["U3", "R3"])
def test_metadata_that_were_never_synced_are_found(at: Point) -> None:
    trial = SYSTEM.trial("metadata-without-fsync", cut(at, "all"))
    assert trial.convictions == {FindingKind.UNAVAILABLE}, (trial.findings, trial.story)
    assert any("volume.meta is empty" in line for line in trial.story)


@pytest.mark.system("longhorn")
def test_drawn_plans_find_it(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(SYSTEM, "metadata-without-fsync", points=("R3", "U3", "U0"), plans=30)

"""A disk that qemu-storage-daemon moves to another image while it is in use is whole on the one that is on record.

Promised: the source is the disk until the job is completed, the target from then on; a job that is not to finalize by
itself waits in state pending before any change to the graph (qemu-storage-daemon-qmp-ref(7), blockdev-mirror and
block-commit). Fault: SIGKILL at each step of a mirror, and of a commit of the active overlay into its backing file.
Planted: managers who note nothing as the disk moves, or take the target for the disk too early.
"""

import pytest

from fixtures.systems.qemu_storage import system_at
from harness.plugin.systems import LiveTrials


@pytest.mark.system("qemu")
def test_move_killed_at_each_step(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(system_at("mirror", "commit"), "documented")


@pytest.mark.system("qemu")
def test_old_image_is_stale(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(
        system_at("mirror", "commit"), "keeps-old-image", points=("mirror:written", "commit:written")
    )


@pytest.mark.system("qemu")
def test_unready_target_is_not_the_disk(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(system_at("mirror"), "trusts-unready-target", points=("mirror:copying",))

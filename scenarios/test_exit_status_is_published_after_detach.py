"""Whoever hears that a run is over finds its volume detached, and no file system alive on it.

Fault: the exit status is published while the runner has yet to unmount the volume; the detach comes at once.
Guards dstack issue 1936 (fixed by PR 1937): unmount, detach, and only then say so.
"""

import pytest

from fixtures.systems.dstack_run import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("dstack")
def test_exit_published_early(live_trials: LiveTrials) -> None:
    live_trials.convict(SYSTEM, "exit-published-early")

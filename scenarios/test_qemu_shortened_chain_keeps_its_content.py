"""A chain of images that qemu-storage-daemon shortens while it is in use reads the same, whenever the daemon dies.

Promised: block-stream copies what the backing file has into the overlay, and drops the backing file when it is done;
block-commit merges an overlay downwards, and the header above it names the image that is left
(docs/interop/live-block-operations.rst). Fault: SIGKILL at each step.
Found: block-stream writes the header without flushing what it copied. A job that ends by itself, as in the
documentation's example, loses every block that it streamed if the daemon dies before the next flush. Finalized by hand
when a flush has returned, it loses none.
"""

import pytest

from fixtures.systems.qemu_storage import system_at
from harness.plugin.systems import LiveTrials


@pytest.mark.system("qemu")
def test_chain_killed_at_each_step(live_trials: LiveTrials) -> None:
    live_trials.acquit_at_points(system_at("merge", "stream"), "documented")


@pytest.mark.system("qemu")
def test_stream_that_ends_by_itself_loses_its_copy(live_trials: LiveTrials) -> None:
    live_trials.convict_at_points(system_at("stream"), "job-ends-by-itself", points=("stream:completed",))

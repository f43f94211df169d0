"""A run is stopping until each of its volumes is seen detached; until then it holds its instance.

Fault: a provider that takes a detach request and is in no hurry, that raises, that answers with what was true before or
was never true; over loop devices that stay bound for as long as an instance has them mounted. The kernel says which.
Guards dstack issue 2218 (PR 2242): a volume counted as detached when the request returned, or raised.
"""

import pytest

from fixtures.systems.detach_controller import SYSTEM
from harness.plugin.systems import LiveTrials

pytestmark = pytest.mark.system("dstack")


@pytest.mark.parametrize("variant", ["done-on-request", "exception-means-detached"])
def test_early_end_is_found(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict(SYSTEM, variant)


def test_stopping_run_holds_until_volumes_are_detached(live_trials: LiveTrials) -> None:
    live_trials.acquit(SYSTEM, "fixed")

"""Clusters that a volume gave back, by its deletion or by a discard, show nobody what they held.

Fault: tenants fill volumes with tagged bytes and go, a copy is deleted, and the next ones get their clusters; ranges
are discarded over a backing image, raw or qcow2, and must read as zeros. Guards Longhorn issues 9876 and 10135.
"""

import msgspec
import pytest

from fixtures.systems.thin_store import SYSTEM, ThinPlan
from fixtures.systems.thin_store.plan import PAGE
from harness.plugin.systems import LiveTrials


def _given_back(plan: ThinPlan) -> ThinPlan:
    return msgspec.structs.replace(plan, tenants=max(1, plan.tenants), recycle=True, copies=2)


def _discarded(plan: ThinPlan) -> ThinPlan:
    backing = "raw" if plan.backing == "none" else plan.backing
    discards = plan.discards or ((0, plan.size // PAGE),)
    return msgspec.structs.replace(plan, backing=backing, discards=discards, copies=1, cuts=())


FREED = msgspec.structs.replace(SYSTEM, plans=SYSTEM.plans.map(_given_back))
DISCARDED = msgspec.structs.replace(SYSTEM, plans=SYSTEM.plans.map(_discarded))


@pytest.mark.system("longhorn")
def test_new_volumes_show_no_former_tenant(live_trials: LiveTrials) -> None:
    live_trials.acquit(FREED, "fixed")


@pytest.mark.system("longhorn")
def test_discarded_cluster_shows_the_backing_image(live_trials: LiveTrials) -> None:
    live_trials.convict(DISCARDED, "unmap-shows-parent")

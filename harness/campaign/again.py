"""What earlier runs found, tried again first: that tells what is back, and what is gone."""

import os

from harness.campaign.shards import Shard
from harness.campaign.signatures import file_system_of
from harness.campaign.store import BugRow, Store
from harness.errors import HarnessError
from harness.trial import bundle as bundles
from harness.trial.report import group
from harness.verdict import Verdict

AGAIN = "found before on "
"""How the guarantee begins of which such a shard is a trial."""

_BUGS_MAX = 100


def shards_again(store: Store) -> tuple[list[Shard], list[str]]:
    """A shard for each bug whose best bundle holds a plan, and why others cannot be tried. Most seen first."""
    found, notes = [], []
    for bug in store.bugs()[:_BUGS_MAX]:
        if bug.canary or not bug.bundle or bug.verdict is not Verdict.CORRUPTED:
            continue
        try:
            shard = _shard(store, bug)
        except HarnessError as error:
            notes.append(f"{bug.signature.id} cannot be tried again: {error.cause}")
            continue
        if shard:
            found.append(shard)
    return found, notes


def _shard(store: Store, bug: BugRow) -> Shard | None:
    manifest = bundles.load(os.path.join(store.reports, bug.bundle)).manifest
    if manifest.plan is None or manifest.finding is None:
        return None
    return Shard(
        source=f"again {bug.signature.id}",
        guarantee=f"{AGAIN}{file_system_of(manifest.settings)}",
        settings=manifest.settings,
        given=(manifest.plan,),
        again=bug.signature,
        group=group(manifest.finding),
    )

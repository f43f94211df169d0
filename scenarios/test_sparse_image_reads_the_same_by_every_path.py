"""A sparse image that was imported into a thin volume reads the same by every path, before and after the last close.

Paths: the descriptor that wrote it, a second one, O_DIRECT, after BLKFLSBUF, after the last close, a snapshot; each
twice, each of three copies. Fault: the pool is full of others' bytes; chunks and clusters divide nowhere alike, and the
importer leaves zeros out. Guards Longhorn issues 9876 and 10135: right before close, wrong after. Writing every zero
is no fix: it allocates what thin volumes are there to save.
"""

import pytest

from fixtures.systems.thin_store import SYSTEM
from harness.plugin.systems import LiveTrials


@pytest.mark.system("longhorn")
def test_every_checksum_is_that_of_the_source(live_trials: LiveTrials) -> None:
    live_trials.acquit(SYSTEM, "fixed")


@pytest.mark.system("longhorn")
@pytest.mark.parametrize(
    "variant", ["no-zero-on-allocate", "verify-through-cache", "snapshot-without-flush", "write-every-zero"]
)
def test_paths_differ(live_trials: LiveTrials, variant: str) -> None:
    live_trials.convict(SYSTEM, variant)

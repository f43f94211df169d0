"""What was appended to a file opened with O_DSYNC or O_SYNC is there after a power cut as soon as write returns.

Fault: power cut at every point of 40 rounds of write, acknowledge; no fsync of the entries is ever called.
Rests on open(2): "By the time write(2) (or similar) returns, the output data and associated file metadata have been
transferred to the underlying hardware (i.e., as though each write(2) was followed by a call to fsync(2))"; with
O_DSYNC, by one to fdatasync.
"""

import pytest

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


@pytest.mark.parametrize("flag", ["dsync", "sync"])
def test_synchronous_append_survives_power_cut(default_volume: CrashVolume, flag: str) -> None:
    with default_volume.record() as volume:
        ledger.write(volume.path, volume.promise, flag, entries=40)
    default_volume.verify(lambda state: ledger.verify(state.path, state.promises))

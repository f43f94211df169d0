"""What was appended to a file and fsynced is there after a power cut.

Fault: power cut at every point of 40 rounds of append, fsync, acknowledge.
Rests on fsync(2): it flushes data "so that all changed information can be retrieved even if the system crashes or is
rebooted".
"""

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


def test_fsynced_append_survives_power_cut(default_volume: CrashVolume) -> None:
    with default_volume.record() as volume:
        ledger.write(volume.path, volume.promise, "fixed", entries=40)
    default_volume.verify(lambda state: ledger.verify(state.path, state.promises))

"""What was appended to a file and fdatasynced is there after a power cut, the file's new size included.

Fault: power cut at every point of 40 rounds of append, fdatasync, acknowledge.
Rests on fdatasync(2): it leaves out metadata "unless that metadata is needed in order to allow a subsequent data
retrieval to be correctly handled", and names the size of a file as an example of what is needed.
"""

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume


def test_fdatasynced_append_survives_power_cut(default_volume: CrashVolume) -> None:
    with default_volume.record() as volume:
        ledger.write(volume.path, volume.promise, "fdatasync", entries=40)
    default_volume.verify(lambda state: ledger.verify(state.path, state.promises))

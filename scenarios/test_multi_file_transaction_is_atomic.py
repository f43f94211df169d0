"""Three files changed under an intent record show one and the same transaction after a power cut and recovery.

Fault: power cut at every point of 10 transactions over three files of two blocks each; recovery is the program's own,
run by the check. Without the intent record the files are found apart.
Rests on fsync(2) and on replace by rename for the intent record; what the files hold in between does not matter.
"""

import pytest

from fixtures.programs import transaction
from harness.plugin.volume import CrashVolume


def test_multi_file_transaction_is_atomic(default_volume: CrashVolume) -> None:
    with default_volume.record(setup=transaction.setup) as volume:
        transaction.write(volume.path, volume.promise, "fixed", transactions=10)
    default_volume.verify(lambda state: transaction.verify(state.path, state.promises))


@pytest.mark.crash_volume(fs="ext4")
def test_files_without_intent_record_are_found_apart(crash_volume: CrashVolume) -> None:
    with crash_volume.record(setup=transaction.setup) as volume:
        transaction.write(volume.path, volume.promise, "no-intent")
    crash_volume.convict(lambda state: transaction.verify(state.path, state.promises), contains="SPLIT the accounts")

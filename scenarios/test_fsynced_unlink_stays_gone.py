"""A file that was removed stays gone after a power cut once its directory was fsynced.

Fault: power cut at every point of 40 rounds of unlink, fsync of the directory, acknowledge.
Rests on fsync(2) for the directory. A file whose removal was not yet promised is there whole, or gone.
"""

from functools import partial

from fixtures.programs import names
from harness.plugin.volume import CrashVolume


def test_fsynced_unlink_stays_gone(default_volume: CrashVolume) -> None:
    with default_volume.record(setup=partial(names.setup, operation="unlink", count=40)) as volume:
        names.write(volume.path, volume.promise, "unlink", count=40)
    default_volume.verify(lambda state: names.verify(state.path, state.promises, "unlink", count=40))

"""A rename is kept after a power cut once the directory was fsynced; before that the file has one name, old or new.

Fault: power cut at every point of 40 rounds of rename, fsync of the directory, acknowledge.
Rests on fsync(2) for the directory, and on rename being one transaction of the file system's journal: the file is never
found under both names or under none.
"""

from functools import partial

from fixtures.programs import names
from harness.plugin.volume import CrashVolume


def test_fsynced_rename_survives_power_cut(default_volume: CrashVolume) -> None:
    with default_volume.record(setup=partial(names.setup, operation="rename", count=40)) as volume:
        names.write(volume.path, volume.promise, "rename", count=40)
    default_volume.verify(lambda state: names.verify(state.path, state.promises, "rename", count=40))

"""A new directory is there after a power cut once its parent directory was fsynced.

Fault: power cut at every point of 40 rounds of mkdir, fsync of the parent, acknowledge.
Rests on fsync(2): for a directory entry to reach the disk, "an explicit fsync() on a file descriptor for the directory"
is needed, and is enough.
"""

from fixtures.programs import names
from harness.plugin.volume import CrashVolume


def test_new_directory_survives_fsync_of_its_parent(default_volume: CrashVolume) -> None:
    with default_volume.record() as volume:
        names.write(volume.path, volume.promise, "mkdir", count=40)
    default_volume.verify(lambda state: names.verify(state.path, state.promises, "mkdir", count=40))

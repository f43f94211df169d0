"""A new file that was fsynced is found under its name after a power cut, though its directory was not fsynced.

Fault: power cut at every point of 40 rounds of create, write, fsync of the file, acknowledge.
Rests on the file systems, not on fsync(2), which promises no directory entry: ext4 and xfs commit the whole transaction
in which the file was made, and btrfs logs a file's names with it and links it under them when it replays its log
(add_inode_ref in fs/btrfs/tree-log.c).
"""

from fixtures.programs import names
from harness.plugin.volume import CrashVolume


def test_fsynced_new_file_keeps_its_name(default_volume: CrashVolume) -> None:
    with default_volume.record() as volume:
        names.write(volume.path, volume.promise, "create", count=40)
    default_volume.verify(lambda state: names.verify(state.path, state.promises, "create", count=40))

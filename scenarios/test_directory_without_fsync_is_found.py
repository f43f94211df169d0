"""On ext2, unlink and create without fsync of the directories is found out; with it, the program is intact.

Fault: power cut at every point of 8 rounds of unlink, create, fsync of the new file, (no) fsync of the directories,
acknowledge.
Rests on fsync(2): it does not make a directory entry durable, "for that an explicit fsync() on a file descriptor for
the directory is also needed". A journal hides the bug: ext4 commits the unlink with the new file's inode.

fsck is off: bitmaps and counts of ext2 are wrong after any power cut, whatever the program did
(test_volume_without_journal_is_inconsistent.py), and the kernel does not need them to find names and read files. Where
ext4's driver serves ext2, its fsync of a new file also writes that file's directory (ext4_sync_parent in
fs/ext4/fsync.c); hence the two directories: the one of the unlink is nobody's parent.
"""

import pytest

from fixtures.programs import spool
from harness.plugin.volume import CrashVolume

pytestmark = pytest.mark.crash_volume(fs="ext2", fsck=False)


def test_directory_without_fsync_is_found(crash_volume: CrashVolume) -> None:
    with crash_volume.record(setup=spool.setup) as volume:
        spool.write(volume.path, volume.promise, "no-directory-fsync")
    crash_volume.convict(lambda state: spool.verify(state.path, state.promises), contains="STALE job")


def test_fsynced_directory_is_intact(crash_volume: CrashVolume) -> None:
    with crash_volume.record(setup=spool.setup) as volume:
        spool.write(volume.path, volume.promise, "fixed")
    crash_volume.verify(lambda state: spool.verify(state.path, state.promises))

"""A file system without a journal is inconsistent after a power cut: ext2, and ext4 made with -O ^has_journal.

Fault: power cut at every point of 20 rounds of append, fsync, acknowledge, by a program that does everything right.
Rests on e2fsck(8) and on the design: fsync writes the file's data and inode, while bitmaps, counts and directories
follow whenever they like. e2fsck -fn is asked after the mount and finds what a journal would have kept together.
"""

import pytest

from fixtures.programs import ledger
from harness.plugin.volume import CrashVolume
from harness.verdict import FindingKind


@pytest.mark.parametrize(("fs", "mkfs_options"), [("ext2", ""), ("ext4", "-O ^has_journal")], ids=["ext2", "ext4"])
def test_volume_without_journal_is_inconsistent(crash_volume: CrashVolume, fs: str, mkfs_options: str) -> None:
    without_journal = crash_volume.using(fs=fs, mkfs_options=mkfs_options)
    with without_journal.record() as volume:
        ledger.write(volume.path, volume.promise, "fixed", entries=20)
    without_journal.convict(
        lambda state: ledger.verify(state.path, state.promises), kind=FindingKind.META, contains="fsck finds"
    )

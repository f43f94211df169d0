"""A file replaced by rename without fsync is neither old nor new after a power cut, unless the file system helps.

Fault: power cut at every point of 12 replacements, after each of which the directory is fsynced and the file is not.
Nothing is acknowledged: all that is asked is "old or new".
Rests on Documentation/admin-guide/ext4.rst, auto_da_alloc: the rename makes ext4 allocate the file's delayed blocks
"such that at the next journal commit, in the default data=ordered mode, the data blocks of the new file are forced to
disk before the rename() operation is committed", which "avoids the zero-length problem"; noauto_da_alloc switches it
off. xfs never promised it.
"""

import pytest

from fixtures.programs import replace
from harness.plugin.volume import CrashVolume
from harness.verdict import Verdict


def record(crash_volume: CrashVolume) -> None:
    with crash_volume.record(setup=replace.setup) as volume:
        replace.write(volume.path, volume.promise, "no-fsync", versions=12)


@pytest.mark.crash_volume(fs="ext4", mount_options="noauto_da_alloc")
def test_ext4_noauto_da_alloc_leaves_an_empty_file(crash_volume: CrashVolume) -> None:
    record(crash_volume)
    crash_volume.convict(
        lambda state: replace.verify(state.path, state.promises), contains="TRUNCATED the configuration is neither"
    )


@pytest.mark.crash_volume(fs="xfs", max_states=150)
def test_xfs_leaves_an_empty_file(crash_volume: CrashVolume) -> None:
    record(crash_volume)
    crash_volume.convict(
        lambda state: replace.verify(state.path, state.promises), contains="TRUNCATED the configuration is neither"
    )


@pytest.mark.crash_volume(fs="ext4", mount_options="nodioread_nolock")
def test_ext4_auto_da_alloc_keeps_old_or_new(crash_volume: CrashVolume) -> None:
    """Blocks are allocated as written ones, so the commit waits for the data: the document's promise holds."""
    record(crash_volume)
    crash_volume.verify(lambda state: replace.verify(state.path, state.promises))


@pytest.mark.crash_volume(fs="ext4")
def test_ext4_default_never_leaves_an_empty_file(crash_volume: CrashVolume) -> None:
    """The zero-length file is avoided; zeros in place of the data are not always.

    With dioread_nolock, the default since Linux 5.6, delayed blocks are allocated as unwritten extents, and these are
    not on the list of data that a commit waits for (ext4_map_blocks in fs/ext4/inode.c). A commit between the rename
    and the end of the data's I/O, here that of the directory's fsync, has the new size over extents that still read
    as zeros. Whether it comes in between is a race in the recording: both outcomes are right, an empty file is not.
    """
    record(crash_volume)
    report = crash_volume.judge(lambda state: replace.verify(state.path, state.promises))
    assert report.verdict is not Verdict.UNKNOWN
    assert not [found for found in report.found if found.finding.summary.startswith("TRUNCATED")]

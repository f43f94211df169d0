"""A file replaced by rename without fsync is neither old nor new after a power cut, unless the file system helps.

Fault: power cut at every point of 12 replacements, after each of which the directory is fsynced and the file is not.
Nothing is acknowledged: all that is asked is "old or new".
Rests on Documentation/admin-guide/ext4.rst, auto_da_alloc: the rename makes ext4 allocate the file's delayed blocks "such
that at the next journal commit, in the default data=ordered mode, the data blocks of the new file are forced to disk
before the rename() operation is committed", which "avoids the zero-length problem"; noauto_da_alloc switches it off. xfs
never promised it.
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
    """With blocks allocated as written, ordered mode has the data wait for no one: the document's promise holds."""
    record(crash_volume)
    crash_volume.verify(lambda state: replace.verify(state.path, state.promises))


@pytest.mark.crash_volume(fs="ext4")
def test_ext4_default_never_leaves_an_empty_file(crash_volume: CrashVolume) -> None:
    """The zero-length file is avoided; a file of zeros is not always.

    With dioread_nolock, the default since Linux 5.6, delayed blocks are allocated as unwritten extents, which the
    journal does not wait for: a commit between the rename and the end of the data's I/O (here: by the fsync of the
    directory, in about every second recording) has the new size and extents that still read as zeros. That is a race
    in the recording, so both outcomes are right here; an empty or a mixed file would not be.
    """
    record(crash_volume)
    report = crash_volume.judge(lambda state: replace.verify(state.path, state.promises))
    assert report.verdict is not Verdict.UNKNOWN
    assert all(found.finding.summary.startswith("ZEROED") for found in report.found)

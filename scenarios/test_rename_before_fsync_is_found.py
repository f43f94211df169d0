"""A program that renames the new version into place before it fsyncs it is found out; fsynced first it is intact.

Fault: power cut at every point of 6 replacements; between the rename and the late fsync the program fsyncs its own log,
and that commits the rename without the data.
Rests on what fsync(2) orders: nothing but the file that it is called for. ext4's auto_da_alloc would hide the bug most
of the time (Documentation/admin-guide/ext4.rst), so ext4 is mounted without it; xfs has nothing that hides it.
"""

import pytest

from fixtures.programs import replace
from harness.plugin.volume import CrashVolume

VOLUMES = pytest.mark.parametrize(
    ("fs", "mount_options"), [("ext4", "noauto_da_alloc"), ("xfs", "")], ids=["ext4", "xfs"]
)


@VOLUMES
def test_rename_before_fsync_is_found(crash_volume: CrashVolume, fs: str, mount_options: str) -> None:
    buggy = crash_volume.using(fs=fs, mount_options=mount_options)
    with buggy.record(setup=replace.setup) as volume:
        replace.write(volume.path, volume.promise, "rename-before-fsync")
    buggy.convict(lambda state: replace.verify(state.path, state.promises), contains="neither the old nor the new")


@VOLUMES
def test_fsync_before_rename_is_intact(crash_volume: CrashVolume, fs: str, mount_options: str) -> None:
    fixed = crash_volume.using(fs=fs, mount_options=mount_options)
    with fixed.record(setup=replace.setup) as volume:
        replace.write(volume.path, volume.promise, "fixed")
    fixed.verify(lambda state: replace.verify(state.path, state.promises))

"""A file replaced by fsync, rename, fsync of the directory holds the old or the new version after a power cut.

Fault: power cut at every point of 20 replacements. Once a replacement is acknowledged, the old version may not be back.
Rests on rename(2), "there is no point at which another process attempting to access newpath will find it missing",
which journalling file systems keep across a crash, and on fsync(2) for the new file's data and for the directory.
"""

from fixtures.programs import replace
from harness.plugin.volume import CrashVolume


def test_replace_by_rename_is_atomic(default_volume: CrashVolume) -> None:
    with default_volume.record(setup=replace.setup) as volume:
        replace.write(volume.path, volume.promise, "fixed", versions=20)
    default_volume.verify(lambda state: replace.verify(state.path, state.promises))

"""A program in any language is judged by running it: it promises in a file, and its check command is told the promises.

Fault: power cut at every point of a few transactions of a program of its own process, checked by another. The buggy
variant of the same program, by the same check, is found out with the kind of finding that its check names.
Rests on the harness's own contract: HARNESS_VOLUME, HARNESS_PROMISE and HARNESS_PROMISES (docs/writing-a-scenario.md).
"""

import sys
from pathlib import Path

import pytest

from harness.plugin.volume import CrashVolume
from harness.verdict import FindingKind

PROGRAMS = Path(__file__).resolve().parent.parent / "fixtures" / "programs"
LEDGER = f"{sys.executable} {PROGRAMS / 'ledger.py'}"
SQLITE_LEDGER = f"{sys.executable} {PROGRAMS / 'sqlite_ledger.py'}"


@pytest.mark.parametrize("program", [LEDGER, SQLITE_LEDGER], ids=["ledger", "sqlite"])
@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_program_is_judged_by_its_commands(crash_volume: CrashVolume, fs: str, program: str) -> None:
    by_command = crash_volume.using(fs=fs, max_states=60)
    with by_command.record() as volume:
        volume.run(f"{program} write")
    by_command.verify(command=f"{program} verify")


@pytest.mark.crash_volume(fs="ext4", max_states=60)
def test_check_command_names_what_it_found(crash_volume: CrashVolume) -> None:
    with crash_volume.record() as volume:
        volume.run(f"{LEDGER} write no-fsync")
    crash_volume.convict(command=f"{LEDGER} verify", kind=FindingKind.LOST_ACKED, contains="entry 0 was acknowledged")

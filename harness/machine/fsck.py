"""The file systems' own checks, read-only, and what their answers mean.

Exit statuses: e2fsck(8), xfs_repair(8), btrfs-check(8). Only e2fsck tells "errors found" (4) from "could not run" (8)
by its status; the other two say 1 for both, so their words decide. A journal or log that still awaits recovery, or a
mount, makes any finding meaningless: such a check counts as one that could not run. btrfs check calls a file system
clean when one copy of a duplicated tree block is good.
"""

from collections.abc import Callable
from typing import NamedTuple

from harness.errors import ProgramFailed
from harness.machine import process
from harness.machine.filesystems import FileSystem

_ANY_STATUS = range(-64, 256)

# The same program without shared libraries: of the 1.7 ms that e2fsck takes on 64 MiB, loading them is a third.
QUICK_E2FSCK = "e2fsck.static"

_E2FSCK_ERRORS_LEFT = 4
# It gives up (8) on a disk that it can read but not make sense of, and says so in these words (e2fsck/unix.c).
_E2FSCK_DAMAGED = (b"Superblock invalid", b"Group descriptors look bad", b"Corrupt group descriptor")
_NOT_AT_REST = (
    b"skipping journal recovery",  # e2fsck -n
    b" is mounted.",  # e2fsck -n, which then goes on
    b"valuable metadata changes in a log",  # xfs_repair -n
)
_XFS_COULD_NOT_RUN = (b"fatal error --", b"Usage:")
_BTRFS_BEGAN = b"Opening filesystem to check"
_BTRFS_COULD_NOT_RUN = (
    b"currently mounted",
    b"No such",
    b"Permission denied",
    b"Input/output error",
    b"annot allocate",
)


class FsckResult(NamedTuple):
    """What a read-only check found. `clean` is None when it could not run, and then nothing is known.

    `status` is the program's exit status (negative: killed by that signal, or out of time: -9).
    """

    clean: bool | None
    status: int
    output: bytes


def fsck(fs: FileSystem, device: str, timeout: float = 60.0) -> FsckResult:
    """Check the unmounted `device` (or image) without writing to it, for at most `timeout` seconds.

    Raises RequirementMissing when the program is not installed.
    """
    try:
        done = process.run([_program(fs), *fs.fsck[1:], device], timeout=timeout, ok=_ANY_STATUS)
    except ProgramFailed as error:
        return FsckResult(None, -9, str(error).encode())
    judge = _JUDGES[fs.fsck_program]
    clean = None if done.status < 0 or _any(_NOT_AT_REST, done.output) else judge(done.status, done.output)
    return FsckResult(clean, done.status, done.output)


def _program(fs: FileSystem) -> str:
    quick = fs.fsck_program == "e2fsck" and process.find(QUICK_E2FSCK)
    return QUICK_E2FSCK if quick else fs.fsck_program


def _judge_e2fsck(status: int, output: bytes) -> bool | None:
    if status & _E2FSCK_ERRORS_LEFT or (status and _any(_E2FSCK_DAMAGED, output)):
        return False
    return True if status == 0 else None


def _judge_xfs_repair(status: int, output: bytes) -> bool | None:
    if status != 1:
        return True if status == 0 else None
    return None if _any(_XFS_COULD_NOT_RUN, output) else False


def _judge_btrfs_check(status: int, output: bytes) -> bool | None:
    if status != 1:
        return True if status == 0 else None
    if _BTRFS_BEGAN not in output or _any(_BTRFS_COULD_NOT_RUN, output):
        return None
    return False


def _any(needles: tuple[bytes, ...], output: bytes) -> bool:
    return any(needle in output for needle in needles)


_JUDGES: dict[str, Callable[[int, bytes], bool | None]] = {
    "e2fsck": _judge_e2fsck,
    "xfs_repair": _judge_xfs_repair,
    "btrfs": _judge_btrfs_check,
}

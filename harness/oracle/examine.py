"""One crash state under judgement: let the kernel recover it, ask the check, unmount, ask fsck.

The order is the law's (docs/crash-model.md): mount, promises and the user's check, then the file system's own check,
read-only, after a clean unmount; it stops at the root cause.
"""

import errno
import gc
import os
import time
from collections.abc import Sequence

import msgspec

from harness.blocklog import Promise
from harness.errors import HarnessError
from harness.machine import filesystems, mounts, syscalls
from harness.machine.fsck import fsck
from harness.machine.kmsg import KernelClass, KernelLog, classify
from harness.machine.mounts import Workspace
from harness.oracle.checks import Checker, RecoveredState
from harness.verdict import Finding, FindingKind, unjudged

NOTED_ERROR = "mounting fs with errors"
"""What ext4 says of a volume whose superblock remembers an error, such as one of the device (fs/ext4/super.c)."""

_BUSY_SECONDS = 5.0
_FSCK_CHATTER = ("Pass ", "Phase ", "e2fsck ", "Opening filesystem", "Checking filesystem", "[", "- ", "UUID")


class Examiner:
    """Judges device after device of one file system. Lives in a worker with mounts of its own."""

    def __init__(
        self,
        fs: filesystems.FileSystem,
        mount_options: str,
        workspace: Workspace,
        *,
        run_fsck: bool,
        may_have_failed: bool = False,
    ) -> None:
        """`may_have_failed`: the device failed while the volume was in use, which the file system may have noted."""
        self._fs = fs
        self._options = fs.all_mount_options(mount_options)
        self._workspace = workspace
        self._fsck = run_fsck
        self._may_have_failed = may_have_failed
        self._kernel = KernelLog()

    def examine(self, device: str, name: str, made: Sequence[Promise], checker: Checker | None) -> list[Finding]:
        """Everything wrong with the disk on `device` (spelled `name` in the kernel log); empty if it is intact.

        `checker` is asked between mount and unmount; None: mount, kernel log and fsck alone.
        """
        self._kernel.lines()
        volume = self._workspace.volume
        try:
            mounts.mount_volume(device, volume, self._fs.fs_type, self._options)
        except OSError as error:
            return [self._no_mount(name, error)]
        try:
            found = checker(RecoveredState(volume, made)) if checker else []
        finally:
            stuck = self._unmount(volume)
        kernel = tuple(self._kernel.lines(name))
        if found or stuck:
            return [msgspec.structs.replace(finding, kernel=kernel) for finding in found or stuck]
        return self._corruption(kernel) or (self._run_fsck(device, kernel) if self._fsck else [])

    def _no_mount(self, name: str, error: OSError) -> Finding:
        kernel = tuple(self._kernel.lines(name))
        summary = f"the file system does not mount after the cut: {os.strerror(error.errno or 0)}"
        return Finding(kind=FindingKind.UNAVAILABLE, summary=summary, output=str(error), kernel=kernel)

    def _corruption(self, kernel: tuple[str, ...]) -> list[Finding]:
        """The check was content, but the file system itself reported damage while it was mounted."""
        for line in kernel:
            if self._may_have_failed and NOTED_ERROR in line:
                continue
            if classify(line) is KernelClass.CORRUPTION:
                return [Finding(kind=FindingKind.META, summary=f"the kernel reports: {line}", kernel=kernel)]
        return []

    def _run_fsck(self, device: str, kernel: tuple[str, ...]) -> list[Finding]:
        result = fsck(self._fs, device)
        if result.clean:
            return []
        said = result.output.decode(errors="replace")
        if result.clean is None:
            summary = f"fsck could not judge the volume (exit {result.status})"
            return [unjudged(summary, said, kernel)]
        summary = f"fsck finds the recovered volume inconsistent: {_telling_line(said)}"
        return [Finding(kind=FindingKind.META, summary=summary, output=said, kernel=kernel)]

    def _unmount(self, volume: str) -> list[Finding]:
        """Unmount, freeing what an in-process check left open. A volume that stays busy cannot be judged further."""
        try:
            syscalls.umount(volume)
            return []
        except OSError as error:
            if error.errno == errno.EINVAL:
                return [unjudged("the check unmounted the volume")]
            if error.errno != errno.EBUSY:
                raise
        os.chdir("/")
        gc.collect()
        mounts.release_descriptors(mounts.device_at(volume))
        deadline = time.monotonic() + _BUSY_SECONDS
        while time.monotonic() < deadline:
            try:
                syscalls.umount(volume)
                return []
            except OSError:
                time.sleep(0.001)
        syscalls.umount(volume, syscalls.MNT_DETACH)
        return [unjudged("the check left the volume busy; it could not be unmounted")]


def _telling_line(output: str) -> str:
    """The first line of fsck's output that says something: its banners and pass headings do not."""
    lines = map(str.strip, output.splitlines())
    return next((line for line in lines if line and not line.startswith(_FSCK_CHATTER)), "it printed nothing")


def harness_fault(error: HarnessError | Exception) -> Finding:
    """A state that our own code failed on: UNKNOWN, never intact."""
    return unjudged(f"{type(error).__name__}: {error}")

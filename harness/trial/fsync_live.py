"""One trial of `harness fsync-failure`, in a process of its own: the calls, the fault, and what became of the block.

The calls are those of the paper. *Update*: the middle page of a file of three is overwritten. *Append*: a page is
written behind them, and after the failure another one. Then fsync, fsync again, whatever the kernel's timers would do
(`_settle`), and a third fsync. A fault strikes one write, by the place that it goes to. What stands on the medium is
told by the block log: the disk after the settling and the disk at the end are recovered by the kernel and read.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from harness.blocklog import BlockLog, Kind, Promise
from harness.blocklog.format import FAULT, JSON
from harness.engine.rules import Rule
from harness.machine import loop, mounts, process, syscalls
from harness.machine.fiemap import Flag, file_extents
from harness.machine.fsck import fsck
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog, classify
from harness.machine.syncing import sync_file_system
from harness.oracle.checks import RecoveredState
from harness.oracle.examine import Examiner
from harness.oracle.fsync_check import BLOCK, FILE, Covered, FsyncCheck, fill, word_of
from harness.verdict import Finding
from harness.volume import VolumeSpec
from harness.volume.disks import ServedDisk
from harness.volume.recorded import mount_device

OLD_TIME = 1_000_000_000
"""When the file was last written before the trial, in seconds since 1970."""
PAGES = 3
STEP = b"step: "
OK = "ok"

# linux/fs.h: _IOWR('X', 119, int), _IOWR('X', 120, int).
_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878

_REPAIR = {
    "e2fsck": ("e2fsck", "-f", "-y"),
    "xfs_repair": ("xfs_repair",),
    "btrfs": ("btrfs", "check", "--repair", "--force"),
}
_FULL_CHECK = {"btrfs": ("btrfs", "check", "--readonly", "--check-data-csum")}
_ANY_STATUS = range(-64, 256)


class Order(NamedTuple):
    """What a trial is to do. `at`: the new block's offset in the file. `rule`: the fault, armed before step `arm`."""

    spec: VolumeSpec
    base: Image
    at: int
    appends: bool
    rule: Rule | None
    arm: str
    push: bool
    """Have xfs write its inodes in place: see `_settle`."""


class Look(msgspec.Struct, frozen=True):
    """What a medium holds once the kernel has recovered it."""

    block: str
    size: int = 0
    mtime: int = 0
    extent: str = ""
    """Below the block: `written`, `unwritten` (allocated, reads as zeros) or `hole`."""


class Observed(msgspec.Struct, kw_only=True):
    """What one trial showed. Results of calls are `ok` or the name of an errno; a block is a word of fsync_check."""

    fsyncs: list[str] = []
    sync: str = ""
    """What syncfs(2) said in the settling, on a descriptor opened after the failure."""
    hits: int = 0
    struck: str = ""
    """The step during which the fault struck first."""
    rewritten: bool = False
    """The block was written again, or the kernel tried to, after that."""
    memory: str = ""
    """In the page cache, after the second fsync."""
    direct: str = ""
    """Read with O_DIRECT at the end."""
    dropped: str = ""
    """Read after posix_fadvise(POSIX_FADV_DONTNEED)."""
    settled: Look = Look("")
    final: Look = Look("")
    fsck: str = ""
    """Of the final disk once recovered: `clean`, `complains` or `unknown`."""
    repaired: str = ""
    """The block after the file system's own repair; empty where nothing had been lost."""
    writable: str = ""
    """What another program gets that makes a file; then once more, for the first may be what makes it read-only."""
    writable_again: str = ""
    readable: str = ""
    options: str = ""
    umount: str = ""
    kernel: list[str] = []
    kernel_late: list[str] = []
    """Logged by the umount and after it."""
    log_read: bool = False
    """The kernel's log could be read."""
    findings: list[Finding] = []
    """What is wrong with the final disk: FALSE_SUCCESS where it lacks what a successful fsync covered."""
    log: bytes = b""

    @property
    def logged(self) -> bool:
        """The kernel told of the failure while it was mounted."""
        return any(map(classify, self.kernel))


def observe(order: Order) -> Observed:
    """Run it. To be called in a process of its own. Raises what disks and mounts raise: HarnessError, OSError."""
    observed = Observed()
    autopsy = _Autopsy(order)
    with KernelLog() as kernel, ServedDisk(order.spec, order.base, label="fsync-failure") as disk:
        observed.log_read = kernel.available
        live = _Live(order, disk, kernel, observed)
        live.run()
        log = disk.log()
        read_log(log, observed)
        with live.settled as image:
            observed.settled, _ = autopsy.look(image)
        with disk.medium() as image:
            observed.final, observed.findings = autopsy.look(image, log.promises())
            observed.fsck = autopsy.fsck(image)
            if observed.final.block != "new":
                observed.repaired = autopsy.repaired(image)
        observed.log = bytes(log.view[: log.size])
    return observed


class _Live:
    """The volume while the fault is on its disk."""

    def __init__(self, order: Order, disk: ServedDisk, kernel: KernelLog, observed: Observed) -> None:
        self._order = order
        self._disk = disk
        self._kernel = kernel
        self._told = observed
        self._root = mounts.enter_private_mounts().volume
        self._blocks: list[tuple[int, str]] = []
        self.settled: Image
        """The medium when all had settled."""

    def run(self) -> None:
        """From the mount to the unmount."""
        device = self._disk.attach()
        self._kernel.lines()  # what is said of a device of this number up to now was another's
        mount_device(device, self._root, self._order.spec)
        try:
            # O_NOATIME: a read must not start a transaction, which would notice that the journal is aborted.
            fd = os.open(f"{self._root}/{FILE}", os.O_RDWR | os.O_NOATIME | os.O_CLOEXEC)
            try:
                self._calls(fd)
            finally:
                os.close(fd)
            self._told.kernel = self._kernel.lines(device.name)
        finally:
            self._told.umount = self._step("umount", lambda: syscalls.umount(self._root))
        self._disk.detach()
        self._told.kernel_late = self._kernel.lines(device.name)
        self._told.hits = sum(count.hit for count in self._disk.engine.counts())

    def _calls(self, fd: int) -> None:
        told, at = self._told, self._order.at
        os.pread(fd, PAGES * BLOCK, 0)
        self._write(fd, at, "new")
        self._arm("fsync 1")
        self._fsync(fd)
        self._fsync(fd)
        told.memory = _block(lambda: os.pread(fd, BLOCK, at))
        self._arm("settle")
        self._settle()
        if self._order.appends:
            self._step("append", lambda: self._write(fd, at + BLOCK, "next"))
        self._fsync(fd)
        told.writable = self._step("probe", self._probe)
        told.writable_again = self._step("probe again", self._probe)
        told.readable = _result(lambda: os.pread(fd, BLOCK, 0))
        told.options = _options(self._root)
        told.direct = _block(lambda: _read_direct(f"{self._root}/{FILE}", at))
        os.posix_fadvise(fd, at, BLOCK, os.POSIX_FADV_DONTNEED)
        told.dropped = _block(lambda: os.pread(fd, BLOCK, at))

    def _write(self, fd: int, at: int, word: str) -> None:
        os.pwrite(fd, fill(word), at)
        self._blocks.append((at, word))

    def _arm(self, step: str) -> None:
        if self._order.rule and self._order.arm == step:
            self._disk.engine.arm([self._order.rule])

    def _step(self, name: str, call: Callable[[], object]) -> str:
        self._disk.engine.mark(STEP + name.encode())
        result = _result(call)
        if result != OK:
            self._disk.engine.mark(b"gives " + result.encode())
        return result

    def _fsync(self, fd: int) -> None:
        number = len(self._told.fsyncs) + 1
        result = self._step(f"fsync {number}", lambda: os.fsync(fd))
        self._told.fsyncs.append(result)
        if result == OK:
            covered = Covered(fsync=number, blocks=tuple(self._blocks))
            self._disk.engine.mark(JSON + msgspec.json.encode(covered))

    def _settle(self) -> None:
        """What the timers of the kernel do within the minute: the journal is committed, metadata go to their places.

        syncfs(2) does both on ext4 (the metadata lie in the block device's page cache, which it writes out) and commits
        a transaction on btrfs. xfs writes inodes in place from its AIL: by a timer, when the log fills up, when it is
        frozen or unmounted. A freeze waits until that has succeeded, so it is left out (`push`) where it never will.
        """
        self._told.sync = self._step("settle", lambda: sync_file_system(self._root))
        if self._order.push:
            with contextlib.suppress(OSError):  # it was shut down meanwhile
                _freeze_and_thaw(self._root)
        self.settled = self._disk.medium()

    def _probe(self) -> None:
        """Another program makes a file and fsyncs it."""
        fd = os.open(f"{self._root}/probe", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.write(fd, b"probe")
            os.fsync(fd)
        finally:
            os.close(fd)


def _freeze_and_thaw(root: str) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FIFREEZE, 0)
        fcntl.ioctl(fd, _FITHAW, 0)
    finally:
        os.close(fd)


def _result(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as error:
        return _name(error)
    return OK


def _block(read: Callable[[], bytes]) -> str:
    """The word for what is read, or the name of the errno."""
    try:
        return word_of(read())
    except OSError as error:
        return _name(error)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def _read_direct(path: str, at: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_NOATIME | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, BLOCK) as page:  # O_DIRECT wants an aligned buffer: open(2)
            got = os.preadv(fd, [page], at)
            return page[:got]
    finally:
        os.close(fd)


def _options(root: str) -> str:
    """The super options of a mount: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        rows = [line.split() for line in file]
    return next((row[-1] for row in reversed(rows) if row[4] == root), "")


def read_log(log: BlockLog, observed: Observed) -> None:
    """When the fault struck, and whether the block was written again behind it."""
    faults = [mark.at for mark in log.marks if mark.text.startswith(FAULT)]
    if not faults:
        return
    steps = {-1: "mount"}
    steps |= {mark.at: mark.text.removeprefix(STEP).decode() for mark in log.marks if mark.text.startswith(STEP)}
    observed.struck = [name for at, name in steps.items() if at < faults[0]][-1]
    # The third fsync writes another block, perhaps to the same place.
    third = next(at for at, name in steps.items() if name == "fsync 3")
    later = (event for event in log.events[faults[0] :] if event.kind is Kind.WRITE)
    tried = sum(at < third for at in faults) > 1
    observed.rewritten = tried or any(fill("new") in bytes(log.data(event)) for event in later)


class _Autopsy:
    """Has the kernel recover a disk, and looks at it."""

    def __init__(self, order: Order) -> None:
        self._order = order
        workspace = mounts.enter_private_mounts()
        self._examiner = Examiner(order.spec.file_system, order.spec.mount_options, workspace, run_fsck=False)

    def look(self, image: Image, made: Sequence[Promise] = ()) -> tuple[Look, list[Finding]]:
        """What is on it, and which promises it breaks. One that does not mount is a finding too."""
        looks = [Look("no mount")]

        def check(state: RecoveredState) -> list[Finding]:
            looks.append(_look(f"{state.path}/{FILE}", self._order.at))
            return FsyncCheck()(state)

        with loop.attach(image.fd, sector_size=self._order.spec.sector_size) as device:
            findings = self._examiner.examine(device.path, device.name, made, check)
        return looks[-1], findings

    def fsck(self, image: Image) -> str:
        """The most thorough check of the file system's own, read-only: `clean`, `complains` or `unknown`."""
        fs = self._order.spec.file_system
        fs = msgspec.structs.replace(fs, fsck=_FULL_CHECK.get(fs.fsck_program, fs.fsck))
        return {True: "clean", False: "complains", None: "unknown"}[fsck(fs, image.path).clean]

    def repaired(self, image: Image) -> str:
        """What the block holds after the file system's own repair."""
        with image.copy("repaired") as copy:
            process.run([*_REPAIR[self._order.spec.file_system.fsck_program], copy.path], ok=_ANY_STATUS)
            return self.look(copy)[0].block


def _look(path: str, at: int) -> Look:
    status = os.stat(path)
    return Look(_block(lambda: _of(path, at)), status.st_size, int(status.st_mtime), _extent(path, at))


def _of(path: str, at: int) -> bytes:
    with open(path, "rb") as file:
        return os.pread(file.fileno(), BLOCK, at)


def _extent(path: str, at: int) -> str:
    """What is below the block."""
    with open(path, "rb") as file:
        extents = file_extents(file.fileno(), sync=False)
    below = [extent for extent in extents if extent.logical <= at < extent.logical + extent.length]
    if not below:
        return "hole"
    return "unwritten" if below[0].flags & Flag.UNWRITTEN else "written"

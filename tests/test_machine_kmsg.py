"""The kernel log: lines of one device since an instant, and what they report."""

import os
import time
from collections.abc import Iterator

import pytest

from harness.machine import loop, mounts, process
from harness.machine.kmsg import OVERRUN, KernelClass, KernelLog, classify, names
from harness.machine.sandbox import spawn_init


def say(*messages: str) -> None:
    """Put messages into the kernel log, below what consoles show.

    A record without newline stays unfinished, and unread. At most 10 an open file and 5 s are let through.
    """
    for message in messages:
        with open("/dev/kmsg", "wb", buffering=0) as log:
            log.write(f"<7>{message}\n".encode())


@pytest.fixture
def log() -> Iterator[KernelLog]:
    with KernelLog() as opened:
        assert opened.available, opened.reason
        yield opened


@pytest.mark.root
class TestReading:
    def test_only_new_lines_come_and_each_once(self) -> None:
        say("nodev7: before")
        with KernelLog() as log:
            say("nodev7: after")
            assert log.lines("nodev7") == ["nodev7: after"]
            assert log.lines("nodev7") == []

    def test_a_device_is_matched_as_a_word(self, log: KernelLog) -> None:
        say("FS (nodev1): a", "FS (nodev10): b", "error, dev nodev1, c", "Aborting on nodev1-8.", "xnodev1: d")
        assert log.lines("/dev/nodev1") == ["FS (nodev1): a", "error, dev nodev1, c", "Aborting on nodev1-8."]

    def test_without_a_device_all_lines_come(self, log: KernelLog) -> None:
        say("nodev2: x", "nodev3: y")
        assert [line for line in log.lines() if line.startswith("nodev")] == ["nodev2: x", "nodev3: y"]

    def test_a_line_can_be_shown_on_a_terminal(self, log: KernelLog) -> None:
        say("nodev4: back\\slash, é, \x1b[31mred")
        assert log.lines("nodev4") == ["nodev4: back\\slash, é, \\x1b[31mred"]

    def test_an_overrun_is_told(self, log: KernelLog) -> None:
        # From the oldest record on, little need be written until that is lost: others read this log too.
        os.lseek(log.fileno(), 0, os.SEEK_SET)
        with KernelLog() as probe:
            os.lseek(probe.fileno(), 0, os.SEEK_SET)
            while not _overran(probe):
                say(*["nodev5: " + "x" * 900] * 10)
        name = f"nodev{os.getpid()}x{time.monotonic_ns()}"  # that no earlier run has left in the log
        say(f"{name}: last")
        assert log.lines(name) == [OVERRUN, f"{name}: last"]

    def test_nothing_new_costs_next_to_nothing(self, log: KernelLog) -> None:
        costs = []
        for _ in range(200):
            log.lines("loop0")
            began = time.perf_counter()
            log.lines("loop0")
            costs.append(time.perf_counter() - began)
        assert sorted(costs)[len(costs) // 2] < 30e-6

    @pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
    def test_a_real_mount_of_a_damaged_volume_is_called_corruption(self, log: KernelLog, fs: str) -> None:
        image = _image(fs)
        where, length = DAMAGE[fs]
        os.pwrite(image, b"\xff" * length, where)
        lines = log.lines(_try_to_mount(image, fs))
        assert KernelClass.CORRUPTION in [classify(line) for line in lines], lines

    @pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
    def test_a_real_mount_of_a_good_volume_is_not(self, log: KernelLog, fs: str) -> None:
        lines = log.lines(_try_to_mount(_image(fs), fs))
        assert [line for line in lines if classify(line)] == []


# Byte offset and length of what a mount must read: group descriptors; AGF and AGI; both copies of the tree blocks.
DAMAGE = {"ext4": (4096, 4096), "xfs": (4096, 8192), "btrfs": (1 << 20, 60 << 20)}

MKFS = {
    "ext4": (16 << 20, ["mkfs.ext4", "-q", "-b", "4096"]),
    "xfs": (300 << 20, ["mkfs.xfs", "-q", "-s", "size=4096"]),
    "btrfs": (128 << 20, ["mkfs.btrfs", "-q", "-s", "4096"]),
}


def test_where_the_log_cannot_be_read_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.machine.kmsg._PATH", "/nowhere/kmsg")
    log = KernelLog()
    assert not log.available
    assert log.reason == "/nowhere/kmsg: No such file or directory"
    assert log.lines() == []


def _overran(log: KernelLog) -> bool:
    """Whether the record that `log` would read next is lost. Leaves the place as it is."""
    try:
        os.read(log.fileno(), 16384)
    except BrokenPipeError:
        return True
    os.lseek(log.fileno(), 0, os.SEEK_SET)
    return False


def _image(fs: str) -> int:
    size, mkfs = MKFS[fs]
    image = os.memfd_create("crash-harness:test")
    os.ftruncate(image, size)
    process.run([*mkfs, f"/proc/{os.getpid()}/fd/{image}"])
    return image


def _try_to_mount(image: int, fs_type: str) -> str:
    """Mount and leave it to end with its namespace. Returns the name of the loop device."""
    with loop.attach(image) as device:

        def main() -> int:
            try:
                mounts.mount_volume(device.path, "/mnt", fs_type)
            except OSError:
                return 1
            return 0

        with spawn_init(main) as init:
            assert init.wait(20) in (0, 1)
        os.close(image)
        return device.name


def test_names() -> None:
    assert names("BTRFS error (device loop3 state EA): x", "loop3")
    assert names("BTRFS: device fsid 1 devid 1 transid 8 /dev/loop3 (7:3) scanned", "loop3")
    assert not names("EXT4-fs (loop30): x", "loop3")
    assert not names("EXT4-fs (loop3p1): x", "loop3")


REPORTS = {
    KernelClass.IO_ERROR: [
        "I/O error, dev loop0, sector 2 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
        "Buffer I/O error on dev loop0, logical block 0, async page read",
        "JBD2: I/O error when updating journal superblock for loop0-8.",
        "JBD2: Detected IO errors 5 while flushing file data on loop0-8",
        "EXT4-fs (loop0): I/O error while writing superblock",
        "EXT4-fs error (device loop0) in ext4_reserve_inode_write:5720: IO failure",
        "EXT4-fs error (device loop0): __ext4_find_entry:1684: inode #2: comm ls: reading directory lblock 0",
        'XFS (loop0): metadata I/O error in "xfs_buf_ioend+0x1f/0x30" at daddr 0x2 len 1 error 5',
        "BTRFS error (device loop0): bdev /dev/loop0 errs: wr 1, rd 0, flush 0, corrupt 0, gen 0",
        "BTRFS: error (device loop0) in btrfs_commit_transaction:2524: errno=-5 IO failure (Error while writing out)",
    ],
    KernelClass.LOST_PAGE_WRITE: [
        "Buffer I/O error on dev loop0, logical block 1, lost sync page write",
        "Buffer I/O error on dev loop0, logical block 17192, lost async page write",
        "loop0: writeback error on inode 16708, offset 414887936, sector 949864",
        "EXT4-fs (loop0): This should not happen!! Data will be lost",
    ],
    KernelClass.JOURNAL_ABORTED: [
        "Aborting journal on device loop0-8.",
        "EXT4-fs error (device loop0): ext4_journal_check_start:84: comm python3: Detected aborted journal",
        "XFS (loop0): Filesystem has been shut down due to log error (0x2).",
        "BTRFS error (device loop0 state A): Transaction aborted (error -5)",
    ],
    KernelClass.REMOUNTED_READ_ONLY: [
        "EXT4-fs (loop0): Remounting filesystem read-only",
        "BTRFS info (device loop0 state EA): forced readonly",
    ],
    KernelClass.BEYOND_END: ["python3: attempt to access beyond end of device loop0: rw=2049, sector=225, limit=1"],
    KernelClass.CORRUPTION: [
        "EXT4-fs error (device loop0): ext4_lookup:1787: inode #2: comm ls: deleted inode referenced: 12",
        "EXT4-fs error (device loop0): ext4_validate_block_bitmap:421: comm sh: bg 0: bad block bitmap checksum",
        "EXT4-fs (loop0): ext4_check_descriptors: Checksum for group 0 failed (49716!=0)",
        "EXT4-fs (loop0): group descriptors corrupted!",
        "EXT4-fs (loop0): warning: mounting fs with errors, running e2fsck is recommended",
        "EXT2-fs (loop0): error: ext2_lookup: deleted inode referenced: 13",
        "JBD2: Invalid checksum recovering block 0 in log",
        "XFS (loop0): Metadata corruption detected at xfs_dinode_verify+0x4/0xc [xfs], inode 0x80 dinode",
        "XFS (loop0): Metadata CRC error detected at xfs_agf_read_verify+0xd/0x1 [xfs], xfs_agf block 0x1 ",
        "XFS (loop0): Corruption detected. Unmount and run xfs_repair",
        "XFS (loop0): Internal error i != 1 at line 2 of file fs/xfs/libxfs/xfs_alloc.c.  Caller xfs_free_ag_extent",
        "XFS (loop0): Corruption of in-memory data (0x8) detected at xfs_trans_cancel+0x4 (fs/xfs/xfs_trans.c:1).",
        "XFS (loop0): Corruption warning: Metadata has LSN (1:48) ahead of current LSN (1:16).",
        "XFS (loop0): log mount/recovery failed: error -117",
        "BTRFS critical (device loop0): corrupt leaf: root=5 block=30441472 slot=4, bad key order",
        "BTRFS error (device loop0): bad tree block start, mirror 1 want 30441472 have 0",
        "BTRFS error (device loop0): parent transid verify failed on logical 30441472 mirror 1 wanted 7 found 5",
        "BTRFS warning (device loop0): checksum verify failed on logical 5312512 mirror 1 wanted 0xb found 0x8 level 0",
        "BTRFS warning (device loop0): csum failed root 5 ino 257 off 0 csum 0x98f expected csum 0x7ba mirror 1",
        "BTRFS error (device loop0): bdev /dev/loop0 errs: wr 0, rd 0, flush 0, corrupt 1, gen 0",
    ],
}

CHATTER = [
    "EXT4-fs (loop0): recovery complete",
    "EXT4-fs (loop0): mounted filesystem ac92b466 r/w with ordered data mode. Quota mode: none.",
    "EXT4-fs (loop0): orphan cleanup on readonly fs",
    "EXT4-fs (loop0): 1 orphan inode deleted",
    "EXT4-fs (loop0): mounting ext2 file system using the ext4 subsystem",
    "EXT2-fs (loop0): warning: mounting unchecked fs, running e2fsck is recommended",
    "EXT4-fs (loop0): warning: mounting unchecked fs, running e2fsck is recommended",
    "XFS (loop0): Mounting V5 Filesystem bfdc47fc",
    "XFS (loop0): Starting recovery (logdev: internal)",
    "XFS (loop0): Ending recovery (logdev: internal)",
    "XFS (loop0): Torn write (CRC failure) detected at log block 0x180. Truncating head block from 0x200.",
    "BTRFS info (device loop0): using crc32c (crc32c-lib) checksum algorithm",
    "BTRFS info (device loop0): start tree-log replay",
    "loop0: detected capacity change from 0 to 32768",
]


@pytest.mark.parametrize(("kind", "line"), [(kind, line) for kind, lines in REPORTS.items() for line in lines])
def test_reports_are_told_apart(kind: KernelClass, line: str) -> None:
    assert classify(line) == kind


@pytest.mark.parametrize("line", CHATTER)
def test_the_chatter_of_a_normal_recovery_reports_nothing(line: str) -> None:
    assert classify(line) is None

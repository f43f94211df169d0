"""The kernel's own words: what it logged since an instant, about one device, and what kind of trouble a line reports.

Reading: one read(2) of /dev/kmsg gives one record, `prefix,seq,time,flags;text`, then lines ` KEY=value`; EAGAIN when
there is no more, EPIPE when records were overwritten before we came to read them
(Documentation/ABI/testing/dev-kmsg; kernel/printk/printk.c). The descriptor never touches what others read.

The messages that `classify` knows, by the kernel source that prints them:

- block/blk-core.c, block/blk-mq.c: "attempt to access beyond end of device", "I/O error, dev %s, sector %llu"
- fs/buffer.c: "Buffer I/O error on dev %pg, logical block %llu%s" with ", lost async page write", ", lost sync page
  write"; fs/iomap: "writeback error on inode %lu, offset %lld, sector %llu"
- fs/jbd2/journal.c, commit.c: "Aborting journal on device %s.", "JBD2: I/O error when updating journal superblock for
  %s.", "JBD2: Detected IO errors %d while flushing file data on %s"; recovery.c: "JBD2: Invalid checksum recovering …",
  which skips the block and gives EFSBADCRC
- fs/ext4/super.c: "EXT4-fs error (device %s): %s:%d: comm %s: %pV", which ext4_error() prints for damage, for I/O that
  failed and for a journal that was aborted before; "EXT4-fs (%s): Remounting filesystem read-only"
- fs/ext2/super.c: "EXT2-fs (%s): error: %s: %pV"
- fs/xfs/xfs_error.c: "Metadata CRC error|corruption detected at %pS, …", "Corruption detected. Unmount and run
  xfs_repair", "Internal error %s at line %d of file %s"; xfs_fsops.c: "%s (0x%x) detected at %pS (%s:%d).  Shutting
  down filesystem."; xfs_log.c: "Filesystem has been shut down due to log error (0x%x)."; xfs_log_recover.c: "log mount/
  recovery failed: error %d". "Torn write (CRC failure) detected at log block" is *normal* after a power cut
  (xlog_verify_head cuts the log's unfinished end off).
- fs/btrfs/disk-io.c: "bad tree block start, mirror %u want %llu have %llu", "checksum verify failed on logical %llu …",
  "parent transid verify failed …"; tree-checker.c: "corrupt leaf|node: root=…"; inode.c: "csum failed root …";
  messages.c: "BTRFS: error (device %s) in %s:%d: errno=%d %s", "forced readonly"; volumes.c: "bdev %s errs: wr %u, rd
  %u, flush %u, corrupt %u, gen %u". "using crc32c checksum algorithm" is an info line of every mount.
"""

import enum
import functools
import os
import re

from harness.closing import Closing

OVERRUN = "… kernel log overran, lines lost"
"""Stands among the lines where the kernel overwrote records before they were read."""

_PATH = "/dev/kmsg"
# A record is at most PRINTKRB_RECORD_MAX = 1024 bytes of text before escaping; a buffer that is too small is EINVAL.
_RECORD_MAX = 16 * 1024

_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class KernelLog(Closing):
    """The kernel's messages from the moment of construction on.

    Where the log cannot be read (no /dev/kmsg, or no permission) `available` is False, `reason` says why, and there
    are never any lines. The place reached belongs to the open file: a forked child must open its own.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._fd = -1
        try:
            self._fd = os.open(_PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.reason = f"{_PATH}: {error.strerror}"
            self.close()

    @property
    def available(self) -> bool:
        return self._fd >= 0

    def fileno(self) -> int:
        """For select and poll: readable when there is something new. -1 when not available."""
        return self._fd

    def lines(self, device: str | None = None) -> list[str]:
        """Messages since the last call, all of them or those that name `device` (loop1, /dev/loop1).

        Lines about other devices are read past and gone. Costs a few microseconds when there is nothing new.
        """
        found: list[str] = []
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _RECORD_MAX)
            except BlockingIOError:
                break
            except BrokenPipeError:
                found.append(OVERRUN)  # the next read starts at the oldest record that is left
                continue
            text = _text(record)
            if device is None or names(text, device):
                found.append(text)
        return found

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def names(text: str, device: str) -> bool:
    """Whether a message is about a device: `(loop1)`, `dev loop1,`, `loop1:`, and its journal `loop1-8`; not loop10."""
    return _word(device.removeprefix("/dev/")).search(text) is not None


@functools.lru_cache(maxsize=64)
def _word(device: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(device)}(?![A-Za-z0-9_])")


def _text(record: bytes) -> str:
    message = record.partition(b";")[2].partition(b"\n")[0]
    return _ESCAPE.sub(_unescape, message).decode(errors="backslashreplace")


def _unescape(match: re.Match[bytes]) -> bytes:
    """A newline within a message becomes a space; control characters stay escaped, for these lines reach terminals."""
    value = int(match[1], 16)
    if value == ord("\n"):
        return b" "
    return bytes([value]) if value >= 0x80 or value == ord("\\") else match[0]


class KernelClass(enum.StrEnum):
    """What a line of the kernel log reports."""

    IO_ERROR = "IO_ERROR"
    LOST_PAGE_WRITE = "LOST_PAGE_WRITE"
    JOURNAL_ABORTED = "JOURNAL_ABORTED"
    REMOUNTED_READ_ONLY = "REMOUNTED_READ_ONLY"
    BEYOND_END = "BEYOND_END"
    CORRUPTION = "CORRUPTION"


# The first that matches decides. CORRUPTION comes last: a file system also says "error" where only I/O has failed.
_CLASSES: tuple[tuple[KernelClass, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (KernelClass.BEYOND_END, r"attempt to access beyond end of device"),
        (
            KernelClass.LOST_PAGE_WRITE,
            r"lost (?:(?:a?sync )?page|asynchronous page) write|writeback error on inode|[Dd]ata will be lost"
            r"|potential data loss",
        ),
        (
            KernelClass.JOURNAL_ABORTED,
            r"Aborting journal on device|[Dd]etected aborted journal|Journal has aborted|Transaction aborted"
            r"|shut down due to log error|Log I/O [Ee]rror|Skipping commit of aborted transaction",
        ),
        (
            KernelClass.REMOUNTED_READ_ONLY,
            r"[Rr]emounting (?:file ?system )?read-only|forced readonly|EXT4-fs error .*: Readonly filesystem",
        ),
        (
            KernelClass.CORRUPTION,
            # Damage that the line names as such, before the I/O errors: btrfs names both in one line.
            r"errs: wr \d+, rd \d+, flush \d+, corrupt [1-9]|errno=-(?:117|74)\b|Failed to recover log tree",
        ),
        (
            KernelClass.IO_ERROR,
            r"I/O error|\bIO (?:failure|error)|errs: wr \d|Detected IO errors"
            r"|EXT[24]-fs .*(?:[Uu]nable to read|[Cc]annot read|error reading|error -5\b|reading directory lblock)",
        ),
        (
            KernelClass.CORRUPTION,
            r"EXT4-fs error |EXT2-fs \([^)]*\): error: |EXT4-fs warning .*checksum"
            r"|EXT4-fs \([^)]*\): .*(?:[Cc]hecksum .*(?:failed|invalid)|invalid .*checksum|corrupted)"
            r"|EXT[24]-fs \([^)]*\): (?:warning: )?mounting fs with errors"
            r"|JBD2: (?:Invalid checksum|journal checksum error|recovery failed)"
            r"|XFS \([^)]*\): (?:.*\b[Cc]orrupt|Metadata CRC error|Internal error|log record CRC mismatch"
            r"|.*daddr 0x[0-9a-f]+ out of range|.*failed: error -(?:117|74)\b|.*failed with error -(?:117|74)\b)"
            r"|BTRFS:? (?:error|critical|warning) \([^)]*\).*(?:[Cc]hecksum|csum|[Cc]orrupt|bad tree block"
            r"|bad fsid|transid verify failed|level verify failed|first key mismatch|failed to recover log tree)",
        ),
    )
)


def classify(line: str) -> KernelClass | None:
    """The kind of trouble that a line reports; None for all else, such as the chatter of a normal recovery.

    CORRUPTION is said by a file system of its own metadata or data. On a device that fails or is gone, XFS also calls
    its in-memory state corrupt: read such a line together with the I/O errors before it.
    """
    for kind, pattern in _CLASSES:
        if pattern.search(line):
            return kind
    return None

"""After recovery the volume must also work: in each directory, and until nothing is left in it.

No fsync: what is asked is whether the operations succeed. Source: xfstests, which end log-replay tests with rmdir.
"""

import errno
import os
import stat
from collections.abc import Sequence

from harness.oracle.recovered import Entry
from harness.verdict import Finding, FindingKind

_PROBE = ".harness-works"
_MOVED = ".harness-moved"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def failures(root: str, entries: Sequence[Entry]) -> list[Finding]:
    """What of the recovered volume does not work; at most one finding. The tree is deleted meanwhile."""
    directories = ["", *(entry.path for entry in entries if entry.kind == "dir")]
    for directory in directories:
        if finding := _use(root, directory):
            return [finding]
    for entry in reversed(entries):  # a directory stands before what is in it
        if finding := _delete(root, entry):
            return [finding]
    return []


def _use(root: str, directory: str) -> Finding | None:
    """Create, write, read, rename, unlink, mkdir, rmdir in one directory."""
    folder = f"{root}/{directory}" if directory else root
    probe, moved = f"{folder}/{_PROBE}", f"{folder}/{_MOVED}"
    step = "create"
    try:
        fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            step = "write"
            os.write(fd, b"works")
            step = "read"
            if os.pread(fd, 10, 0) != b"works":
                return _finding(directory, "a file just written reads differently", "")
        finally:
            os.close(fd)
        step = "rename"
        os.rename(probe, moved)
        step = "unlink"
        os.unlink(moved)
        step = "mkdir"
        os.mkdir(probe)
        step = "rmdir"
        os.rmdir(probe)
    except OSError as error:
        if error.errno in _FULL:
            return None  # a full volume is no broken one
        return _finding(directory, f"{step} fails", str(error))
    return None


def _delete(root: str, entry: Entry) -> Finding | None:
    path = f"{root}/{entry.path}"
    try:
        if entry.status and stat.S_ISDIR(entry.status.st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError as error:
        left = os.listdir(path) if entry.kind == "dir" else []
        more = f", and readdir shows {left or 'nothing'} in it" if entry.kind == "dir" else ""
        return _finding(entry.path, f"it cannot be removed: {os.strerror(error.errno or 0)}{more}", str(error))
    return None


def _finding(path: str, what: str, output: str) -> Finding:
    summary = f"META {path or '.'}: after recovery {what} [rule usable]"
    return Finding(kind=FindingKind.META, summary=summary, output=output)

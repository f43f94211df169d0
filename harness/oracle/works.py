"""After recovery the volume must also work: in each directory, and until nothing is left in it.

No fsync: what is asked is whether the operations succeed. Source: xfstests, which end log-replay tests with rmdir.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence

from harness.oracle.contents import VOLUME_ERRORS
from harness.oracle.recovered import Entry
from harness.oracle.wording import finding
from harness.verdict import Finding, FindingKind

_PROBE = ".harness-works"
_MOVED = ".harness-moved"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUR_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""What says nothing about the volume: raised, so that nothing is concluded."""


def failures(root: str, entries: Sequence[Entry]) -> list[Finding]:
    """What of the recovered volume does not work; at most one finding. The tree is deleted meanwhile."""
    directories = ["", *(entry.path for entry in entries if entry.kind == "dir")]
    for directory in directories:
        if found := _use(root, directory):
            return [found]
    for entry in reversed(entries):  # a directory stands before what is in it
        if found := _delete(root, entry):
            return [found]
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
                return _broken(directory, "a file just written reads differently")
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
            _clear(probe, moved)
            return None  # a full volume is no broken one
        return _broken(directory, f"{step} fails: {_said(error)}", error)
    return None


def _clear(*probes: str) -> None:
    for probe in probes:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(probe)


def _delete(root: str, entry: Entry) -> Finding | None:
    path = f"{root}/{entry.path}"
    try:
        if entry.status and stat.S_ISDIR(entry.status.st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError as error:
        shown = f", and readdir shows {_shown(path)} in it" if error.errno == errno.ENOTEMPTY else ""
        return _broken(entry.path, f"it cannot be removed: {_said(error)}{shown}", error)
    return None


def _shown(directory: str) -> str:
    return ", ".join(sorted(os.listdir(directory))) or "nothing"


def _said(error: OSError) -> str:
    return os.strerror(error.errno or 0)


def _broken(path: str, what: str, error: OSError | None = None) -> Finding:
    """What does not work. Raises the error if it is none of the volume's."""
    if error and error.errno in _OUR_OWN:
        raise error
    kind = FindingKind.UNAVAILABLE if error and error.errno in VOLUME_ERRORS else FindingKind.META
    return finding(kind, path or ".", f"after recovery {what}", "usable", str(error or ""))

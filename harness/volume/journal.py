"""A journal: an append-only file of records, each of them durable before `append` returns.

A record is one line of JSON with its number and the xxh3 of both. What a crash can leave is an unfinished last line:
without its newline, or with zeros where a sector was never written. That one is dropped when the journal is opened; it
was never acknowledged. Any other damage is refused. One process writes at a time (flock(2)).
"""

import contextlib
import fcntl
import os
import weakref
from typing import Any, Generic, TypeVar

import msgspec
import xxhash

from harness.closing import Closing
from harness.errors import BadJournal, Misuse

SUFFIX = ".journal"
"""How the name of a journal ends, by convention: `harness volumes` looks for it."""

SCHEMA = 1

_BEGINNING = b'{"crash-harness":'
_REMEDY = "put back a copy of it; or move it away, and see with `harness volumes` what is still attached"

R = TypeVar("R", bound=msgspec.Struct)


_opened: "weakref.WeakSet[Journal[Any]]" = weakref.WeakSet()


def _close_all() -> None:
    for journal in _opened:
        journal.close()


# A forked child would share the lock, and keep it when the writer dies.
os.register_at_fork(after_in_child=_close_all)


class _Line(msgspec.Struct, frozen=True):
    schema: int = msgspec.field(name="crash-harness")
    seq: int
    xxh3: str
    record: msgspec.Raw


class Journal(Closing, Generic[R]):
    """The journal at `path`, open for appending. `records`: all that is in it."""

    def __init__(self, path: str, kind: type[R]) -> None:
        """Made if it is not there. A torn end is cut off.

        Raises BadJournal for damage, Misuse where another process writes to it or its folder is missing.
        """
        self.path = os.path.abspath(path)
        self._fd = _open_alone(self.path)
        _opened.add(self)
        try:
            self.records, whole = parse(_content(self._fd), kind, self.path)
            if whole != os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, whole)
            # Whoever wrote the last record may have died before its fsync: what is acted on must be durable first.
            os.fsync(self._fd)
            _sync_folder(self.path)
        except BaseException:
            self.close()
            raise

    def append(self, record: R) -> None:
        """Raises OSError (ENOSPC, EIO); nothing can be appended after that until the journal is opened again.

        After a failed fsync the page is clean, and a second one would report success (fsync(2), "EIO").
        """
        if self._fd < 0:
            raise Misuse(f"{self.path} is closed, or failed before", "open it again")
        line = _encoded(len(self.records) + 1, record)
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(28, os.strerror(28), self.path)
            os.fsync(self._fd)
        except OSError:
            self.close()
            raise
        self.records.append(record)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: str, kind: type[R]) -> list[R]:
    """The records, while another process may be writing; nothing is changed. Raises BadJournal, OSError."""
    with open(path, "rb") as file:
        return parse(file.read(), kind, path)[0]


def parse(content: bytes, kind: type[R], path: str) -> tuple[list[R], int]:
    """The records in `content`, and how many bytes of it they take: what follows is a torn end. Raises BadJournal."""
    records: list[R] = []
    at = 0
    while at < len(content):
        line = content[at : content.find(b"\n", at) + 1 or len(content)]
        try:
            records.append(_decoded(line, len(records) + 1, kind))
        except ValueError as error:
            if at + len(line) == len(content) and _is_torn(line, first=at == 0):
                break
            raise BadJournal(f"{path}: damaged at byte {at}: {error}", _REMEDY) from None
        at += len(line)
    return records, at


def _is_torn(line: bytes, *, first: bool) -> bool:
    """Whether a crash can have left this at the end of a journal. More than one record it cannot tear."""
    written = line.replace(b"\0", b"")
    begins = written.startswith(_BEGINNING) or _BEGINNING.startswith(written)
    if written.count(_BEGINNING) > 1 or (first and not begins):  # and of a file that is not ours, nothing is cut off
        return False
    return b"\0" in line or (begins and not line.endswith(b"\n"))


def _encoded(seq: int, record: msgspec.Struct) -> bytes:
    text = msgspec.json.encode(record)
    line = _Line(schema=SCHEMA, seq=seq, xxh3=_digest(seq, text), record=msgspec.Raw(text))
    return msgspec.json.encode(line) + b"\n"


def _decoded(line: bytes, seq: int, kind: type[R]) -> R:
    """Raises ValueError (msgspec's errors are such), with what is wrong."""
    if not line.endswith(b"\n"):
        raise ValueError("the line does not end")
    found = msgspec.json.decode(line, type=_Line)
    if found.schema != SCHEMA:
        raise ValueError(f"schema {found.schema}, made by another version of the harness")
    if found.xxh3 != _digest(found.seq, bytes(found.record)):
        raise ValueError("the checksum is wrong")
    if found.seq != seq:
        raise ValueError(f"record {found.seq} stands where record {seq} belongs")
    return msgspec.json.decode(found.record, type=kind)


def _digest(seq: int, text: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(b"%d %s" % (seq, text))


def _content(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _open_alone(path: str) -> int:
    """Open and lock; again where the file was removed between the two."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise Misuse(f"{path}: no such folder", "make it first") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd
        except BlockingIOError:
            os.close(fd)
            writer = locker(path)
            who = f"process {writer}" if writer else "a process that cannot be named"
            raise Misuse(f"{path} is open in {who}", "one process at a time: let that one end first") from None
        os.close(fd)


def locker(path: str) -> int:
    """The pid of the process that has the journal open for writing; 0 for none that can be seen from here."""
    found = os.stat(path)
    exact = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    writers = {}
    with contextlib.suppress(OSError), open("/proc/locks") as file:
        for line in file:  # 1: FLOCK  ADVISORY  WRITE 708 00:13:608 0 EOF
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{found.st_ino}"):
                writers[words[5]] = int(words[4])
    # On btrfs, stat(2) and the kernel's own lists differ in the device number.
    return writers.get(exact) or next(iter(writers.values()), 0)


def _sync_folder(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

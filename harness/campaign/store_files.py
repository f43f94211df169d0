"""The file of the store: opened for one transaction, closed behind it; SQLite's errors in the harness's own words.

No connection outlives its transaction. The harness forks while a run goes on, and SQLite forbids to carry a connection
across fork(2) (https://sqlite.org/howtocorrupt.html, 2.6): what a child inherits it would close when it ends, and the
close of the last connection checkpoints the log and removes it. To open and commit takes 2 ms on a disk.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from harness.campaign.store_schema import migrate, no_store, ready

NAME = "harness.sqlite"
BUSY_SECONDS = 60.0
"""How long a writer waits for the others."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_LOCKED)
_AGAIN_SECONDS = 0.01
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}


@contextmanager
def writing(path: str) -> Iterator[sqlite3.Connection]:
    """One transaction: committed and durable at the end, undone by whatever is raised inside.

    Raises OSError (ENOSPC; EBUSY where others hold it for BUSY_SECONDS), Misuse for what is no store or a newer one.
    """
    with _translated(path), closing(_begun(path)) as store:
        try:
            yield store
            store.execute("COMMIT")
        except BaseException:
            if store.in_transaction:
                store.execute("ROLLBACK")
            raise


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """One snapshot of the store, whoever writes to it meanwhile. Raises as `writing` does."""
    with _translated(path), closing(_snapshot(path)) as store:
        if not ready(store, path):
            raise no_store(path, "it is empty, or of an older harness, and cannot be brought up to date here")
        yield store


def _snapshot(path: str) -> sqlite3.Connection:
    def begin(store: sqlite3.Connection) -> bool:
        store.execute("BEGIN")
        return ready(store, path)

    store, is_ready = _patiently(lambda: _looking(path), begin)
    if is_ready or not _writable(path):
        return store
    store.close()
    with writing(path):  # brings it up to date
        pass
    return _patiently(lambda: _looking(path), begin)[0]


def _begun(path: str) -> sqlite3.Connection:
    def begin(store: sqlite3.Connection) -> bool:
        if not ready(store, path):
            migrate(store, path)
        store.execute("BEGIN IMMEDIATE")
        return True

    return _patiently(lambda: _connect(f"file:{_quoted(path)}?mode=rwc"), begin)[0]


def _patiently(
    connect: Callable[[], sqlite3.Connection], begin: Callable[[sqlite3.Connection], bool]
) -> tuple[sqlite3.Connection, bool]:
    """A connection, and what `begin` said. Who closes last holds the file for an instant: then it is tried again."""
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        store = connect()
        try:
            return store, begin(store)
        except sqlite3.OperationalError as error:
            store.close()
            if _code(error) not in _BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(_AGAIN_SECONDS)
        except BaseException:
            store.close()
            raise


def _connect(uri: str) -> sqlite3.Connection:
    store = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    store.execute("PRAGMA synchronous = FULL")
    store.execute("PRAGMA foreign_keys = ON")
    return store


def _looking(path: str) -> sqlite3.Connection:
    """For reading. In WAL mode a reader writes too, to the index in shared memory (https://sqlite.org/wal.html).

    Where it cannot, nobody can write here, and a store without a log is what its file says.
    """
    if _writable(path):
        store = _connect(f"file:{_quoted(path)}?mode=rw")
        store.execute("PRAGMA query_only = ON")
        return store
    log = f"{path}-wal"
    still = "" if os.path.exists(log) and os.path.getsize(log) else "&immutable=1"
    return _connect(f"file:{_quoted(path)}?mode=ro{still}")


def _quoted(path: str) -> str:
    return quote(os.fsencode(path))


def _writable(path: str) -> bool:
    return os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = _code(error)
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise no_store(path, str(error)) from error
        if code in _BUSY:
            raise OSError(errno.EBUSY, "another process keeps the store to itself", path) from error
        if code in _ERRNO or code == sqlite3.SQLITE_IOERR:
            number = _ERRNO.get(code, errno.EIO)
            if code == sqlite3.SQLITE_CANTOPEN and os.path.isdir(path):
                number = errno.EISDIR
            elif code == sqlite3.SQLITE_CANTOPEN and not os.path.exists(os.path.dirname(path)):
                number = errno.ENOENT
            raise OSError(number, os.strerror(number), path) from error
        raise


def _code(error: sqlite3.Error) -> int:
    """The primary result code: the low byte (https://sqlite.org/rescode.html)."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF

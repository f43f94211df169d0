"""The tables of the store, and how a store of an older harness becomes one of today.

`PRAGMA user_version` counts the steps that a file has been through. A step, once released, is never changed: what is
new is a further step.
"""

import sqlite3

from harness.errors import Misuse

APPLICATION_ID = 0x43726173
"""`Cras`, in the header of the file (PRAGMA application_id): a file of SQLite that is ours."""

# A seed may be larger than an integer of SQLite.
# A key of several columns is the table itself (WITHOUT ROWID): a finding touches few pages, and so does its commit.
_FIRST = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, command TEXT NOT NULL, seed TEXT NOT NULL, settings TEXT NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, harness TEXT NOT NULL, kernel TEXT NOT NULL, started TEXT NOT NULL,
    ended TEXT NOT NULL DEFAULT '', verdict TEXT, interrupted INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE figure (
    run INTEGER NOT NULL REFERENCES run, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE shard (
    run INTEGER NOT NULL REFERENCES run, key TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE trial (
    run INTEGER NOT NULL REFERENCES run, key TEXT NOT NULL, text TEXT NOT NULL, guarantee TEXT NOT NULL,
    file_system TEXT NOT NULL, verdict TEXT NOT NULL, expected TEXT NOT NULL, judged INTEGER NOT NULL,
    allowed TEXT NOT NULL, complete INTEGER NOT NULL, recoveries INTEGER NOT NULL, seconds REAL NOT NULL,
    at TEXT NOT NULL, PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE plain (
    run INTEGER NOT NULL REFERENCES run, key BLOB NOT NULL, PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE plain_total (
    run INTEGER NOT NULL REFERENCES run, guarantee TEXT NOT NULL, file_system TEXT NOT NULL, trials INTEGER NOT NULL,
    states INTEGER NOT NULL, seconds REAL NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
    PRIMARY KEY (run, guarantee, file_system)
) STRICT, WITHOUT ROWID;
CREATE TABLE signature (
    id TEXT PRIMARY KEY, file_system TEXT NOT NULL, rule TEXT NOT NULL, shape TEXT NOT NULL, lost TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sighting (
    signature TEXT NOT NULL REFERENCES signature, run INTEGER NOT NULL, trial TEXT NOT NULL, kind TEXT NOT NULL,
    verdict TEXT NOT NULL, summary TEXT NOT NULL, states INTEGER NOT NULL, lost INTEGER NOT NULL,
    operations INTEGER NOT NULL, tries INTEGER NOT NULL, again INTEGER NOT NULL, bundle TEXT NOT NULL,
    size INTEGER NOT NULL, at TEXT NOT NULL, PRIMARY KEY (signature, run, trial),
    FOREIGN KEY (run, trial) REFERENCES trial (run, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE bundle (
    path TEXT PRIMARY KEY, signature TEXT NOT NULL REFERENCES signature, size INTEGER NOT NULL, verdict TEXT NOT NULL,
    recorded TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS = (_FIRST,)


def ready(store: sqlite3.Connection, path: str) -> bool:
    """Whether the file has all steps behind it. Raises Misuse for a newer store, and for what is none."""
    version = int(store.execute("PRAGMA user_version").fetchone()[0])
    ours = int(store.execute("PRAGMA application_id").fetchone()[0]) == APPLICATION_ID
    if not ours and (version or store.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]):
        raise no_store(path, "it is a database of something else")
    if version > len(MIGRATIONS):
        raise Misuse(
            f"{path} has schema {version}; this harness reads up to {len(MIGRATIONS)}",
            "upgrade: pip install -U crash-harness",
        )
    return ours and version == len(MIGRATIONS)


def migrate(store: sqlite3.Connection, path: str) -> None:
    """Take the steps that are left, all in one transaction: killed in the middle, the file is as it was before."""
    # A file of SQLite is in WAL mode or not: it says so itself, from here on.
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("BEGIN IMMEDIATE")
    if ready(store, path):  # another process was faster
        store.execute("COMMIT")
        return
    done = int(store.execute("PRAGMA user_version").fetchone()[0])
    for script in MIGRATIONS[done:]:
        for statement in filter(str.strip, script.split(";")):
            store.execute(statement)
    store.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    store.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    store.execute("COMMIT")


def no_store(path: str, why: str) -> Misuse:
    return Misuse(f"{path} is no store of this harness: {why}", "move it away, or name another folder with --reports")

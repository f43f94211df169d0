"""What is asked of the store, inside a snapshot of the caller's."""

import sqlite3
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from harness.campaign.records import BugSignature, Trial
from harness.campaign.store_rows import BugRow, BundleRow, GuaranteeRow, RunRow, Totals

R = TypeVar("R", bound=msgspec.Struct)

TABLES = ("run", "figure", "shard", "trial", "plain_total", "plain", "signature", "sighting", "bundle")

# `seen` are the sightings asked for, `best` the smallest of each signature: a bundle that is there comes first.
_BUGS = """
WITH seen AS (
    SELECT s.*, b.path AS there,
        row_number() OVER (
            PARTITION BY s.signature
            ORDER BY b.path IS NULL, s.verdict <> 'CORRUPTED', s.operations, s.lost, s.size, s.at, s.run, s.trial
        ) AS place
    FROM sighting s LEFT JOIN bundle b ON b.path = s.bundle AND b.signature = s.signature
    WHERE :run IS NULL OR s.run = :run
), best AS (SELECT * FROM seen WHERE place = 1)
SELECT g.id, g.file_system, g.rule, g.shape, g.lost AS lost_kinds, best.kind, best.summary,
    coalesce(best.there, '') AS bundle, best.size, best.operations, best.lost,
    count(*) AS count, sum(seen.states) AS states, min(seen.at) AS first_seen, max(seen.at) AS last_seen,
    min(seen.run) AS first_run, max(seen.run) AS last_run, sum(seen.tries) AS tries, sum(seen.again) AS again,
    CASE WHEN max(seen.verdict = 'CORRUPTED') THEN 'CORRUPTED' ELSE 'UNKNOWN' END AS verdict,
    NOT EXISTS (
        SELECT 1 FROM sighting o JOIN trial t ON t.run = o.run AND t.key = o.trial
        WHERE o.signature = g.id AND t.expected <> 'CORRUPTED'
    ) AS canary
FROM seen JOIN best ON best.signature = seen.signature JOIN signature g ON g.id = seen.signature
GROUP BY g.id ORDER BY verdict, count DESC, g.id
"""

_GUARANTEES = """
SELECT guarantee, file_system, sum(trials) AS trials, sum(states) AS states, sum(failed) AS failed,
    sum(unknown) AS unknown, min(first) AS first, max(last) AS last
FROM (
    SELECT guarantee, file_system, 1 AS trials, judged AS states,
        verdict = 'CORRUPTED' AND expected <> 'CORRUPTED' AS failed, verdict = 'UNKNOWN' AS unknown,
        at AS first, at AS last
    FROM trial WHERE run = :run
    UNION ALL
    SELECT guarantee, file_system, trials, states, 0, 0, first, last FROM plain_total WHERE run = :run
)
GROUP BY guarantee, file_system ORDER BY guarantee, file_system
"""


def records(store: sqlite3.Connection, kind: type[R], query: str, *values: Any) -> list[R]:
    """Rows as records: a column for each field."""
    return [msgspec.convert(row, kind, strict=False) for row in dicts(store.execute(query, values))]


def dicts(cursor: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def runs(store: sqlite3.Connection, where: str, *values: Any) -> list[RunRow]:
    return records(store, RunRow, f"SELECT * FROM run WHERE {where} ORDER BY id", *values)


def trials(store: sqlite3.Connection, run: int) -> list[Trial]:
    names = ", ".join(Trial.__struct_fields__)
    return records(store, Trial, f"SELECT {names} FROM trial WHERE run = ? ORDER BY at, key", run)


def totals(store: sqlite3.Connection, run: int) -> Totals:
    """Trials with a row of their own, and plain ones."""
    rows = [msgspec.convert(row, GuaranteeRow) for row in dicts(store.execute(_GUARANTEES, {"run": run}))]
    (recoveries,) = store.execute("SELECT coalesce(sum(recoveries), 0) FROM trial WHERE run = ?", (run,)).fetchone()
    return Totals(
        trials=sum(row.trials for row in rows),
        states=sum(row.states for row in rows),
        recoveries=recoveries,
        guarantees=tuple(rows),
    )


def bugs(store: sqlite3.Connection, run: int | None) -> list[BugRow]:
    """Corrupted before unknown, then by how often they were seen."""
    return [_bug(row) for row in dicts(store.execute(_BUGS, {"run": run}))]


def _bug(row: dict[str, Any]) -> BugRow:
    signature = BugSignature(
        file_system=row["file_system"], rule=row["rule"], shape=row["shape"], lost=row.pop("lost_kinds")
    )
    return msgspec.convert(row | {"signature": msgspec.to_builtins(signature)}, BugRow, strict=False)


def bundles(store: sqlite3.Connection) -> list[BundleRow]:
    return records(store, BundleRow, "SELECT * FROM bundle ORDER BY path")


def signature(store: sqlite3.Connection, identity: str) -> BugSignature | None:
    """That with this id, if it was ever seen."""
    query = "SELECT file_system, rule, shape, lost FROM signature WHERE id = ?"
    return next(iter(records(store, BugSignature, query, identity)), None)


def lines(store: sqlite3.Connection) -> Iterator[bytes]:
    """Each row as a line of JSON, tables that others refer to first."""
    for table in TABLES:
        for row in dicts(store.execute(f"SELECT * FROM {table}")):
            told = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
            yield msgspec.json.encode({"table": table} | told) + b"\n"

"""What is written to the store, inside a transaction of the caller's."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from harness.campaign.records import BugSignature, Sighting, Trial
from harness.campaign.store_rows import Plain
from harness.verdict import Verdict

_IN_MAX = 500
_SIGHTING = ("kind", "verdict", "summary", "states", "lost", "operations", "tries", "again", "bundle", "size")


def insert(store: sqlite3.Connection, table: str, row: Mapping[str, Any], conflict: str = "") -> sqlite3.Cursor:
    """One row; `conflict`: what to do where there is one already (`ON CONFLICT …`)."""
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    values = tuple(map(storable, row.values()))
    return store.execute(f"INSERT INTO {table} ({names}) VALUES ({marks}) {conflict}", values)


def storable(value: Any) -> Any:
    """As SQLite takes it: bytes that are no UTF-8 stand in text as escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def add_trial(store: sqlite3.Connection, run: int, trial: Trial, sightings: Sequence[Sighting], at: str) -> None:
    """Count a trial and what it showed, once. One that was UNKNOWN gives way to a later one that could be judged."""
    row = {"run": run} | msgspec.to_builtins(trial) | {"at": at}
    row = {name: storable(value) for name, value in row.items()}
    added = insert(store, "trial", row, "ON CONFLICT DO NOTHING").rowcount
    if not added and not _give_way(store, row):
        return
    for sighting in merged(sightings):
        add_sighting(store, run, trial.key, sighting, at)


def _give_way(store: sqlite3.Connection, row: Mapping[str, Any]) -> bool:
    (known,) = store.execute("SELECT verdict FROM trial WHERE run = :run AND key = :key", row).fetchone()
    if known != Verdict.UNKNOWN or row["verdict"] == Verdict.UNKNOWN:
        return False
    changes = ", ".join(f"{name} = :{name}" for name in row)
    store.execute(f"UPDATE trial SET {changes} WHERE run = :run AND key = :key", row)
    store.execute("DELETE FROM sighting WHERE run = :run AND trial = :key", row)
    return True


def merged(sightings: Iterable[Sighting]) -> list[Sighting]:
    """One for each signature: the best of them, with the states of all."""
    best: dict[str, Sighting] = {}
    for sighting in sightings:
        old = best.setdefault(sighting.signature.id, sighting)
        if old is not sighting:
            kept = min(old, sighting, key=_badness)
            best[sighting.signature.id] = msgspec.structs.replace(kept, states=old.states + sighting.states)
    return list(best.values())


def _badness(sighting: Sighting) -> tuple[bool, bool, int, int, int]:
    lesser = sighting.verdict is not Verdict.CORRUPTED
    return (lesser, not sighting.bundle, sighting.operations, sighting.lost, sighting.size)


def add_sighting(store: sqlite3.Connection, run: int, trial: str, sighting: Sighting, at: str) -> None:
    """With its signature and bundle. One that is there is left as it is."""
    keep_signature(store, sighting.signature)
    row = {"signature": sighting.signature.id, "run": run, "trial": trial, **_of(sighting), "at": at}
    insert(store, "sighting", row, "ON CONFLICT DO NOTHING")
    keep_bundle(store, sighting, at)


def _of(sighting: Sighting) -> dict[str, Any]:
    told = msgspec.to_builtins(sighting)
    return {name: storable(told[name]) for name in _SIGHTING}


def keep_signature(store: sqlite3.Connection, signature: BugSignature) -> None:
    row = {"id": signature.id} | msgspec.to_builtins(signature)
    insert(store, "signature", row, "ON CONFLICT DO NOTHING")


def keep_bundle(store: sqlite3.Connection, sighting: Sighting, at: str) -> None:
    """A bundle of that path replaces the one before, as its file does."""
    if not sighting.bundle:
        return
    row = {
        "path": sighting.bundle,
        "signature": sighting.signature.id,
        "size": sighting.size,
        "verdict": sighting.verdict.value,
        "recorded": at,
    }
    changes = ", ".join(f"{name} = excluded.{name}" for name in row if name != "path")
    insert(store, "bundle", row, f"ON CONFLICT (path) DO UPDATE SET {changes}")


def restate(store: sqlite3.Connection, run: int, before: BugSignature, trial: str, now: Sighting, at: str) -> None:
    """The run's sightings of `before` are of `now.signature`; that of `trial` is told as `now` tells it."""
    keep_signature(store, now.signature)
    new = {
        "run": run,
        "before": before.id,
        "now": now.signature.id,
        "trial": storable(trial),
        "verdict": now.verdict.value,
    }
    store.execute(
        "UPDATE OR IGNORE sighting SET signature = :now, verdict = :verdict WHERE run = :run AND signature = :before",
        new,
    )
    store.execute("DELETE FROM sighting WHERE run = :run AND signature = :before AND :before <> :now", new)
    told = {name: value for name, value in _of(now).items() if name != "states"}
    changes = ", ".join(f"{name} = :{name}" for name in told)
    store.execute(f"UPDATE sighting SET {changes} WHERE run = :run AND signature = :now AND trial = :trial", new | told)
    keep_bundle(store, now, at)
    used = "(SELECT signature FROM sighting UNION SELECT signature FROM bundle)"
    store.execute(f"DELETE FROM signature WHERE id = ? AND id NOT IN {used}", (before.id,))


def add_plain(store: sqlite3.Connection, run: int, plain: Plain, at: str) -> None:
    """Count those that are new to the run."""
    told = dict(zip(plain.keys, plain.states, strict=True))
    new = {key: told[key] for key in told.keys() - _known(store, run, list(told))}
    if not new:
        return
    store.executemany("INSERT INTO plain (run, key) VALUES (?, ?)", ((run, key) for key in sorted(new)))
    row = {
        "run": run,
        "guarantee": plain.guarantee,
        "file_system": plain.file_system,
        "trials": len(new),
        "states": sum(new.values()),
        "seconds": plain.seconds,
        "first": at,
        "last": at,
    }
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in ("trials", "states", "seconds"))
    insert(store, "plain_total", row, f"ON CONFLICT DO UPDATE SET {sums}, last = excluded.last")


def _known(store: sqlite3.Connection, run: int, keys: Sequence[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for start in range(0, len(keys), _IN_MAX):
        some = keys[start : start + _IN_MAX]
        marks = ", ".join("?" * len(some))
        rows = store.execute(f"SELECT key FROM plain WHERE run = ? AND key IN ({marks})", (run, *some))
        found.update(key for (key,) in rows)
    return found


def add_figures(store: sqlite3.Connection, run: int, figures: Mapping[str, float], *, sums: bool) -> None:
    """`sums`: add to what is there; otherwise replace it."""
    change = "value = value + excluded.value" if sums else "value = excluded.value"
    for name, value in figures.items():
        insert(
            store, "figure", {"run": run, "name": name, "value": float(value)}, f"ON CONFLICT DO UPDATE SET {change}"
        )

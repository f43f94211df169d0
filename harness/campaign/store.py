"""The store: every run, trial, finding, bundle and figure, in one file of SQLite in the reports directory.

A call that returns has made what it wrote durable: the log is synced at each commit (WAL with synchronous=FULL,
"Writers sync the WAL on every transaction commit", https://sqlite.org/wal.html). SIGKILL or a power cut at any instant
leaves each call done or not begun. Any number of processes may write: each call is one transaction, and they take
turns.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

import harness
from harness.campaign import store_reading as read
from harness.campaign import store_writing as write
from harness.campaign.records import BugSignature, RunInfo, Sighting, Trial
from harness.campaign.store_files import NAME, reading, writing
from harness.campaign.store_rows import BugRow, BundleRow, GuaranteeRow, Plain, RunRow, Totals
from harness.errors import Misuse
from harness.verdict import Verdict

__all__ = ["NAME", "BugRow", "BundleRow", "GuaranteeRow", "Plain", "RunRow", "Store", "Totals"]


class Store:
    """The store of one reports directory. Nothing is held open between two calls: it may be carried across fork(2).

    What writes raises OSError (ENOSPC, EROFS, …) and has then written nothing.
    """

    def __init__(self, reports: str) -> None:
        """Touches nothing: see open() and read()."""
        self.reports = os.path.abspath(reports)
        self.path = os.path.join(self.reports, NAME)

    @property
    def exists(self) -> bool:
        """Whether there is a file of its name."""
        return os.path.exists(self.path)

    @classmethod
    def open(cls, reports: str) -> "Store":
        """For writing. Makes folder and file, and brings an older store up to date.

        Raises OSError, and Misuse for a file that is no store, or one of a newer harness.
        """
        store = cls(reports)
        _make_folder(store.reports)
        with reading(store.path) if store.exists else writing(store.path):
            pass
        return store

    @classmethod
    def read(cls, reports: str) -> "Store":
        """For reading. Raises Misuse where there is no store, and as open() does."""
        store = cls(reports)
        if not store.exists:
            raise Misuse(f"there is no store in {reports}", "name the folder of a run's reports with --reports")
        with reading(store.path):
            pass
        return store

    def begin(self, info: RunInfo) -> int:
        """A new run, which has not ended. Returns its id."""
        row = msgspec.to_builtins(info) | {
            "seed": str(info.seed),
            "host": platform.node(),
            "pid": os.getpid(),
            "harness": harness.__version__,
            "kernel": platform.release(),
            "started": now(),
        }
        with writing(self.path) as store:
            cursor = write.insert(store, "run", row)
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def add(
        self,
        run: int,
        trials: Sequence[tuple[Trial, Sequence[Sighting]]],
        *,
        key: str = "",
        figures: Mapping[str, float] | None = None,
        plain: Sequence[Plain] = (),
    ) -> bool:
        """Keep what was judged, all of it in one transaction.

        With `key` (the name of a shard) once for ever within the run: False, and nothing is added, if that key is
        there. A trial whose key is there counts once, and so do its sightings; one that was UNKNOWN gives way to a
        later one that could be judged. `figures` are added to those of the run.
        """
        at = now()
        with writing(self.path) as store:
            if key:
                row = {"run": run, "key": key, "at": at}
                if not write.insert(store, "shard", row, "ON CONFLICT DO NOTHING").rowcount:
                    return False
            for trial, sightings in trials:
                write.add_trial(store, run, trial, sightings, at)
            for some in plain:
                write.add_plain(store, run, some, at)
            write.add_figures(store, run, figures or {}, sums=True)
        return True

    def restate(self, run: int, before: BugSignature, trial: str, sighting: Sighting) -> None:
        """What the run saw as `before` is known better now: all of it has `sighting`'s signature and verdict.

        The trial with that key is told with the words, the bundle and the rate of `sighting`.
        """
        with writing(self.path) as store:
            write.restate(store, run, before, trial, sighting, now())

    def end(
        self,
        run: int,
        verdict: Verdict,
        *,
        interrupted: bool = False,
        figures: Mapping[str, float] | None = None,
        trials: Sequence[tuple[Trial, Sequence[Sighting]]] = (),
    ) -> None:
        """The run is over, or over again if it was resumed. `figures` replace those of the same name.

        `trials` are added first, in the same transaction.
        """
        at = now()
        with writing(self.path) as store:
            for trial, sightings in trials:
                write.add_trial(store, run, trial, sightings, at)
            ended = (at, verdict.value, int(interrupted), run)
            store.execute("UPDATE run SET ended = ?, verdict = ?, interrupted = ? WHERE id = ?", ended)
            write.add_figures(store, run, figures or {}, sums=False)

    def forget_bundle(self, path: str) -> None:
        """Its file is gone, or is to go. The finding stays."""
        with writing(self.path) as store:
            store.execute("DELETE FROM bundle WHERE path = ?", (write.storable(path),))

    def runs(self, kind: str = "") -> list[RunRow]:
        """All, or those of one kind, the oldest first."""
        with reading(self.path) as store:
            return read.runs(store, "kind = ?", kind) if kind else read.runs(store, "true")

    def run(self, identity: int) -> RunRow:
        """Raises Misuse if there is none of this number."""
        with reading(self.path) as store:
            found = read.runs(store, "id = ?", identity)
            last = store.execute("SELECT coalesce(max(id), 0) FROM run").fetchone()[0]
        if not found:
            raise Misuse(f"there is no run {identity} in {self.path}", f"the last one is {last}")
        return found[0]

    def trials(self, run: int) -> Iterator[Trial]:
        """Those with a row of their own (not the plain ones), in the order in which they were added."""
        with reading(self.path) as store:
            found = read.trials(store, run)
        return iter(found)

    def totals(self, run: int) -> Totals:
        """What the run judged."""
        with reading(self.path) as store:
            return read.totals(store, run)

    def bugs(self, *, run: int | None = None) -> list[BugRow]:
        """One row a signature: of all runs, or what one run saw of it."""
        with reading(self.path) as store:
            return read.bugs(store, run)

    def keys(self, run: int) -> set[str]:
        """The shards that were added."""
        with reading(self.path) as store:
            return {key for (key,) in store.execute("SELECT key FROM shard WHERE run = ?", (run,))}

    def figures(self, run: int) -> dict[str, float]:
        """By name."""
        with reading(self.path) as store:
            return dict(store.execute("SELECT name, value FROM figure WHERE run = ? ORDER BY name", (run,)))

    def bundles(self) -> list[BundleRow]:
        """Those that are to be there, by path."""
        with reading(self.path) as store:
            return read.bundles(store)

    def signature(self, identity: str) -> BugSignature | None:
        """That with this id, if it was ever seen here."""
        with reading(self.path) as store:
            return read.signature(store, identity)

    def export(self) -> Iterator[bytes]:
        """One snapshot of all there is: lines of JSON, one object a line, `table` first. Keys of plain trials in hex.

        The store is open until the last line was taken, so not across fork(2).
        """
        with reading(self.path) as store:
            yield from read.lines(store)


def now() -> str:
    """UTC, to the millisecond. In this spelling the order of texts is the order of times."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _make_folder(folder: str) -> None:
    """With its parents, and durable: SQLite syncs the folder of its files and no folder above it."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    os.makedirs(folder, exist_ok=True)
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The bundles of a soak: in a folder of their own, the best and four more of each bug, together within a bound.

A bundle's file is whole on the disk before the store names it, and the store forgets it before its file goes. So what
the folder holds beyond what the store names is left over from a kill, and goes when the soak begins again.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable

import msgspec

from harness.campaign.records import Sighting, Trial
from harness.campaign.store import BundleRow, Store
from harness.machine.files import write_atomically
from harness.trial import bundle as bundles

FOLDER = "soak"
KEPT = 5
"""Bundles of one bug: the smallest, and four more."""


class Shelf:
    """The bundles of one reports directory that soaks have put there. `most`: bytes, the store's file included."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self.folder = os.path.join(store.reports, FOLDER)
        self.dropped = 0
        """Bundles for which there was no room."""
        os.makedirs(self.folder, exist_ok=True)

    def sweep(self) -> int:
        """Remove what no row of the store names; returns how many files that were."""
        named = {row.path for row in self._store.bundles()}
        swept = 0
        for name in os.listdir(self.folder):
            # A file that was being written has a name of its own, which ends otherwise.
            if name.startswith(".") or bundles.SUFFIX in name:
                if f"{FOLDER}/{name}" in named:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.folder, name))
                    swept += 1
        return swept

    def put(
        self, trials: Iterable[tuple[Trial, list[Sighting]]], content: dict[str, bytes]
    ) -> list[tuple[Trial, list[Sighting]]]:
        """Write the bundles; the trials with the paths under which the store is to know them. Raises OSError."""
        return [(trial, [self._put(sighting, content) for sighting in sightings]) for trial, sightings in trials]

    def _put(self, sighting: Sighting, content: dict[str, bytes]) -> Sighting:
        name = sighting.bundle
        if not name or name not in content:
            return msgspec.structs.replace(sighting, bundle="", size=0)
        size = len(content[name])
        if not self._make_room(size):
            self.dropped += 1
            return msgspec.structs.replace(sighting, bundle="", size=0)
        path = f"{FOLDER}/{sighting.signature.id}-{name}"
        write_atomically(os.path.join(self._store.reports, path), content[name])
        return msgspec.structs.replace(sighting, bundle=path, size=size)

    def trim(self) -> None:
        """Take away what is more than KEPT of one bug: the largest first, the best never."""
        ours = self._ours()
        count = Counter(row.signature for row in ours)
        for row in self._expendable(ours):
            if count[row.signature] > KEPT:
                self._remove(row)
                count[row.signature] -= 1

    def used(self) -> int:
        """Bytes of the bundles and of the store."""
        names = (self._store.path + end for end in ("", "-wal", "-shm"))
        stored = sum(os.path.getsize(path) for path in names if os.path.exists(path))
        return stored + sum(row.size for row in self._ours())

    def _make_room(self, size: int) -> bool:
        over = self.used() + size - self._most
        if over <= 0:
            return True
        for row in self._expendable(self._ours()):
            self._remove(row)
            over -= row.size
            if over <= 0:
                return True
        return False

    def _ours(self) -> list[BundleRow]:
        return [row for row in self._store.bundles() if row.path.startswith(f"{FOLDER}/")]

    def _expendable(self, rows: Iterable[BundleRow]) -> list[BundleRow]:
        best = {bug.bundle for bug in self._store.bugs()}
        return sorted((row for row in rows if row.path not in best), key=lambda row: -row.size)

    def _remove(self, row: BundleRow) -> None:
        self._store.forget_bundle(row.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._store.reports, row.path))

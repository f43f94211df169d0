"""Which shard comes next: half of the time for what is least covered, a quarter for the next, and so on.

The shards of a run are a fixed row: the same seed, the same sources and the same counts at the start give the same row,
on one machine or on many, and after a kill. So nothing that happens during the run may change it. What a shard will
come to is estimated (Source.states); what earlier runs came to is counted.
"""

from collections.abc import Iterator, Mapping, Sequence

import xxhash

from harness.campaign.shards import Shard
from harness.campaign.sources import Source

CANARY_EVERY_SHARDS = 60
_SEED_BITS = (1 << 63) - 1


def shards(seed: int, sources: Sequence[Source], judged: Mapping[str, int]) -> Iterator[Shard]:
    """The endless row. `judged`: states that each source (by name) had come to before the run; a new one has none."""
    covered = {source.name: judged.get(source.name, 0) for source in sources}
    dealt = dict.fromkeys(covered, 0)
    number = 0
    while sources:
        number += 1
        ranked = sorted(sources, key=lambda source: (covered[source.name], source.name))
        source = ranked[min(_rank(number), len(ranked) - 1)]
        yield source.shard(seed_of(seed, source.name, dealt[source.name]))
        dealt[source.name] += 1
        covered[source.name] += source.states


def _rank(number: int) -> int:
    """0 1 0 2 0 1 0 3 …: the n-th place comes up once in 2^(n+1) times. The last place takes what is left over."""
    return (number & -number).bit_length() - 1


def seed_of(seed: int, source: str, number: int) -> int:
    """The seed of a source's shard of that number."""
    return xxhash.xxh3_64_intdigest(f"{seed} {source} {number}".encode()) & _SEED_BITS


class Canaries:
    """When the next canary is due, by time and by shards done; which planted bug it has, by turns.

    Every twentieth of the time, at least every five minutes; at the start and at the end.
    """

    def __init__(self, seed: int, sources: Sequence[Source], seconds: float, done: int = 0) -> None:
        """`done`: canaries of this run that were judged before it was killed."""
        self._seed = seed
        self._sources = sources
        self._every = min(max(seconds / 20, 20.0), 300.0)
        self._due = 0.0
        self._number = done
        self._shards = 0

    def due(self, spent: float) -> bool:
        """Whether it is time for one, `spent` seconds into the run."""
        return bool(self._sources) and (spent >= self._due or self._shards >= CANARY_EVERY_SHARDS)

    def note(self) -> None:
        """A shard of plans was dealt."""
        self._shards += 1

    def next(self, spent: float) -> Shard:
        """The next canary. The number goes into its seed, so each one draws plans of its own."""
        source = self._sources[self._number % len(self._sources)]
        shard = source.shard(seed_of(self._seed, source.name, self._number))
        self._number += 1
        self._shards = 0
        self._due = spent + self._every
        return shard

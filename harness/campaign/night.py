"""One soak as the store has it: what was judged, what it took, what is still to be done after a kill."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from harness.campaign.records import RunInfo, Sighting, Trial
from harness.campaign.shards import Shard, ShardResult, Task
from harness.campaign.shelf import Shelf
from harness.campaign.signatures import file_system_of
from harness.campaign.sources import Source
from harness.campaign.store import Plain, RunRow, Store
from harness.verdict import Verdict

KIND = "soak"

SPENT = "spent_seconds"
SHARDS = "shards"
LOST = "shards_lost"
PLANS = "plans"
STATES = "states"
CANARY_FOUND = "canary_found"
CANARY_MISSED = "canary_missed"
RESUMED = "resumed"
DROPPED = "bundles_dropped"
JUDGING = "judging_seconds"
SERVING = "serving_seconds"
WORKERS = "workers"
DISK = "disk_bytes"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak is made of, beside its seed: the same gives the same row of shards. Kept as RunInfo.settings."""

    sources: tuple[Source, ...]
    canaries: tuple[Source, ...] = ()
    covered: dict[str, int] = {}
    """States that each source (by name) had come to in earlier soaks."""

    def same_work(self, other: "Spec") -> bool:
        """Whether a run of one may go on as a run of the other."""
        return (self.sources, self.canaries) == (other.sources, other.canaries)


def covered_before(store: Store, sources: Sequence[Source]) -> dict[str, int]:
    """States of each source in all soaks of this store."""
    names = {source.guarantee: source.name for source in sources}
    found = dict.fromkeys(names.values(), 0)
    for run in store.runs(KIND):
        for row in store.totals(run.id).guarantees:
            if row.guarantee in names:
                found[names[row.guarantee]] += row.states
    return found


def spec_of(run: RunRow) -> Spec | None:
    """None where the run is of a harness that keeps it otherwise."""
    try:
        return msgspec.json.decode(run.settings, type=Spec)
    except msgspec.DecodeError:
        return None


def unfinished(store: Store, wanted: Spec, seed: int | None, *, interrupted: bool) -> RunRow | None:
    """The last soak, if it was killed (or, where that is asked for, interrupted) and may go on as the wanted one."""
    runs = store.runs(KIND)
    if not runs or (runs[-1].ended and not (interrupted and runs[-1].interrupted)):
        return None
    spec = spec_of(runs[-1])
    same = spec is not None and spec.same_work(wanted) and seed in (None, runs[-1].seed)
    return runs[-1] if same else None


class Night:
    """The run on its way. What is in the store when a call returns is there for good."""

    def __init__(self, store: Store, run: int, shelf: Shelf) -> None:
        self.store = store
        self.run = run
        self.shelf = shelf
        self.done = store.keys(run)
        figures = store.figures(run)
        self._before = figures.get(SPENT, 0.0)
        self._told = 0.0
        self._started = time.monotonic()
        self.canaries = int(figures.get(CANARY_FOUND, 0) + figures.get(CANARY_MISSED, 0))
        self.missed = int(figures.get(CANARY_MISSED, 0))
        self.canary_seen_at = -1.0
        self.shards = int(figures.get(SHARDS, 0))
        totals = store.totals(run)
        self.plans, self.states = totals.trials, totals.states
        self.unknown = sum(row.unknown for row in totals.guarantees)
        self.states_now = 0
        """Since this process began with it, for the rate."""
        self.by_source: Counter[str] = Counter()
        self.coverage: Counter[tuple[str, str]] = Counter()
        self.met: dict[tuple[str, str], set[str]] = {}
        """The sources, each a kind of volume with its fault, on which an operation stood before a persistence."""
        for name, value in figures.items():
            self._tally(name, value)
        self.findings: Counter[str] = Counter()
        self.words: dict[str, str] = {}
        for bug in store.bugs(run=run):
            if not bug.canary:
                self.findings[bug.signature.id] = bug.count
                self.words[bug.signature.id] = f"{bug.signature.file_system}: {bug.summary}"

    @classmethod
    def begin(cls, store: Store, shelf: Shelf, spec: Spec, seed: int, command: str) -> "Night":
        """A new run."""
        settings = msgspec.json.encode(spec).decode()
        return cls(store, store.begin(RunInfo(kind=KIND, command=command, seed=seed, settings=settings)), shelf)

    @property
    def elapsed(self) -> float:
        """Seconds since this process began with it."""
        return time.monotonic() - self._started

    @property
    def spent(self) -> float:
        """Seconds of soaking, those before a kill included."""
        return self._before + self.elapsed

    def take(self, shard: Shard, result: ShardResult) -> bool:
        """Keep what a shard came to, once. False: it was there already. Raises OSError."""
        trials = self.shelf.put(result.trials, result.bundles)
        file_system = file_system_of(shard.settings) if not shard.pytest else ""
        plain = Plain(
            guarantee=shard.guarantee,
            file_system=file_system,
            keys=result.keys,
            states=result.states,
            seconds=result.judging_seconds,
        )
        figures = self._figures(shard, result)
        added = self.store.add(self.run, trials, key=shard.name, figures=figures, plain=[plain] if result.keys else [])
        self._told += figures[SPENT]
        self.done.add(shard.name)
        if result.bundles:
            self.shelf.trim()
        if added:
            self._count(shard, result, trials)
            for name, value in figures.items():
                self._tally(name, value)
        return added

    def lose(self, task: Task, why: str) -> None:
        """The shard could not be judged: UNKNOWN, for good. Raises OSError."""
        shard = task.shard
        trial = Trial(
            key=f"shard {shard.name}",
            text=f"shard {shard.name} of {shard.source}, seed {shard.seed}: {why}",
            guarantee=shard.guarantee,
            file_system=file_system_of(shard.settings) if not shard.pytest else "",
            verdict=Verdict.UNKNOWN,
        )
        self.store.add(self.run, [(trial, [])], key=shard.name, figures={LOST: 1})
        self.done.add(shard.name)
        self.unknown += 1

    def beat(self) -> None:
        """Keep the time that was spent. Raises OSError."""
        self.store.add(self.run, [], figures={SPENT: self._untold()})
        self._told = self.elapsed

    def end(self, verdict: Verdict, *, interrupted: bool, figures: Mapping[str, float]) -> None:
        """The run is over. Raises OSError."""
        self.store.end(self.run, verdict, interrupted=interrupted, figures=figures)

    def _untold(self) -> float:
        return self.elapsed - self._told

    def _figures(self, shard: Shard, result: ShardResult) -> dict[str, float]:
        figures: dict[str, float] = {SPENT: self._untold(), SHARDS: 1}
        figures |= {JUDGING: result.judging_seconds, SERVING: result.seconds}
        if shard.canary:
            return figures | {CANARY_FOUND if result.convicts else CANARY_MISSED: 1}
        minute = f"minute/{int(self.spent // 60):05d}"
        figures |= {PLANS: result.plans, STATES: result.judged}
        figures |= {f"{minute}/plans": result.plans, f"{minute}/states": result.judged}
        if shard.again:
            seen = any(s.signature == shard.again and s.verdict is Verdict.CORRUPTED for s in _sightings(result))
            figures |= {f"again/{shard.again.id}/tried": 1, f"again/{shard.again.id}/seen": float(seen)}
            return figures
        figures |= {f"source/{shard.source}/states": result.judged, f"source/{shard.source}/plans": result.plans}
        for key, times in result.coverage.items():
            figures[f"coverage/{shard.source}/{key}"] = times
        return figures

    def _tally(self, name: str, value: float) -> None:
        head, _, rest = name.partition("/")
        if head == "coverage":
            source, operation, persistence = rest.rsplit("/", 2)
            self.coverage[operation, persistence] += int(value)
            self.met.setdefault((operation, persistence), set()).add(source)
        elif head == "source" and rest.endswith("/states"):
            self.by_source[rest.removesuffix("/states")] += int(value)

    def _count(self, shard: Shard, result: ShardResult, trials: list[tuple[Trial, list[Sighting]]]) -> None:
        self.shards += 1
        self.unknown += result.unknown
        if shard.canary:
            self.canaries += 1
            self.missed += not result.convicts
            self.canary_seen_at = self.spent if result.convicts else self.canary_seen_at
            return
        self.plans += result.plans
        self.states += result.judged
        self.states_now += result.judged
        for _, sightings in trials:
            for sighting in sightings:
                self.findings[sighting.signature.id] += 1
                self.words.setdefault(
                    sighting.signature.id, f"{sighting.signature.file_system}: {sighting.summary or sighting.kind}"
                )


def _sightings(result: ShardResult) -> list[Sighting]:
    return [sighting for _, sightings in result.trials for sighting in sightings]

"""The morning after: what is new, what is back, what is gone, and how much was judged. Every figure is the store's."""

import msgspec

from harness.campaign import night
from harness.campaign.again import AGAIN
from harness.campaign.sources import CANARY
from harness.campaign.store import BugRow, GuaranteeRow, RunRow, Store
from harness.errors import Misuse
from harness.verdict import Verdict

CONFIDENCE = 0.95


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A guarantee, what was judged of it, and how often it may still fail."""

    row: GuaranteeRow
    upper: float | None = None
    """Where no trial failed: with 95 % confidence it fails in no more than this share of such trials."""


class Minute(msgspec.Struct, frozen=True, kw_only=True):
    """What was done in one minute of the soak, from 0. Minutes in which no shard ended are left out."""

    minute: int
    plans: int
    states: int


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """How often the planted bugs were looked for and found; `last`: when one was found last."""

    found: int
    missed: int
    last: str = ""


class Morning(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one soak. Bugs are ordered as the store orders them: those seen most often first."""

    run: RunRow
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why it is UNKNOWN."""
    seconds: float
    workers: int
    resumed: int
    shards: int
    plans: int
    states: int
    new: tuple[BugRow, ...]
    back: tuple[BugRow, ...]
    still: tuple[BugRow, ...]
    gone: tuple[BugRow, ...]
    untried: tuple[BugRow, ...]
    """Seen before, not seen now, and not tried again by itself."""
    unjudged: tuple[BugRow, ...]
    """What could not be judged, by its reasons."""
    kept: tuple[Kept, ...]
    canary: Canary
    minutes: tuple[Minute, ...]
    coverage: dict[str, int]
    """`ext4/rename/fsync` -> how many renames before an fsync were judged on ext4."""
    disk: int
    dropped: int
    serving: float
    judging: float

    @property
    def rate(self) -> float:
        """States a second."""
        return self.states / self.seconds if self.seconds else 0.0

    @property
    def found(self) -> tuple[BugRow, ...]:
        """All that was found, what is new first."""
        return self.new + self.back + self.still


def upper_bound(trials: int) -> float:
    """The highest failure rate under which none of `trials` failing is no surprise: the Clopper-Pearson bound for 0.

    1 - 0.05^(1/n), which is nearly 3/n. Source: Clopper and Pearson, Biometrika 26 (1934); for 0 of n the beta
    quantile has this closed form.
    """
    return 1.0 - float((1.0 - CONFIDENCE) ** (1.0 / trials)) if trials else 1.0


def last_soak(store: Store) -> int:
    """Its number. Raises Misuse where there was none."""
    runs = store.runs(night.KIND)
    if not runs:
        raise Misuse(f"there was no soak in {store.reports}", "run one: harness soak --for 10m")
    return runs[-1].id


def morning_of(store: Store, run: int) -> Morning:
    """The report of a soak. Raises Misuse if that run was something else."""
    row = store.run(run)
    if row.kind != night.KIND:
        soaks = ", ".join(str(each.id) for each in store.runs(night.KIND)) or "none"
        raise Misuse(f"run {run} was no soak but a {row.kind}", f"soaks in {store.reports}: {soaks}")
    figures = store.figures(run)
    reasons = why_unknown(store, run)
    own, bugs = _own(store, run), store.bugs(run=run)
    new, back, still, gone, untried = _compared(store, run, bugs, figures)
    return Morning(
        run=row,
        verdict=row.verdict or verdict_of(store, run),
        reasons=(("it was interrupted",) if row.interrupted else ()) + reasons,
        seconds=figures.get(night.SPENT, 0.0),
        workers=int(figures.get(night.WORKERS, 0)),
        resumed=int(figures.get(night.RESUMED, 0)),
        shards=int(figures.get(night.SHARDS, 0)),
        plans=sum(each.trials for each in own),
        states=sum(each.states for each in own),
        new=new,
        back=back,
        still=still,
        gone=gone,
        untried=untried,
        unjudged=tuple(bug for bug in bugs if bug.verdict is Verdict.UNKNOWN),
        kept=tuple(Kept(row=each, upper=_bound(each)) for each in own),
        canary=_canary(bugs, figures),
        minutes=_minutes(figures),
        coverage={
            name.partition("/")[2]: int(value) for name, value in figures.items() if name.startswith("coverage/")
        },
        disk=int(figures.get(night.DISK, 0)),
        dropped=int(figures.get(night.DROPPED, 0)),
        serving=figures.get(night.SERVING, 0.0),
        judging=figures.get(night.JUDGING, 0.0),
    )


def verdict_of(store: Store, run: int) -> Verdict:
    """CORRUPTED for a finding; INTACT only if all was judged and the canary was always found; else UNKNOWN."""
    if any(row.failed for row in _own(store, run)):
        return Verdict.CORRUPTED
    return Verdict.UNKNOWN if why_unknown(store, run) else Verdict.INTACT


def why_unknown(store: Store, run: int) -> tuple[str, ...]:
    """All reasons for which the soak cannot be INTACT; none if it can."""
    rows, figures = store.totals(run).guarantees, store.figures(run)
    reasons = []
    if not any(row.states for row in _own(store, run)):
        reasons.append("nothing was judged")
    unknown = sum(row.unknown for row in rows)
    if unknown:
        reasons.append(f"{unknown:,} of the trials could not be judged")
    missed = int(figures.get(night.CANARY_MISSED, 0))
    if missed:
        reasons.append(f"the canary was missed {missed:,} times")
    if not figures.get(night.CANARY_FOUND, 0):
        reasons.append("no canary was found: nothing shows that this soak would have found a bug")
    return tuple(reasons)


def _own(store: Store, run: int) -> list[GuaranteeRow]:
    """What was judged, without the canaries."""
    return [row for row in store.totals(run).guarantees if not row.guarantee.startswith(CANARY)]


def _bound(row: GuaranteeRow) -> float | None:
    """Only for random draws, and of those only for the ones that were judged."""
    judged = row.trials - row.unknown
    return upper_bound(judged) if judged and not row.failed and not row.guarantee.startswith(AGAIN) else None


def _convicted(bugs: list[BugRow]) -> dict[str, BugRow]:
    return {bug.signature.id: bug for bug in bugs if not bug.canary and bug.verdict is Verdict.CORRUPTED}


def _compared(store: Store, run: int, bugs: list[BugRow], figures: dict[str, float]) -> tuple[tuple[BugRow, ...], ...]:
    """New, back, still there, gone, not tried; `bugs`: what the run saw."""
    now, ever = _convicted(bugs), _convicted(store.bugs())
    earlier = [row for row in store.runs() if row.id < run]
    seen = {row.id: set(_convicted(store.bugs(run=row.id))) for row in earlier}
    before = set().union(*seen.values())
    last = next((seen[row.id] for row in reversed(earlier) if row.kind == night.KIND), set())
    tried = {name.split("/")[1] for name in figures if name.startswith("again/") and name.endswith("/tried")}
    new = tuple(bug for name, bug in now.items() if name not in before)
    back = tuple(bug for name, bug in now.items() if name in before and name not in last)
    still = tuple(bug for name, bug in now.items() if name in last)
    absent = [bug for name, bug in ever.items() if name in before and name not in now]
    gone = tuple(bug for bug in absent if bug.signature.id in tried)
    untried = tuple(bug for bug in absent if bug.signature.id not in tried)
    return new, back, still, gone, untried


def _canary(bugs: list[BugRow], figures: dict[str, float]) -> Canary:
    last = max((bug.last_seen for bug in bugs if bug.canary), default="")
    return Canary(
        found=int(figures.get(night.CANARY_FOUND, 0)), missed=int(figures.get(night.CANARY_MISSED, 0)), last=last
    )


def _minutes(figures: dict[str, float]) -> tuple[Minute, ...]:
    numbers = sorted({name.split("/")[1] for name in figures if name.startswith("minute/")})
    return tuple(
        Minute(
            minute=int(number),
            plans=int(figures.get(f"minute/{number}/plans", 0)),
            states=int(figures.get(f"minute/{number}/states", 0)),
        )
        for number in numbers
    )

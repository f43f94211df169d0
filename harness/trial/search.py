"""Drawing plans for a system under test until one shows what is looked for, and making that one small.

The same seed draws the same plans. Each distinct plan is tried once.
"""

import contextlib
import random
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase
from hypothesis.errors import HypothesisException

from harness.errors import Misuse
from harness.trial.live import System, Trial
from harness.verdict import FindingKind, Verdict

P = TypeVar("P", bound=msgspec.Struct)

SHRINKS = 60
"""Trials spent on making a plan smaller, once it has shown what was looked for."""

_AGAIN = 2
_ROUNDS = 100
_FEW = 10
"""Hypothesis draws the simplest plan first: a round of one would be that one again."""


class Search(msgspec.Struct, Generic[P], kw_only=True):
    """What a search came to. `plan` None: no plan of those tried shows it.

    `trial` is what the plan that shows it came to; `again` says how often it was seen again (2/2). `tried` counts the
    distinct plans that were drawn before the first that shows it, that one included; `unknown` those without a verdict.
    """

    plan: P | None = None
    trial: Trial | None = None
    tried: int = 0
    unknown: int = 0
    again: str = ""


class Strikes(msgspec.Struct, Generic[P], kw_only=True):
    """What the runs of plans that strike at one kill point came to.

    `shown`: one of them showed what was looked for; `plan` and `trial` are then the first that did, and `again` says
    how often it was seen again (2/2). Otherwise they are the worst. `unknown` counts the runs without a verdict.
    """

    point: str
    plan: P
    trial: Trial
    shown: bool = False
    runs: int = 0
    unknown: int = 0
    again: str = ""


def steady(again: str) -> bool:
    """Whether what was shown once was seen again at least once: "1/2"."""
    return again.partition("/")[0] not in ("", "0")


def convicting(system: System[P], variant: str, kind: FindingKind, *, plans: int, seed: int) -> Search[P]:
    """A small plan on which the variant is found to have this fault, among at most `plans` drawn ones."""
    return _search(system, variant, lambda trial: kind in trial.convictions, plans, seed)


def failing(system: System[P], variant: str, *, plans: int, seed: int) -> Search[P]:
    """A small plan on which the variant is not INTACT, among `plans` drawn ones. None is what a right one has."""
    return _search(system, variant, lambda trial: trial.verdict is not Verdict.INTACT, plans, seed)


def drawn_at(system: System[P], point: str, number: int, seed: int) -> list[P]:
    """`number` plans that strike at this kill point, the same for the same number and seed.

    Where fewer distinct ones can be drawn, they come again in turn: what they race against differs from run to run.
    Raises Misuse for an unknown point, one without a plan, and a number below 1.
    """
    if number < 1:
        raise Misuse(f"{number} plans prove nothing of kill point {point}", "ask for one at least")
    pool: dict[str, P] = {}

    def keep(plan: P) -> bool:
        pool.setdefault(system.text(plan), plan)
        return False

    wanted = max(number, _FEW)
    for round_seed in range(seed, seed + _ROUNDS):
        before = len(pool)
        _find(system.plans_at(point), keep, max(wanted - before, _FEW), round_seed)
        if len(pool) == before or len(pool) >= wanted:
            break
    if not pool:
        raise Misuse(f"no plan of {system.name} can be drawn for kill point {point}", f"look at {system.home}'s `at`")
    chosen = random.Random(seed).sample(list(pool.values()), min(number, len(pool)))
    return [chosen[turn % len(chosen)] for turn in range(number)]


def struck_at(
    system: System[P], variant: str, point: str, wanted: Callable[[Trial], bool], *, runs: int, seed: int
) -> Strikes[P]:
    """Run up to `runs` plans at one kill point, until one shows what is wanted; that one is then run again.

    Nothing is made smaller: what happens at a kill point is often a race, and the plans for one are small.
    """
    seen: list[tuple[P, Trial]] = []
    for plan in drawn_at(system, point, runs, seed):
        seen.append((plan, system.trial(variant, plan)))
        if shown := wanted(seen[-1][1]):
            break
    plan, trial = seen[-1] if shown else max(seen, key=lambda each: list(Verdict).index(each[1].verdict))
    return Strikes(
        point=point,
        plan=plan,
        trial=trial,
        shown=shown,
        runs=len(seen),
        unknown=sum(each.verdict is Verdict.UNKNOWN for _, each in seen),
        again=_seen_again(system, variant, plan, wanted) if shown else "",
    )


def _search(system: System[P], variant: str, wanted: Callable[[Trial], bool], plans: int, seed: int) -> Search[P]:
    seen: dict[str, Trial] = {}
    found: Search[P] = Search()
    spent = 0

    def shows(plan: P) -> bool:
        nonlocal spent
        text = system.text(plan)
        if text not in seen:
            spent += found.plan is not None
            if spent > SHRINKS:
                return False
            seen[text] = system.trial(variant, plan)
            if found.plan is None:
                found.tried += 1
                found.unknown += seen[text].verdict is Verdict.UNKNOWN
        if not wanted(seen[text]):
            return False
        # Hypothesis asks for nothing larger than what has shown it already: the last one is the smallest.
        found.plan, found.trial = plan, seen[text]
        return True

    # Hypothesis may draw a plan twice: then there is another round, with the next seed, for those that are missing.
    for round_seed in range(seed, seed + _ROUNDS):
        before = found.tried
        _find(system.plans, shows, max(plans - before, _FEW) if before else plans, round_seed)
        if found.plan is not None or found.tried == before or found.tried >= plans:
            break
    if found.plan is not None:
        found.again = _seen_again(system, variant, found.plan, wanted)
    return found


def _seen_again(system: System[P], variant: str, plan: P, wanted: Callable[[Trial], bool]) -> str:
    shown = [wanted(system.trial(variant, plan)) for _ in range(_AGAIN)]
    return f"{sum(shown)}/{_AGAIN}"


def _find(strategy: Any, shows: Callable[[Any], bool], plans: int, seed: int) -> None:
    settings = hypothesis.settings(
        max_examples=plans,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    # It raises where nothing was found; or where the budget ran out, so that what had shown it does so no more.
    with contextlib.suppress(HypothesisException):
        hypothesis.find(strategy, shows, settings=settings, random=random.Random(seed))

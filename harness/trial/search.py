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


def convicting(system: System[P], variant: str, kind: FindingKind, *, plans: int, seed: int) -> Search[P]:
    """A small plan on which the variant is found to have this fault, among at most `plans` drawn ones."""
    return _search(system, variant, lambda trial: kind in trial.convictions, plans, seed)


def failing(system: System[P], variant: str, *, plans: int, seed: int) -> Search[P]:
    """A small plan on which the variant is not INTACT, among `plans` drawn ones. None is what a right one has."""
    return _search(system, variant, lambda trial: trial.verdict is not Verdict.INTACT, plans, seed)


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
        shown = [wanted(system.trial(variant, found.plan)) for _ in range(_AGAIN)]
        found.again = f"{sum(shown)}/{_AGAIN}"
    return found


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

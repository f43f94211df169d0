"""Plans from a seed, the same on every machine: Hypothesis draws them, and does nothing else.

Two things would make its draws depend on the process. Its example database, which is left out. And the numbers that it
picks out of the source text of whatever "local" modules happen to be loaded (Hypothesis 6.131 and later), which
differ between a checkout and an installed wheel, and between this process and a worker's: they are kept from it.
"""

import contextlib
import importlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, seed, settings

import harness
from harness.plan.plan import Plan
from harness.plan.strategies import plans

_MORE = 4
"""Hypothesis begins with small examples, and repeats some: so many more than wanted, and a quarter, are drawn."""

_ATTEMPTS = 4


def drawn_by() -> str:
    """What the plans of a seed depend on, beside the seed: the versions of all that takes part in drawing them."""
    return f"harness {harness.__version__}, hypothesis {hypothesis.__version__}, python {platform.python_version()}"


def draw_plans(number: int, count: int, operations: tuple[int, int] = (1, 8)) -> list[Plan]:
    """`count` different plans from the seed `number`; equal where drawn_by() is equal. Some 2 ms a plan.

    Only the last ones that were drawn are taken: the first are the simplest there are, whatever the seed.
    """
    wanted = count + count // 4 + _MORE
    found: dict[str, Plan] = {}
    for attempt in range(_ATTEMPTS):
        for plan in _examples(number, wanted << attempt, operations):
            found.setdefault(plan.id, plan)
        if len(found) >= count:
            break
        found.clear()
    return list(found.values())[-count:]


def _examples(number: int, count: int, operations: tuple[int, int]) -> list[Plan]:
    collected: list[Plan] = []

    @seed(number)
    @settings(
        phases=[Phase.generate],
        database=None,
        derandomize=False,
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(operations=operations))
    def collect(plan: Plan) -> None:
        collected.append(plan)

    with _no_local_constants():
        collect()
    return collected


@contextlib.contextmanager
def _no_local_constants() -> Iterator[None]:
    """Hypothesis offers no switch for it. A version that has no such constants, or hides them elsewhere, is left alone:
    a test draws in two processes and compares.
    """
    try:
        providers: Any = importlib.import_module("hypothesis.internal.conjecture.providers")
        empty: Any = importlib.import_module("hypothesis.internal.constants_ast").Constants()
        before: Callable[[], Any] = providers._get_local_constants
        cache: Any = providers.CONSTANTS_CACHE.cache
    except (ImportError, AttributeError):
        yield
        return
    providers._get_local_constants = lambda: empty
    cache.clear()
    try:
        yield
    finally:
        providers._get_local_constants = before
        cache.clear()

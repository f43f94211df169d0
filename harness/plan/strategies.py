"""Hypothesis strategies that write plans. `@given(plans())` is the whole test, `@example(Plan(…))` pins one.

A plan is drawn as a list of fragments. A fragment is one change with perhaps a persistence call behind it, or a
neighbourhood in which file systems have lost data before. What a fragment needs is put in front of it
(harness.plan.dependencies). In the end a few operations are left out, so that most, but not all, of the others succeed.
Of each choice the simplest comes first, and nothing that is drawn depends on anything but what was drawn before: so a
failing plan shrinks to few operations on `foo`.
"""

import os
from functools import cache

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.errors import Misuse
from harness.plan.dependencies import Workload
from harness.plan.fragments import DROP_CACHES, NEIGHBOURHOODS, PERSISTENCE, SINGLES, Fragment
from harness.plan.operations import Operation
from harness.plan.plan import Plan

SETUP_MAX = 3

CI_EXAMPLES = 100
SOAK_EXAMPLES = 100_000


def plans(*, operations: int | tuple[int, int] = (1, 8), setup: bool = True) -> st.SearchStrategy[Plan]:
    """Plans of so many operations (or from … to), besides the setup: mostly empty, and always without `setup`."""
    least, most = (operations, operations) if isinstance(operations, int) else operations
    if not 1 <= least <= most:
        raise Misuse(f"plans of {least} to {most} operations do not exist", "give 1 or more, as a number or (from, to)")
    return _plans(least, most, setup)


def register_profiles() -> None:
    """Hypothesis profiles dev, ci (the same plans in each run) and soak, for `--hypothesis-profile` or load_profile.

    In a shard of a soak (HARNESS_SOAK=1) ci draws anew each time, and shares the example database.
    """
    fresh = os.environ.get("HARNESS_SOAK") == "1"
    # To run a plan takes much longer than to draw one, on a volume that a fixture may hold for all of them.
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    # Where CI is set Hypothesis has loaded a profile of its own, without chance or memory: it must not be inherited.
    plain = settings.get_profile("default")
    settings.register_profile("dev", plain, deadline=None, suppress_health_check=slow)
    settings.register_profile(
        "ci",
        plain,
        deadline=None,
        suppress_health_check=slow,
        derandomize=not fresh,
        max_examples=CI_EXAMPLES,
        print_blob=False,
        database=plain.database if fresh else None,
    )
    settings.register_profile(
        "soak", plain, deadline=None, suppress_health_check=slow, max_examples=SOAK_EXAMPLES, print_blob=True
    )


_SETUP = st.sampled_from((*(0,) * 12, *range(1, SETUP_MAX + 1)))
_KINDS = (*(SINGLES,) * 24, *(PERSISTENCE,) * 6, *NEIGHBOURHOODS * 2, DROP_CACHES)
_FRAGMENT: st.SearchStrategy[Fragment] = st.sampled_from(_KINDS).flatmap(lambda fragment: fragment)

_LEFT_OUT_ONE_IN = 30


@cache
def _kept(n: int) -> st.SearchStrategy[int]:
    """Whether operation `n` is kept: 0 means no. To leave one out is thus the simpler choice, and whatever the
    fragments are, a plan shrinks until each operation in it matters.

    No two operations choose from the same numbers. Otherwise Hypothesis, which likes to put one choice in the place of
    another from the same set, would spend a third of its examples on plans that it has had before.
    """
    return st.sampled_from((0, *range(n * _LEFT_OUT_ONE_IN + 1, (n + 1) * _LEFT_OUT_ONE_IN)))


@st.composite
def _plans(draw: st.DrawFn, least: int, most: int, setup: bool) -> Plan:
    durable = draw(_SETUP) if setup else 0
    workload = Workload()
    for fragment in draw(st.lists(_FRAGMENT, min_size=1, max_size=max(2, -(-most // 3)))):
        _append(workload, fragment)
    while len(workload.operations) < durable + least:
        _append(workload, draw(_FRAGMENT))
    written = _keep_some(draw, workload.operations, least, durable + most)
    # What is missing is missing in the setup. Were operations kept for its sake, it would not shrink away.
    durable = min(durable, len(written) - least)
    return Plan(setup=written[:durable], operations=written[durable : durable + most])


def _append(workload: Workload, fragment: Fragment) -> None:
    for operation in fragment:
        workload.add(operation)


def _keep_some(draw: st.DrawFn, operations: list[Operation], least: int, most: int) -> tuple[Operation, ...]:
    """Nearly all, at most `most`. Where one is left out, what needs it fails."""
    kept: list[Operation] = []
    for n, operation in enumerate(operations):
        if len(kept) == most:
            break
        if draw(_kept(n)) or len(kept) + len(operations) - n <= least:
            kept.append(operation)
    return tuple(kept)

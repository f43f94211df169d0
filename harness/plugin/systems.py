"""The `live_trials` fixture's object: a system under test, its variants, and the plans that are drawn for it."""

from typing import Any

import msgspec
import pytest

from harness.errors import Misuse
from harness.plugin.failure import CrashFailure, door
from harness.reporting.systems import TRIALS, Row, replay_command, trial_lines
from harness.trial.live import System
from harness.trial.search import Search, convicting, failing
from harness.verdict import FindingKind, Verdict

PLANS = 20
CONVICTING_PLANS = 200
"""A planted fault is looked for in so many plans, whatever is asked of the right ones."""


class LiveTrials:
    """Tries variants of systems under test on drawn plans. Each trial is a process tree of its own, on real volumes."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        config = item.config
        self._plans: int = config.getoption("--harness-plans") or int(config.getini("harness_plans"))
        self._seed = int(config.getoption("--harness-seed") or 0)

    @door
    def acquit(self, system: System[Any], variant: str, *, plans: int | None = None) -> None:
        """Every drawn plan must be INTACT, or CrashFailure says which is not. `plans`: how many, over the options."""
        if system.variant(variant).finding is not None:
            raise Misuse(f"{system.name} {variant} has a planted fault", "use convict() for it")
        wanted = self._plans if plans is None else plans
        search = failing(system, variant, plans=wanted, seed=self._seed)
        self._told(system, variant, search, as_wanted=search.plan is None)
        if search.plan is not None:
            self._fail(system, variant, search, "")

    @door
    def convict(self, system: System[Any], variant: str, *, plans: int = CONVICTING_PLANS) -> None:
        """Some drawn plan must show the fault that is planted in the variant, as that kind of finding."""
        kind = system.variant(variant).finding
        if kind is None:
            raise Misuse(f"{system.name} {variant} has no planted fault", "use acquit() for it")
        search = convicting(system, variant, kind, plans=plans, seed=self._seed)
        steady = search.again.partition("/")[0] not in ("", "0")
        self._told(system, variant, search, as_wanted=search.plan is not None and steady, kind=kind)
        if search.plan is None:
            raise CrashFailure(
                f"UNKNOWN: {system.name} {variant} was to be convicted of {kind}, and none of {search.tried} plans "
                f"shows it ({search.unknown} of them without a verdict)"
            )
        if not steady:
            self._fail(system, variant, search, f"{kind} was seen once, and never again on the same plan\n")

    def _told(
        self,
        system: System[Any],
        variant: str,
        search: Search[Any],
        *,
        as_wanted: bool,
        kind: FindingKind | None = None,
    ) -> None:
        """For JUnit and for `harness run`."""
        row = Row(system=system.name, variant=variant, verdict=Verdict.INTACT, plans=search.tried, as_wanted=as_wanted)
        if search.plan is not None and search.trial is not None:
            plan = system.text(search.plan)
            kinds = [kind] if kind else sorted(search.trial.kinds)
            telling = [finding.summary for finding in search.trial.findings if finding.kind in kinds]
            row = msgspec.structs.replace(
                row,
                verdict=search.trial.verdict,
                finding=", ".join(kinds),
                summary=(telling or [""])[0],
                plan=plan,
                replay=replay_command(system, variant, plan),
                again=search.again,
            )
        elif kind:
            row = msgspec.structs.replace(row, verdict=Verdict.UNKNOWN, summary=f"{kind} was not found")
        self._item.user_properties.append((TRIALS, msgspec.json.encode(row).decode()))
        if row.replay:
            self._item.user_properties.append(("crash_replay", row.replay))

    def _fail(self, system: System[Any], variant: str, search: Search[Any], note: str) -> None:
        assert search.plan is not None and search.trial is not None
        title = f"{search.trial.verdict}: {system.name} {variant}, plan {search.tried} of those drawn"
        lines = trial_lines(system, variant, system.text(search.plan), search.trial)
        lines.append(f"  seen again {search.again}, drawn with --harness-seed={self._seed}")
        raise CrashFailure("\n".join([title, note + lines[0], *lines[1:]]))

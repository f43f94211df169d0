"""The `live_trials` fixture's object: a system under test, its variants, and the plans that are drawn for it."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from harness.errors import Misuse
from harness.plugin.failure import CrashFailure, door
from harness.reporting.systems import TRIALS, Row, point_command, replay_command, trial_lines
from harness.trial.live import System, Trial
from harness.trial.search import Strikes, convicting, failing, steady, struck_at
from harness.verdict import FindingKind, Verdict

CONVICTING_PLANS = 200
"""A planted fault is looked for in so many plans, whatever is asked of the right ones."""

PLANS_AT_POINT = 10
"""At each kill point, a planted fault is looked for in so many runs."""

_PLANS_ELSEWHERE = 4
_TIMES_MAX = 20
_PLANS_FOR_A_TIME, _PLANS_FOR_A_FURTHER_TIME = 10, 25


class LiveTrials:
    """Tries variants of systems under test on drawn plans. Each trial is a process tree of its own, on real volumes."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        config = item.config
        asked: int | None = config.getoption("--harness-plans")
        self._every_point = bool(asked)
        self._plans: int = asked or int(config.getini("harness_plans"))
        self._seed = int(config.getoption("--harness-seed") or 0)

    @door
    def acquit(self, system: System[Any], variant: str, *, plans: int | None = None) -> None:
        """Every drawn plan must be INTACT, or CrashFailure says which is not. `plans`: how many, over the options."""
        _must_be_right(system, variant, "convict")
        wanted = self._plans if plans is None else plans
        search = failing(system, variant, plans=wanted, seed=self._seed)
        row = Row(system=system.name, variant=variant, verdict=Verdict.INTACT, plans=search.tried)
        if search.plan is None or search.trial is None:
            self._tell(row)
            return
        self._tell(_of_trial(row, system, search.plan, search.trial, again=search.again, as_wanted=False))
        where = f"plan {search.tried} of those drawn"
        raise self._failure(system, variant, search.plan, search.trial, where=where, again=search.again)

    @door
    def convict(self, system: System[Any], variant: str, *, plans: int = CONVICTING_PLANS) -> None:
        """Some drawn plan must show the fault that is planted in the variant, as that kind of finding."""
        kind = _planted(system, variant, "acquit")
        search = convicting(system, variant, kind, plans=plans, seed=self._seed)
        row = Row(system=system.name, variant=variant, verdict=Verdict.INTACT, plans=search.tried)
        if search.plan is None or search.trial is None:
            self._tell(_not_found(row, kind))
            raise CrashFailure(_unshown(system, variant, kind, f"none of {search.tried} plans", search.unknown))
        sure = steady(search.again)
        row = _of_trial(row, system, search.plan, search.trial, again=search.again, as_wanted=sure, kind=kind)
        self._tell(row)
        if not sure:
            where = f"plan {search.tried} of those drawn"
            raise self._failure(system, variant, search.plan, search.trial, where=where, again=search.again, kind=kind)

    @door
    def acquit_at_points(self, system: System[Any], variant: str, *, times: int | None = None) -> None:
        """At every kill point `times` runs must be INTACT, or CrashFailure names the point, and the plan that is not.

        Each run has a plan of its own, as far as so many distinct ones can be drawn for the point; then they are run
        again, for what a kill races against differs from run to run. It is runs that the table counts.
        `times`, where it is not given, follows the options: one run a point for every 10 plans that they ask for, up to
        20 runs, and further ones for every 25. So the 20 plans of a plain pytest are 2 runs a point, and the 500 of
        `harness run NAME` are 20.
        """
        _must_be_right(system, variant, "convict_at_points")
        runs = self._times if times is None else times
        for point in _points(system):
            strikes = struck_at(system, variant, point, _is_not_intact, runs=runs, seed=self._seed)
            self._tell(self._row_at(system, variant, strikes, as_wanted=not strikes.shown))
            if strikes.shown:
                where = f"kill point {point}, run {strikes.runs} of {runs}"
                raise self._failure(system, variant, strikes.plan, strikes.trial, where=where, again=strikes.again)

    @door
    def convict_at_points(
        self, system: System[Any], variant: str, *, plans: int = PLANS_AT_POINT, points: Sequence[str] | None = None
    ) -> None:
        """At one kill point at least, a run must show the planted fault, and so must one of two more of the same plan.

        At each point up to `plans` runs look for it, with plans as for acquit_at_points. In a plain pytest the first
        point that convicts is enough; with --harness-plans (`harness run NAME`) every point of the system gets a row
        of what was found there. `points` are those to look at first, and in a plain pytest the only ones: at the others
        at most 4 runs are made.
        """
        kind = _planted(system, variant, "acquit_at_points")
        everywhere = _points(system)
        asked = dict.fromkeys(everywhere if points is None else points, plans)
        if self._every_point:
            asked |= {point: min(plans, _PLANS_ELSEWHERE) for point in everywhere if point not in asked}
        found: list[Strikes[Any]] = []
        for point, runs in asked.items():
            found.append(struck_at(system, variant, point, lambda t: kind in t.convictions, runs=runs, seed=self._seed))
            if steady(found[-1].again) and not self._every_point:
                break
        sure = any(steady(strikes.again) for strikes in found)
        for strikes in sorted(found, key=lambda each: everywhere.index(each.point)):
            self._tell(self._row_at(system, variant, strikes, as_wanted=sure, kind=kind))
        if not sure:
            raise self._unconvicted(system, variant, kind, found)

    @property
    def _times(self) -> int:
        few = min(self._plans // _PLANS_FOR_A_TIME, _TIMES_MAX)
        return max(few, self._plans // _PLANS_FOR_A_FURTHER_TIME, 1)

    def _unconvicted(
        self, system: System[Any], variant: str, kind: FindingKind, found: Sequence[Strikes[Any]]
    ) -> CrashFailure:
        for strikes in found:
            if strikes.shown:
                where = f"kill point {strikes.point}, run {strikes.runs}"
                return self._failure(
                    system, variant, strikes.plan, strikes.trial, where=where, again=strikes.again, kind=kind
                )
        runs, unknown = sum(strikes.runs for strikes in found), sum(strikes.unknown for strikes in found)
        where = ", ".join(strikes.point for strikes in found) or "no kill point"
        return CrashFailure(_unshown(system, variant, kind, f"none of {runs} runs at {where}", unknown))

    def _row_at(
        self,
        system: System[Any],
        variant: str,
        strikes: Strikes[Any],
        *,
        as_wanted: bool,
        kind: FindingKind | None = None,
    ) -> Row:
        row = Row(
            system=system.name,
            variant=variant,
            point=strikes.point,
            verdict=Verdict.INTACT,
            plans=strikes.runs,
            as_wanted=as_wanted,
            replay=point_command(system, variant, strikes.point, runs=strikes.runs, seed=self._seed),
        )
        if strikes.trial.verdict is not Verdict.INTACT:
            shown = kind if strikes.shown else None
            row = _of_trial(
                row, system, strikes.plan, strikes.trial, again=strikes.again, as_wanted=as_wanted, kind=shown
            )
        return row if as_wanted or strikes.shown or kind is None else _not_found(row, kind)

    def _tell(self, row: Row) -> None:
        """For JUnit and for `harness run`."""
        self._item.user_properties.append((TRIALS, msgspec.json.encode(row).decode()))
        if row.plan:
            self._item.user_properties.append(("crash_replay", row.replay))

    def _failure(
        self,
        system: System[Any],
        variant: str,
        plan: Any,
        trial: Trial,
        *,
        where: str,
        again: str,
        kind: FindingKind | None = None,
    ) -> CrashFailure:
        """`kind`: it was to be convicted of that, and was once."""
        lines = [f"{trial.verdict}: {system.name} {variant}, {where}"]
        lines += [f"{kind} was seen once, and never again on the same plan"] * (kind is not None)
        lines += trial_lines(system, variant, system.text(plan), trial)
        lines.append(f"  seen again {again}, drawn with --harness-seed={self._seed}")
        return CrashFailure("\n".join(lines))


def _must_be_right(system: System[Any], variant: str, instead: str) -> None:
    if system.variant(variant).finding is not None:
        raise Misuse(f"{system.name} {variant} has a planted fault", f"use {instead}() for it")


def _planted(system: System[Any], variant: str, instead: str) -> FindingKind:
    kind = system.variant(variant).finding
    if kind is None:
        raise Misuse(f"{system.name} {variant} has no planted fault", f"use {instead}() for it")
    return kind


def _points(system: System[Any]) -> tuple[str, ...]:
    if not system.points:
        raise Misuse(f"{system.name} has no kill points", "use acquit() or convict(), or give SYSTEM `points` and `at`")
    return system.points


def _is_not_intact(trial: Trial) -> bool:
    return trial.verdict is not Verdict.INTACT


def _unshown(system: System[Any], variant: str, kind: FindingKind, tried: str, unknown: int) -> str:
    return (
        f"UNKNOWN: {system.name} {variant} was to be convicted of {kind}, and {tried} shows it "
        f"({unknown} of them without a verdict)"
    )


def _not_found(row: Row, kind: FindingKind) -> Row:
    also = f", but {row.finding}: {row.summary}" if row.finding else ""
    return msgspec.structs.replace(row, verdict=Verdict.UNKNOWN, as_wanted=False, summary=f"{kind} was not found{also}")


def _of_trial(
    row: Row,
    system: System[Any],
    plan: Any,
    trial: Trial,
    *,
    again: str,
    as_wanted: bool,
    kind: FindingKind | None = None,
) -> Row:
    """`row` with what this trial showed. `kind`: what it was to show; else all that it did."""
    kinds = [kind] if kind else sorted(set(trial.kinds))
    telling = [finding.summary for finding in trial.findings if finding.kind in kinds]
    text = system.text(plan)
    return msgspec.structs.replace(
        row,
        verdict=trial.verdict,
        as_wanted=as_wanted,
        finding=", ".join(kinds),
        summary=(telling or [""])[0],
        plan=text,
        replay=replay_command(system, row.variant, text),
        again=again,
    )

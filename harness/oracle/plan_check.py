"""The check of a plan: what its file system owes it, compared with what was recovered."""

import os
from collections.abc import Sequence

from harness.errors import BadLog
from harness.oracle import works as usable
from harness.oracle.checks import RecoveredState
from harness.oracle.compare import Comparison
from harness.oracle.contents import VOLUME_ERRORS
from harness.oracle.contracts import contract_named
from harness.oracle.expectation import Expectation
from harness.oracle.floors import floors_of
from harness.oracle.plan_model import replay
from harness.oracle.recovered import walk
from harness.oracle.wording import finding
from harness.plan.plan import Outcome, Plan, persistence_points
from harness.verdict import Finding, FindingKind


class PlanCheck:
    """A Checker. How many promises were made before the cut tells which persistence calls had returned by then.

    Operations up to the next persistence call, and that one itself, may have happened wholly, partly or not at all.
    """

    def __init__(
        self,
        plan: Plan,
        outcomes: Sequence[Outcome],
        contract: str = "linux",
        *,
        file_system: str = "ext4",
        works: bool = True,
    ) -> None:
        """Raises Misuse for an unknown contract, BadLog if the plan was not run to its end."""
        if [outcome.n for outcome in outcomes] != list(range(len(plan.all))):
            cause = f"{len(outcomes)} outcomes of a plan of {len(plan.all)} operations"
            raise BadLog(cause, "give the log of a whole run")
        self._plan = plan
        self._outcomes = outcomes
        self._contract = contract_named(contract)
        self._fs = file_system
        self._works = works
        self._tree = replay(plan.all, outcomes)
        self._points = persistence_points(plan.all, outcomes)
        self._expected: dict[int, Expectation] = {}

    def __call__(self, state: RecoveredState) -> list[Finding]:
        expected = self.expected(len(state.made))
        try:
            entries = list(walk(state.path))
        except OSError as error:
            if error.errno not in VOLUME_ERRORS or not error.filename:
                raise
            what = f"the directory cannot be read: {error.strerror}"
            return [finding(FindingKind.UNAVAILABLE, os.path.relpath(error.filename, state.path), what, "reachable")]
        found = Comparison(state.path, entries, expected, self._plan, self._fs).findings()
        return found or (usable.failures(state.path, entries) if self._works else [])

    def expected(self, points: int) -> Expectation:
        """What may be found when so many persistence calls had returned. Raises BadLog for more than there were."""
        if points > len(self._points):
            cause = f"{points} promises of a plan with {len(self._points)} persistence calls"
            raise BadLog(cause, "give the log of this plan, and of nothing else")
        known = self._expected.get(points)
        if known is None:
            known = self._expected[points] = self._expectation(points)
        return known

    def _expectation(self, points: int) -> Expectation:
        operations = self._plan.all
        passed = [(operations[n], self._outcomes[n]) for n in self._points[:points]]
        floors = floors_of(self._tree, self._contract, passed, self._plan.setup)
        following = self._points[points:]
        horizon = following[0] + 1 if following else len(operations)
        return Expectation(self._tree, floors, self._contract, horizon)

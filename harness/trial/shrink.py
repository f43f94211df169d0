"""Two levels of shrinking: fewer operations, then fewer lost writes and an earlier cut.

The second works on the recorded log alone: the workload is not run again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from harness.crash import CrashState, StateSpace
from harness.plan.plan import Plan
from harness.trial.judging import Judge
from harness.trial.lab import Judgement
from harness.trial.recording import lost_atoms
from harness.trial.report import Found, group
from harness.verdict import Finding

_ATTEMPTS_MAX = 200


def shrink_state(judge: Judge, finding: Finding, state: CrashState) -> CrashState:
    """The state with the fewest lost writes that can be reached from `state`, then the earliest cut, showing the same.

    "The same" is a finding of the same group (kind and rule). Every candidate is a disk that the model allows.
    """
    attempts = 0

    def shows(candidate: CrashState) -> bool:
        nonlocal attempts
        attempts += 1
        return attempts <= _ATTEMPTS_MAX and any(group(f) == group(finding) for f in judge.one(candidate))

    best = _fewest_lost(judge.space, state, shows)
    return judge.space.named(_earliest(judge.space, best, shows))


def _fewest_lost(space: StateSpace, state: CrashState, shows: Callable[[CrashState], bool]) -> CrashState:
    """Give back lost writes, first in halves, then one by one."""
    lost = lost_atoms(space, state)
    size = max(1, len(lost) // 2)
    while lost:
        for at in range(0, len(lost), size):
            back = lost[at : at + size]
            candidate = state._replace(kept=state.kept | sum(1 << atom for atom in back))
            if shows(candidate):
                state, lost = candidate, [atom for atom in lost if atom not in back]
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
            continue
        size = min(size, max(1, len(lost)))
    return state


def _earliest(space: StateSpace, state: CrashState, shows: Callable[[CrashState], bool]) -> CrashState:
    for cut in space.cuts:
        if cut.epoch == state.epoch and cut.cut < state.cut:
            candidate = state._replace(cut=cut.cut, kept=state.kept & (1 << cut.atoms) - 1, promises=cut.promises)
            if shows(candidate):
                return candidate
    return state


def shrink_plan(plan: Plan, finding: Finding, run: Callable[[Plan], Judgement]) -> Judgement | None:
    """A judgement of the smallest plan found that still shows the finding; None if even `plan` does not, run again."""
    best = run(plan)
    if shown_by(best, finding) is None:
        return None
    smaller = True
    while smaller:
        smaller = False
        for candidate in _without_one(best.plan):
            judgement = run(candidate)
            if shown_by(judgement, finding):
                best, smaller = judgement, True
                break
    return best


def shown_by(judgement: Judgement, finding: Finding) -> Found | None:
    """What the judgement found that is the same as `finding`."""
    return next((found for found in judgement.report.found if group(found.finding) == group(finding)), None)


def _without_one(plan: Plan) -> Iterator[Plan]:
    """Each plan with one operation less, later ones first: what came before them may be needed by nothing else."""
    for part in ("operations", "setup"):
        operations: tuple[Any, ...] = getattr(plan, part)
        for n in reversed(range(len(operations))):
            left = operations[:n] + operations[n + 1 :]
            if left or part == "setup":
                yield msgspec.structs.replace(plan, **{part: left})

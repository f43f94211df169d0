"""Plans and litmus patterns as subjects of the search for a missing fsync.

A plan is held to what its file system owes it (its contract), or to a check command of the user's own. A litmus pattern
is asked for its surprise, alone and beside the neighbour that makes the file system commit (harness.trial.litmus):
several surprises are seen only there.
"""

import contextlib
from collections.abc import Collection, Sequence
from multiprocessing.connection import wait

from harness.advice.advised import Change, Tried
from harness.advice.changed_plan import ChangedPlans, Question, Task, Told
from harness.advice.plan_changes import Edits, Number, additions_of, edits_of, removals_of
from harness.closing import Closing
from harness.errors import Misuse
from harness.machine import mounts
from harness.oracle.checks import Checker, CommandCheck
from harness.oracle.litmus_check import LitmusCheck, is_surprise
from harness.plan.litmus import Litmus
from harness.plan.plan import Plan, check_paths
from harness.settings import Settings
from harness.trial.devices import scratch_devices, workers_wanted
from harness.trial.plans import plan_check
from harness.trial.recording import Recording
from harness.volume import LYING_FLUSH, VolumeSpec, make_base

_ROUNDS = 3
"""So often a plan is run as it is until a failure is seen: some are races between a commit and data on their way."""
_ENOUGH = 10
"""A changed plan is refuted by one state; after so many no more of its run are judged."""
_LABS = 2
_TICK_SECONDS = 0.1

CONTRACT_BROKEN = "the file system broke its contract"


class PlanSubject(Closing):
    """A Subject. Every judgement runs the plan twice: in both environments, or twice alone, since runs differ."""

    def __init__(
        self, question: Question, *, environments: Sequence[bool] = (False, False), number: Number = lambda n: n
    ) -> None:
        """`environments`: for each run, whether it is beside the neighbour. Raises Misuse, RequirementMissing."""
        self._question = question
        self._environments = environments
        self._number = number
        self._rounds = 1
        self._additions = {each.change: each for each in additions_of(question.plan, number)}
        self._removals = removals_of(question.plan, number)
        self._stack = contextlib.ExitStack()
        try:
            self._labs = self._open_labs()
        except BaseException:
            self._stack.close()
            raise

    @classmethod
    def of_plan(cls, plan: Plan, settings: Settings) -> "PlanSubject":
        """Held to what its file system owes it. Raises Misuse for paths that leave the volume, and as the labs do."""
        check_paths(plan)

        def checker(_workspace: mounts.Workspace, recording: Recording) -> Checker:
            return plan_check(plan, recording, settings.contract)

        return cls(Question(plan=plan, settings=settings, checker=checker))

    @classmethod
    def of_plan_and_check(cls, plan: Plan, check: str, settings: Settings) -> "PlanSubject":
        """Held to a shell command that exits 0 if the volume is intact."""
        check_paths(plan)

        def checker(workspace: mounts.Workspace, _recording: Recording) -> Checker:
            return CommandCheck(check, workspace, settings.timeout)

        return cls(Question(plan=plan, settings=settings, checker=checker))

    @classmethod
    def of_litmus(cls, test: Litmus, settings: Settings) -> "PlanSubject":
        """Asked for its surprise. Operations are numbered as in the test's `main`, from 0."""
        plan = test.plan()
        check = LitmusCheck(test)
        question = Question(
            plan=plan,
            settings=settings,
            checker=lambda _workspace, _recording: check,
            convicts=is_surprise,
            all_succeed=True,
        )
        return cls(question, environments=(False, True), number=lambda n: n - len(plan.setup))

    def _open_labs(self) -> list[ChangedPlans]:
        settings = self._question.settings
        mounts.enter_private_mounts()
        spec = VolumeSpec.of(settings)
        base = make_base(spec)
        self._stack.callback(base.close)
        count = min(_LABS, workers_wanted(settings))
        devices, tracepoint = scratch_devices(self._stack, settings, spec, count)
        return [self._stack.enter_context(ChangedPlans(self._question, base, each, tracepoint)) for each in devices]

    def additions(self) -> Sequence[Change]:
        return list(self._additions)

    def removals(self) -> Sequence[Change]:
        return list(self._removals)

    def judge(self, changes: Collection[Change]) -> Tried:
        """Run the plan with these changes and judge what it leaves. Raises Misuse for a change that is none of its."""
        strange = [change.text for change in changes if change not in {**self._additions, **self._removals}]
        if strange:
            raise Misuse(f"no change of this plan: {strange[0]}", "choose from what it offers")
        edits = self._edits(changes)
        rounds = self._rounds if changes else _ROUNDS
        told: list[Told] = []
        for number in range(1, rounds + 1):
            told += self._all([Task(edits, beside, _ENOUGH if changes else 0) for beside in self._environments])
            if any(each.failing or each.trouble for each in told):
                self._rounds = max(self._rounds, number)
                break
        return _tried(changes, told)

    def _edits(self, changes: Collection[Change]) -> Edits:
        return edits_of(
            [each for change, each in self._additions.items() if change in changes],
            [n for change, n in self._removals.items() if change in changes],
        )

    def _all(self, tasks: list[Task]) -> list[Told]:
        told: list[Told] = []
        idle = list(self._labs)
        busy: list[ChangedPlans] = []
        while tasks or busy:
            while idle and tasks:
                lab = idle.pop()
                lab.submit(tasks.pop(0))
                busy.append(lab)
            ready = set(wait([end for lab in busy for end in lab.ends], _TICK_SECONDS))
            for lab in [lab for lab in busy if ready.intersection(lab.ends) or lab.overdue]:
                busy.remove(lab)
                idle.append(lab)
                told.append(lab.collect())
        return told

    def lines(self, changes: Collection[Change] = ()) -> list[str]:
        """The plan's operations, numbered, with calls that are added (`+`) or left out (`-`)."""
        plan = self._question.plan
        edits = self._edits(changes)
        lines = []
        for n in range(len(plan.setup), len(plan.all) + 1):
            lines += [f"  +  {call}" for before, call in edits.added if before == n]
            if n < len(plan.all):
                number = "  -" if n in edits.removed else f"{self._number(n):>3}"
                lines.append(f"{number}  {plan.all[n]}")
        return lines

    def close(self) -> None:
        self._stack.close()


def _tried(changes: Collection[Change], told: Sequence[Told]) -> Tried:
    return Tried(
        changes=tuple(changes),
        states=sum(each.states for each in told),
        failing=sum(each.failing for each in told),
        unknown=sum(each.unknown for each in told),
        complete=all(each.complete for each in told),
        trouble=next((each.trouble for each in told if each.trouble), ""),
    )


def hopeless(settings: Settings, *, contract: bool) -> str:
    """Why no fsync can help, if none does: the device lies, or (`contract`) what failed is the file system itself."""
    if settings.fault == LYING_FLUSH:
        return f"{CONTRACT_BROKEN}: the device acknowledged flushes and did not do them (--fault {LYING_FLUSH})"
    options = settings.mount_options.split(",")
    if "nobarrier" in options or "barrier=0" in options:
        return f"{CONTRACT_BROKEN}: mounted with {settings.mount_options}, it does not flush the device's cache"
    if not contract:
        return ""
    if settings.fs == "ext2" or "^has_journal" in settings.mkfs_options:
        return f"{CONTRACT_BROKEN}: without a journal its structures may be inconsistent after any power cut"
    return CONTRACT_BROKEN

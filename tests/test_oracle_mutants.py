"""Planted mutants, at least one for each rule of the oracle: an altered recovered volume, or a wrong expectation.

Each must be noticed, with the right kind and rule. A checker that always says yes, planted in place of the oracle, must
miss them all: so this suite would fail with it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import pytest
from oracle_mutants import FOO, FSYNC, GONE, LOST, META, MUTANTS, RENAME, SYNC, Mutant, at
from oracle_support import MakeChecker, points_of, run, spec_of, state

from harness.machine import process
from harness.machine.image import Image
from harness.oracle.checks import Checker
from harness.oracle.contracts import CONTRACTS, RULES
from harness.oracle.plan_check import PlanCheck
from harness.plan.operations import persists
from harness.plan.plan import Outcome, Plan
from harness.verdict import Finding, FindingKind, Verdict
from harness.volume import make_base, mounted_plain

pytestmark = pytest.mark.root

PROMISES = ("sync-everything", "fsync-data", "fsync-attributes", "fsync-directory", "fsync-names")
PROMISED = [
    mutant for mutant in MUTANTS if mutant.rule in PROMISES and persists(mutant.operations[-1]) and not mutant.believed
]


@pytest.fixture(scope="module")
def bases() -> Iterator[dict[str, Image]]:
    """An empty volume of each file system that a mutant needs."""
    with ExitStack() as stack:
        yield {fs: stack.enter_context(make_base(spec_of(fs))) for fs in sorted({mutant.fs for mutant in MUTANTS})}


def yes_man(_plan: Plan, _outcomes: Sequence[Outcome]) -> Checker:
    return lambda _state: []


def oracle_of(mutant: Mutant, *, works: bool = True) -> MakeChecker:
    return lambda plan, outcomes: PlanCheck(plan, outcomes, mutant.contract, file_system=mutant.fs, works=works)


def judged(mutant: Mutant, bases: dict[str, Image], make: MakeChecker, points_less: int = 0) -> list[Finding]:
    """What a checker says of the mutant. That the oracle is content before anything is altered is asserted on the way.

    `points_less`: judged as cut before the last so many promises.
    """
    with bases[mutant.fs].copy() as image:
        with mounted_plain(image, spec_of(mutant.fs)) as root:
            plan, outcomes = run(root, mutant.operations, mutant.setup)
            assert all(outcome.ok for outcome in outcomes), outcomes
            points = points_of(plan, outcomes)
            assert oracle_of(mutant, works=False)(plan, outcomes)(state(root, points)) == [], "the clean control"
            if mutant.damage:
                mutant.damage(root)
            if not mutant.debugfs and not mutant.image:
                believed = msgspec.structs.replace(plan, operations=tuple(mutant.believed or plan.operations))
                return make(believed, outcomes)(state(root, points - points_less))
        alter(image, mutant)
        with mounted_plain(image, spec_of(mutant.fs)) as root:
            return make(plan, outcomes)(state(root, points - points_less))


def alter(image: Image, mutant: Mutant) -> None:
    """The unmounted volume."""
    if mutant.image:
        mutant.image(image)
    for command in mutant.debugfs:
        done = process.run(["debugfs", "-w", "-R", command, image.path])
        assert done.output.count(b"\n") <= 1, done.output  # it prints its version, and then what went wrong


def noticed(mutant: Mutant, found: Sequence[Finding]) -> bool:
    """Whether the right thing was found: a finding of this kind, under this rule, and no doubt about it."""
    return any(
        finding.kind is mutant.kind
        and finding.verdict is Verdict.CORRUPTED
        and finding.summary.startswith(f"{mutant.kind} ")
        and finding.summary.endswith(f"[rule {mutant.rule}]")
        for finding in found
    )


def missed(mutants: Sequence[Mutant], bases: dict[str, Image], make: Callable[[Mutant], MakeChecker]) -> list[str]:
    """The suite, run against any checker: the mutants that it does not notice."""
    return [mutant.name for mutant in mutants if not noticed(mutant, judged(mutant, bases, make(mutant)))]


def test_every_rule_has_a_mutant() -> None:
    assert {mutant.rule for mutant in MUTANTS} == set(RULES)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 12


def test_a_mutant_is_noticed_only_under_a_rule_that_its_contract_holds() -> None:
    for mutant in MUTANTS:
        assert RULES[mutant.rule] in CONTRACTS[mutant.contract].rules, mutant.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_noticed(mutant: Mutant, bases: dict[str, Image]) -> None:
    found = judged(mutant, bases, oracle_of(mutant))
    assert noticed(mutant, found), found
    assert len(found) <= 4 and all("\n" not in finding.summary for finding in found)


def test_a_checker_that_always_says_yes_misses_every_mutant(bases: dict[str, Image]) -> None:
    assert missed(MUTANTS, bases, lambda _: yes_man) == [mutant.name for mutant in MUTANTS]


def test_a_checker_that_always_says_no_notices_nothing_either(bases: dict[str, Image]) -> None:
    """To complain is not enough: the kind and the rule must be right."""
    complaint = Finding(kind=FindingKind.CHECK, summary="CHECK foo: something is wrong [rule of-thumb]")
    some = MUTANTS[::6]
    assert missed(some, bases, lambda _: lambda _plan, _outcomes: lambda _state: [complaint]) == [m.name for m in some]


@pytest.mark.parametrize("mutant", PROMISED, ids=lambda mutant: mutant.name)
def test_before_the_promise_the_same_is_no_finding(mutant: Mutant, bases: dict[str, Image]) -> None:
    assert judged(mutant, bases, oracle_of(mutant), points_less=1) == []


@pytest.mark.parametrize(
    "mutant",
    [
        Mutant("synced", LOST, "sync-everything", [FOO, SYNC], GONE),
        Mutant("name", LOST, "fsync-names", [FOO, FSYNC], GONE),
        Mutant("two-places", META, "atomic-names", [RENAME], at(os.link, "/bar", "/foo"), setup=[FOO]),
    ],
    ids=lambda mutant: mutant.name,
)
def test_posix_does_not_promise_what_linux_does(mutant: Mutant, bases: dict[str, Image]) -> None:
    assert noticed(mutant, judged(mutant, bases, oracle_of(mutant)))
    assert judged(mutant, bases, oracle_of(replace(mutant, contract="posix"))) == []


def test_a_finding_says_what_was_expected_since_when_and_what_was_found(bases: dict[str, Image]) -> None:
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    (gone,) = judged(by_name["name-lost"], bases, oracle_of(by_name["name-lost"]))
    assert '"fsync foo" (operation 1) persisted foo' in gone.summary
    (old,) = judged(by_name["old-data"], bases, oracle_of(by_name["old-data"]))
    assert old.summary == (
        'STALE foo: older data at byte 512, though "fsync foo" (operation 3) persisted what was there [rule fsync-data]'
    )
    assert "found    version 1 of file" in old.output and "possible version 2 of file" in old.output
    (above,) = judged(by_name["directory-above-lost"], bases, oracle_of(by_name["directory-above-lost"]))
    assert '"fsync A/foo" (operation 2) persisted' in above.summary

"""For each litmus pattern the missing fsync is found, and is the textbook one; in a fixed one a planted fsync is named.

On ext4 with default options, where five of the seven surprises are observed (docs/litmus.md). The other two are never
observed anywhere: DUR has its fsync, and every file system here keeps the name of a new file that was fsynced (IDF).
"""

from pathlib import Path

import msgspec
import pytest

from harness.advice.advised import Advice
from harness.advice.plan_subject import PlanSubject
from harness.advice.search import search
from harness.oracle.litmus_check import read_tests
from harness.plan.litmus import Litmus
from harness.plan.operations import Fsync, Operation
from harness.trial.litmus import Configuration

pytestmark = pytest.mark.root

FOLDER = Path(__file__).parent.parent / "scenarios/litmus"
TESTS = {test.id: test for test in read_tests(str(FOLDER))}
REPAIRED_BY_ONE_FSYNC = ("ACVR", "ARVR", "OSFO", "OTFO")
REPAIRED_BY_NONE = ("PA",)
NEVER_OBSERVED = ("DUR", "IDF")
RACES_MAX = 4
"""Searches until the surprise is seen at all: of ARVR the kernel's writeback and its commit race (docs/litmus.md)."""
EXT4 = Configuration("ext4").settings


def advice_on(test: Litmus, *, superfluous: bool = False) -> tuple[Advice, list[str]]:
    """What the search says of a pattern, and the pattern's lines with what it advises."""
    with PlanSubject.of_litmus(test, EXT4) as subject:
        advice = search(subject, superfluous=superfluous)
        return advice, subject.lines(advice.best.changes if advice.best else ())


def test_every_pattern_is_accounted_for() -> None:
    assert sorted(TESTS) == sorted((*REPAIRED_BY_ONE_FSYNC, *REPAIRED_BY_NONE, *NEVER_OBSERVED))


@pytest.mark.parametrize("name", REPAIRED_BY_ONE_FSYNC)
def test_the_missing_fsync_is_the_textbook_one(name: str) -> None:
    test = TESTS[name]
    assert test.repair
    for _ in range(RACES_MAX):
        advice, lines = advice_on(test)
        if advice.before.failing:
            break
    assert advice.before.failing, advice
    assert advice.best and advice.best.intact and advice.exhaustive, advice
    (change,) = advice.best.changes
    assert (change.action, change.target) == ("fsync", test.repair.operation.path)  # type: ignore[union-attr]
    assert change.place.endswith(f"at operation {test.repair.before}")
    wanted = [f"{n:>3}  {operation}" for n, operation in enumerate(test.main)]
    wanted.insert(test.repair.before, f"  +  {test.repair.operation}")
    assert lines == wanted
    assert "fdatasync" in [other.changes[0].action for other in advice.others]


@pytest.mark.parametrize("name", REPAIRED_BY_NONE)
def test_where_no_fsync_repairs_that_is_said(name: str) -> None:
    """An append is not atomic, whatever is fsynced around it."""
    test = TESTS[name]
    assert test.repair and test.repair.why.startswith("No single fsync forbids")
    advice, _ = advice_on(test)
    assert advice.before.failing and advice.best is None
    assert advice.why.startswith("no fsync helps: with every candidate ")
    assert "more than any fsync can give" in advice.why


@pytest.mark.parametrize("name", NEVER_OBSERVED)
def test_where_nothing_was_observed_nothing_is_missing(name: str) -> None:
    advice, _ = advice_on(TESTS[name], superfluous=True)
    assert advice.before.intact and advice.before.states > 300
    assert advice.best is None and advice.text == f"nothing is missing: 0 of {advice.before.states:,} states fail"
    assert advice.superfluous == ()  # the fsync that it has is needed


def fixed(test: Litmus, planted: Operation, before: int) -> Litmus:
    """The pattern with its textbook fsync and, before operation `before` of that, one that it does not need."""
    main = list(test.operations(repaired=test.repair is not None and test.id not in NEVER_OBSERVED))
    main.insert(before, planted)
    return msgspec.structs.replace(test, main=tuple(main), repair=None, nothing_lacks="it was added")


@pytest.mark.parametrize(
    ("name", "planted", "before"),
    [
        ("ACVR", Fsync(path="tmp"), 1),
        ("ARVR", Fsync(path="tmp"), 1),
        ("OSFO", Fsync(path="f"), 3),
        ("OTFO", Fsync(path="."), 0),
        ("DUR", Fsync(path="."), 2),
        ("IDF", Fsync(path="."), 3),
    ],
)
def test_a_planted_superfluous_fsync_is_named(name: str, planted: Fsync, before: int) -> None:
    for _ in range(RACES_MAX):  # the one that is needed seems superfluous where its surprise is not seen
        advice, _ = advice_on(fixed(TESTS[name], planted, before), superfluous=True)
        assert advice.before.intact, advice
        if len(advice.superfluous) == 1:
            break
    (named,) = advice.superfluous
    assert named.intact and named.text == f"without fsync({planted.path}) at operation {before}"

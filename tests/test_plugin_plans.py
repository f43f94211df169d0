"""The fixture `plan_judge`: plans that Hypothesis draws are judged, remembered, shrunk, bundled and replayed."""

import re
from pathlib import Path

import pytest
from cli_support import harness

from harness.verdict import ExitCode

pytestmark = pytest.mark.root
pytest_plugins = ["pytester"]

GIVEN = """
from hypothesis import given
from harness.plan.strategies import plans, register_profiles
from hypothesis import settings

register_profiles()
settings.load_profile("ci")
drawn = []

@settings(max_examples={examples})
@given(plan=plans(operations=(1, 5)))
def test_contract(plan_judge, plan):
    drawn.append(plan.id)
    plan_judge.verify(plan, fs="ext4", fsck=False, max_states=30{more})

def test_count(plan_judge):
    print("distinct", len(set(drawn)), "judged", plan_judge.plans, "states", plan_judge.states)
"""


def run(pytester: pytest.Pytester, text: str, *words: str) -> pytest.RunResult:
    pytester.makepyfile(test_plans=text)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q", "-s", *words, timeout=120)


def test_given_plans_is_the_whole_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, GIVEN.format(examples=15, more=""))
    result.assert_outcomes(passed=2)
    distinct, judged = re.findall(r"distinct (\d+) judged (\d+)", result.stdout.str())[0]
    assert distinct == judged  # what was drawn twice was judged once


def test_a_failure_is_shrunk_bundled_and_replayed_by_one_command(pytester: pytest.Pytester) -> None:
    result = run(pytester, GIVEN.format(examples=40, more=", fault='lying-flush'"))
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "Flaky" not in text
    plan = re.search(r"^E? *plan\n((?:E? +\d+  .*\n)+)", text, re.MULTILINE)
    assert plan and len(plan[1].splitlines()) <= 3, text
    command = re.findall(r"harness (replay \S+\.crash)", text)[-1]
    replayed = harness(*command.split(), cwd=Path(pytester.path))
    assert replayed.status == ExitCode.CORRUPTED, replayed
    assert "the verdict recorded in the bundle" in replayed.out


def test_wrong_settings_are_told_by_name(pytester: pytest.Pytester) -> None:
    result = run(pytester, GIVEN.format(examples=2, more=", contract='none'"))
    result.assert_outcomes(passed=1, failed=1)
    assert "--contract none is not known" in result.stdout.str()


def test_what_cannot_be_judged_fails_too(pytester: pytest.Pytester) -> None:
    text = """
from harness.plan.operations import Creat, Fallocate, Write
from harness.plan.plan import Plan

def test_full(plan_judge):
    more = (Write(path="foo", length=4 << 20, append=True),) * 4
    plan = Plan(operations=(Creat(path="foo"), Fallocate(path="foo", length=8 << 20), *more))
    plan_judge.verify(plan, fs="ext4", size="16M", fsck=False)
"""
    result = run(pytester, text)
    result.assert_outcomes(failed=1)
    assert "UNKNOWN" in result.stdout.str() and "filled the volume" in result.stdout.str()

"""A pattern's surprising outcome is found where the file system allows it, and never with the fsync that it lacks.

Fault: power cut at every point of seven small patterns (scenarios/litmus), alone and beside a neighbour that makes the
file system commit after each call. Rests on Ferrite (Bornholt et al., ASPLOS 2016): with ext4's delayed allocation an
append is seen as a longer file without its bytes (PA), and a file made by rename as a name without its content (ACVR);
what fsync has returned for is there (DUR). If the first two are not found, the harness has lost its sensitivity.
"""

from pathlib import Path

import pytest

from harness.oracle.litmus_check import read_tests
from harness.plan.litmus import Litmus
from harness.trial.litmus import Answer, Bed, Cell, Configuration
from harness.verdict import Verdict

TESTS = {test.id: test for test in read_tests(str(Path(__file__).parent / "litmus"))}
EXT4 = Configuration("ext4")
_VERDICT = {
    Answer.OBSERVED: Verdict.CORRUPTED,
    Answer.NOT_FOUND: Verdict.INTACT,
    Answer.UNKNOWN: Verdict.UNKNOWN,
}


def ask(request: pytest.FixtureRequest, test: Litmus, where: Configuration, expected: Answer, **how: bool) -> Cell:
    """Run it, and tell `harness run` what was judged."""
    cell = Bed(where, rounds=3 if expected is Answer.OBSERVED else 1).run(test, **how)
    request.node.user_properties += [
        ("crash_verdict", _VERDICT[cell.answer].value),
        ("crash_expected", _VERDICT[expected].value),
        ("crash_states", cell.judged),
        ("crash_fs", where.name.removesuffix(" default")),
    ]
    return cell


@pytest.mark.parametrize("name", ["PA", "ACVR"])
def test_ext4_lets_the_name_or_the_size_come_before_the_data(request: pytest.FixtureRequest, name: str) -> None:
    cell = ask(request, TESTS[name], EXT4, Answer.OBSERVED)
    assert cell.answer is Answer.OBSERVED, cell.error


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_what_was_fsynced_is_there(request: pytest.FixtureRequest, fs: str) -> None:
    cell = ask(request, TESTS["DUR"], Configuration(fs), Answer.NOT_FOUND)
    assert cell.answer is Answer.NOT_FOUND, cell.error or cell.observation


@pytest.mark.parametrize("name", [name for name, test in TESTS.items() if test.repair])
def test_with_its_fsync_no_pattern_surprises(request: pytest.FixtureRequest, name: str) -> None:
    cell = ask(request, TESTS[name], EXT4, Answer.NOT_FOUND, repaired=True)
    assert cell.answer is Answer.NOT_FOUND, cell.error or cell.observation

"""Crash during recovery: the recovery of a crash state is recorded, cut and judged; its findings replay like others."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from trial_support import entries, judge_with, keeps_promises, recorded, with_settings

from harness.blocklog import Kind
from harness.crash import CrashState, DiskBuilder, StateSpace
from harness.oracle.checks import CallableCheck, RecoveredState
from harness.trial import bundle as bundles
from harness.trial.check import replay, save_findings
from harness.trial.depth import Recoveries
from harness.trial.recording import Recording
from harness.verdict import FindingKind, Verdict

pytestmark = pytest.mark.root

DEEP = with_settings(depth=2, max_states=60)


@pytest.fixture(scope="module")
def careful() -> Recording:
    return recorded(with_settings(), 3)


def walk(states: Iterable[CrashState]) -> list[CrashState]:
    return sorted(states, key=lambda state: (state.epoch, state.kept, state.cut))


def disk(recording: Recording, space: StateSpace, state: CrashState) -> dict[int, bytes]:
    """The non-zero content of the state's disk."""
    with recording.base.copy("reference") as image:
        builder = DiskBuilder(space, image.map)
        builder.build(state)
        builder.release()
        return {offset: image.read(offset, length) for offset, length in image.nonzero_extents()}


def test_recoveries_of_a_careful_program_are_judged_and_intact(careful: Recording) -> None:
    report = judge_with(careful, keeps_promises, DEEP).all()
    assert report.verdict is Verdict.INTACT, report.found
    assert report.recoveries is not None
    assert report.recoveries.judged > report.judged
    assert "of their recoveries" in report.scope


def test_the_second_crash_starts_from_the_first_ones_disk(careful: Recording) -> None:
    """Cut before the recovery's first write, the joined log gives the disk of the first crash, byte for byte."""
    space = careful.space(DEEP)
    recoveries = Recoveries(careful, space, DEEP, 10)
    for state in walk(space.states(40, 0).states)[::13]:
        recoveries._builder.build(state)
        both = recoveries._recorded(state)
        deeper = both.space(DEEP)
        assert disk(both, deeper, walk(deeper.states(50, 0).states)[0]) == disk(careful, space, state)
        assert len(both.log.promises(both.begin)) == state.promises
        assert any(event.kind is Kind.WRITE for event in both.log.events[both.begin :])
    recoveries.close()


def test_what_the_first_crash_shows_is_not_judged_deeper(careful: Recording) -> None:
    report = judge_with(careful, lambda state: len(entries(state)) != 2, DEEP).all()
    assert report.verdict is Verdict.CORRUPTED
    assert report.found and all(found.deeper is None for found in report.found)


def test_a_finding_after_the_second_crash_replays_from_its_bundle(careful: Recording, tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def second_time(state: RecoveredState) -> bool:
        """Content with every disk that it sees for the first time; two recoveries of one disk are told apart so."""
        names = [*sorted(os.listdir(state.path)), str(len(state.promises))]
        key = seen / "-".join(names)
        key.parent.mkdir(exist_ok=True)
        known = key.exists()
        key.touch()
        return not known

    judge = judge_with(careful, second_time, with_settings(depth=2, max_states=20, workers=1))
    report = judge.all()
    deep = [found for found in report.found if found.deeper]
    assert deep and deep[0].finding.kind is FindingKind.CHECK
    report.found = deep
    save_findings(report, careful, DEEP, str(tmp_path))
    bundle = bundles.load(deep[0].bundle)
    assert any("second crash" in note for note in bundle.recording.notes)
    assert bundle.manifest.state is not None and bundle.manifest.state.promises == deep[0].state.promises
    replayed = replay(bundle, lambda _: CallableCheck(keeps_promises, 20.0))
    assert replayed.verdict is Verdict.INTACT

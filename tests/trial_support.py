"""Recordings and checks that the tests of the trial rooms share. All of it is real: kernel, volumes, processes."""

import os
from collections.abc import Callable

import msgspec

from harness.oracle.checks import CallableCheck, RecoveredState
from harness.settings import Settings
from harness.trial.judging import Judge
from harness.trial.recorder import prepare, recording_of
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.volume import RecordedVolume

SMALL = Settings(size=16 << 20, fsck=False, timeout=20.0)


def with_settings(**changes: object) -> Settings:
    return msgspec.structs.replace(SMALL, **changes)


def recorded(settings: Settings = SMALL, entries: int = 6, *, fsync: bool = True) -> Recording:
    """A ledger of `entries` lines, each promised after its fsync (or, with the planted bug, after no fsync at all)."""
    spec, base = prepare(settings)
    with RecordedVolume(spec, base, log_max=settings.log_max) as volume:
        fd = os.open(f"{volume.path}/ledger", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in range(entries):
            os.write(fd, b"%08d\n" % number)
            if fsync:
                os.fsync(fd)
            volume.mark(b"json:%d" % number)
        os.close(fd)
        volume.finish()
        assert volume.error is None
    return recording_of(volume, spec, base)


def entries(state: RecoveredState) -> list[int]:
    try:
        with open(f"{state.path}/ledger") as file:
            return [int(line) for line in file]
    except FileNotFoundError:
        return []


def keeps_promises(state: RecoveredState) -> bool:
    return entries(state)[: len(state.promises)] == state.promises


def judge_with(
    recording: Recording, check: Callable[[RecoveredState], object] = keeps_promises, settings: Settings = SMALL
) -> Judge:
    return Judge(recording, settings, lambda _: CallableCheck(check, settings.timeout))


def judged(
    recording: Recording, check: Callable[[RecoveredState], object] = keeps_promises, settings: Settings = SMALL
) -> Report:
    return judge_with(recording, check, settings).all()

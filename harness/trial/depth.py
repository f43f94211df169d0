"""Crash during recovery: the mount of a crash state writes too, so it is recorded, cut and judged like a workload.

The first crash's disk and the recovery are put together into one recording over the original base: what survived, a
flush, then what the recovery wrote. So everything else (states, names, bundles, reports) needs no second kind of log.
"""

import mmap
from collections.abc import Iterator, Sequence

import msgspec

from harness.blocklog import BlockLog, Kind, LogWriter
from harness.blocklog.format import BEGIN, END, JSON, SECTOR, split_mark
from harness.crash import CrashState, DiskBuilder, StateSpace
from harness.errors import HarnessError
from harness.extents import Extent
from harness.machine import mounts
from harness.oracle.checks import Checker
from harness.oracle.examine import harness_fault
from harness.plan.plan import OUTCOME, START
from harness.settings import Settings
from harness.trial.bench import Bench
from harness.trial.recording import ChosenState, Recording, lost_atoms, walk
from harness.trial.report import Deep, DeepFinding, signature
from harness.verdict import Finding
from harness.volume import RecordedVolume

_PIECE = 1 << 20
_STATES_MIN = 4
"""So many states of each recovery, whatever the budget."""


class Recoveries:
    """Judges the recoveries of a recording's crash states, in the order of the states; lives in a judge's worker."""

    def __init__(self, recording: Recording, space: StateSpace, settings: Settings, count: int) -> None:
        """`count`: of how many crash states. Their recoveries share `settings.max_states`, but get a few each."""
        workspace = mounts.enter_private_mounts()
        self._recording = recording
        self._settings = settings
        self._budget = max(_STATES_MIN, settings.max_states // max(1, count))
        self._disk = recording.base.copy("crashed")
        self._builder = DiskBuilder(space, self._disk.map)
        self._bench = Bench(recording.spec, recording.base, workspace, None, None, fsck=settings.fsck)

    def judge(self, state: CrashState, checker: Checker | None) -> Deep:
        """Let the kernel recover `state` once more, recorded; judge every selected cut of that.

        Raises what recording a volume raises: then nothing is known of this recovery.
        """
        self._builder.build(state)
        both = self._recorded(state)
        space = both.space(self._settings)
        selection = space.states(self._budget, self._settings.seed)
        states = walk(selection.states)
        self._bench.load(both, space, states, checker)
        found: dict[object, DeepFinding] = {}
        for number, second in enumerate(states):
            for finding in self._bench.judge(number):
                known = found.get(signature(finding))
                if known:
                    found[signature(finding)] = msgspec.structs.replace(known, states=known.states + 1)
                else:
                    found[signature(finding)] = _deep(state, finding, both, space, second)
        return Deep(len(states), f"{space.allowed:x}", selection.complete, list(found.values()))

    def _recorded(self, state: CrashState) -> Recording:
        spec = self._recording.spec
        with RecordedVolume(spec, self._disk, log_max=self._settings.log_max) as volume:
            volume.finish()
        if volume.error:
            raise volume.error
        return joined(self._recording, state, self._builder.differences(), self._disk.map, volume.log)

    def close(self) -> None:
        """Give up the disk. Of the recordings nothing is left but the logs in the findings."""
        self._bench.close()
        self._builder.release()
        self._disk.close()


class DeepBench:
    """Judges each state, and where nothing is wrong with it, its recovery."""

    def __init__(
        self, bench: Bench, recoveries: Recoveries, states: Sequence[CrashState], checker: Checker | None
    ) -> None:
        self._bench = bench
        self._recoveries = recoveries
        self._states = states
        self._checker = checker
        self._deep: list[Deep] = []

    def judge(self, index: int) -> list[Finding]:
        """What is wrong with the first crash's disk. A recovery that cannot be recorded is UNKNOWN."""
        found = self._bench.judge(index)
        if not found:
            try:
                self._deep.append(self._recoveries.judge(self._states[index], self._checker))
            except HarnessError as error:
                return [harness_fault(error)]
        return found

    def take_deep(self) -> list[Deep]:
        """What became of the recoveries since the last call."""
        deep, self._deep = self._deep, []
        return deep


def _deep(first: CrashState, finding: Finding, both: Recording, space: StateSpace, state: CrashState) -> DeepFinding:
    return DeepFinding(
        first_cut=first.cut,
        finding=finding,
        log=bytes(both.log.view[: both.log.size]),
        begin=both.begin,
        end=both.end,
        state=ChosenState.of(state),
        lost=len(lost_atoms(space, state)),
        states=1,
    )


def joined(
    first: Recording, state: CrashState, differences: Sequence[Extent], disk: mmap.mmap, second: BlockLog
) -> Recording:
    """One recording over the first one's base: the disk that `state` left, flushed, then all that `second` tells.

    `differences`: where that disk differs from the base. Promises made before the first cut stand before the flush.
    """
    marks = list(_marks(first.log, state.cut))
    size = 4 * SECTOR + sum(length + SECTOR * (1 + length // _PIECE) for _, length in differences)
    size += sum(SECTOR * len(split_mark(text)) for text in marks) + second.size + SECTOR * len(second.events)
    buffer = bytearray(size)
    log = LogWriter(buffer)
    for offset, length in differences:
        for at in range(offset, offset + length, _PIECE):
            log.write(at, disk[at : at + min(_PIECE, offset + length - at)])
    for text in marks:
        log.mark(text)
    log.flush()
    begin = len(BlockLog.parse(buffer).events)
    _copy(second, log)
    whole = BlockLog.parse(buffer)
    return first._replace(log=whole, begin=begin, end=len(whole.events))


def _marks(log: BlockLog, cut: int) -> Iterator[bytes]:
    """Those made before the first crash. Of a plan all outcomes are told, later ones as no promise: the oracle asks."""
    plan = log.find(START) is not None
    for mark in log.marks:
        if mark.at < cut and mark.text not in (BEGIN, END):
            yield mark.text
        elif mark.at >= cut and plan and mark.text.startswith((JSON, OUTCOME)):
            yield OUTCOME + mark.text.removeprefix(JSON).removeprefix(OUTCOME)


def _copy(second: BlockLog, log: LogWriter) -> None:
    for event in second.events:
        if event.kind is Kind.WRITE:
            log.write(event.offset, second.data(event), event.fua)
        elif event.kind is Kind.DISCARD:
            log.discard(event.offset, event.length)
        elif event.kind is Kind.FLUSH:
            log.flush()

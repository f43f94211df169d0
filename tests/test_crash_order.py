"""The order in which states are chosen, what a budget buys, and that the same seed gives the same states anywhere."""

import os
import subprocess
import sys
import time
from itertools import combinations, pairwise

import pytest

from harness.blocklog import BlockLog, LogWriter
from harness.crash import CrashState, DiskBuilder, Model, StateSpace, show_count
from harness.errors import BadLog, InternalError, Misuse

BLOCK = 4096


def make_log(epochs: list[int], blocks: int = 1, promise_every: int = 0) -> BlockLog:
    """Epochs of so many writes each, every one with content and place of its own, a flush after each epoch."""
    buffer = bytearray(2048 + sum(epochs) * (blocks * BLOCK + 1024) + 512 * len(epochs))
    writer = LogWriter(buffer)
    number = 0
    for writes in epochs:
        for _ in range(writes):
            writer.write(number * blocks * BLOCK, (number + 1).to_bytes(8, "little") * (blocks * BLOCK // 8))
            number += 1
            if promise_every and number % promise_every == 0:
                writer.mark(b"promise:%d" % number)
        writer.flush()
    return BlockLog.parse(buffer)


def one_epoch(writes: int, *, model: Model = Model.SUBSET, blocks: int = 1) -> StateSpace:
    """The cuts before the flush: the epoch that it begins would only add the last disk once more."""
    return StateSpace(make_log([writes], blocks), bytes(writes * blocks * BLOCK), model=model, end=writes)


def masks(states: list[CrashState]) -> set[int]:
    return {state.kept for state in states}


def test_prefixes_come_first_then_one_dropped_one_alone_pairs_and_random() -> None:
    n = 14
    space = one_epoch(n)
    full = (1 << n) - 1
    prefixes = {(1 << j) - 1 for j in range(n + 1)}
    dropped = prefixes | {full ^ 1 << i for i in range(n)}
    alone = dropped | {1 << i for i in range(n)}
    pairs = alone | {full ^ 1 << a ^ 1 << b for a, b in combinations(range(n), 2)}
    for expected in (prefixes, dropped, alone, pairs):
        assert masks(space.states(len(expected), seed=1).states) == expected
    more = space.states(len(pairs) + 50, seed=1)
    assert masks(more.states) > pairs
    assert len(more.states) == len(pairs) + 50
    assert not more.complete
    assert masks(space.states(None, seed=1).states) == pairs


def test_a_budget_for_everything_is_a_whole_enumeration_also_beyond_the_bound() -> None:
    space = one_epoch(12)
    selection = space.states(1 << 12, seed=3)
    assert masks(selection.states) == set(range(1 << 12))
    assert selection.complete
    assert not space.states((1 << 12) - 1, seed=3).complete


def test_torn_tears_the_last_write_of_each_prefix_before_it_tears_at_random() -> None:
    n, units = 4, 5
    space = one_epoch(n, model=Model.TORN, blocks=units)
    assert space.allowed == 1 << n * units
    whole = (1 << units) - 1
    untorn = {sum(whole << w * units for w in range(n) if mask >> w & 1) for mask in range(1 << n)}
    torn = set()
    for write in range(n):
        parts = {1 << u for u in range(units)}
        parts |= {(1 << u) - 1 for u in range(1, units)}
        parts |= {whole & ~((1 << u) - 1) for u in range(1, units)}
        torn |= {(1 << write * units) - 1 | part << write * units for part in parts}
    assert masks(space.states(None, seed=0).states) == untorn | torn


def test_a_small_budget_reaches_every_part_of_a_long_log() -> None:
    log = make_log([8] * 60)
    space = StateSpace(log, bytes(8 * 60 * BLOCK))
    touched = sorted({state.epoch for state in space.states(120, seed=5).states})
    assert len(space.states(120, seed=5).states) == 120
    assert touched[0] <= 1
    assert touched[-1] >= 58
    assert max(b - a for a, b in pairwise(touched)) <= 2


def test_another_seed_gives_another_sample() -> None:
    space = StateSpace(make_log([30] * 10), bytes(300 * BLOCK))
    assert space.states(50, seed=1) == space.states(50, seed=1)
    assert space.states(50, seed=1).states != space.states(50, seed=2).states


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_crash_order import BLOCK, make_log
from harness.crash import Model, StateSpace
log = make_log([25, 3, 14], blocks=2, promise_every=4)
for model in Model:
    for state in StateSpace(log, bytes(84 * BLOCK), model=model).states(900, 11).states:
        print(*state)
"""


def test_the_same_states_in_every_process() -> None:
    here = os.path.dirname(__file__)
    path = os.path.dirname(here)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, here],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) > 1800


def test_a_search_among_equal_disks_ends() -> None:
    buffer = bytearray(1 << 20)
    writer = LogWriter(buffer)
    for _ in range(200):
        writer.write(0, bytes(BLOCK))
    selection = StateSpace(BlockLog.parse(buffer), bytes(BLOCK)).states(10, seed=0)
    assert selection.candidates < 11_000
    assert [state.name for state in selection.states] == ["0" * 32]
    assert not selection.complete


def test_a_long_log_is_sampled_in_seconds() -> None:
    log = make_log([20] * 5000, promise_every=10)
    base = bytes(100_000 * BLOCK)
    began = time.process_time()
    assert len(StateSpace(log, base).states(1000, seed=0).states) == 1000
    assert time.process_time() - began < 15  # seen: 1 s


def test_promises_in_mid_epoch_are_demanded_only_after_the_cut_that_follows_them() -> None:
    buffer = bytearray(1 << 16)
    writer = LogWriter(buffer)
    writer.write(0, b"a" * BLOCK)
    writer.mark(b"promise:1")
    writer.write(BLOCK, b"b" * BLOCK)
    selection = StateSpace(BlockLog.parse(buffer), bytes(2 * BLOCK)).states(100, seed=0)
    pairs = {(state.kept, state.promises) for state in selection.states}
    assert pairs == {(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (3, 1)}
    assert selection.complete


def test_holes_of_the_base_are_never_read() -> None:
    buffer = bytearray(1 << 16)
    writer = LogWriter(buffer)
    writer.write(2 * BLOCK, b"hole" * (BLOCK // 4))
    writer.discard(0, 4 * BLOCK)
    log = BlockLog.parse(buffer)
    # The buffer lies: were a hole read, these bytes would show.
    lying = b"data" * (BLOCK // 4) + b"hole" * (BLOCK // 4) * 3
    honest = lying[:BLOCK] + bytes(3 * BLOCK)
    expected = StateSpace(log, honest).states(100, seed=0)
    space = StateSpace(log, lying, base_data=[(0, 100)])
    assert space.states(100, seed=0) == expected
    image = bytearray(honest)
    builder = DiskBuilder(space, image)
    assert builder.build(CrashState(0, 2, 1, 0, "")) == [(2 * BLOCK, BLOCK)]
    assert builder.build(CrashState(0, 2, 3, 0, "")) == [(0, BLOCK), (2 * BLOCK, BLOCK)]
    assert image == bytes(4 * BLOCK)
    assert builder.build(CrashState(0, 2, 0, 0, "")) == [(0, BLOCK)]
    assert image == honest


def test_names_do_not_depend_on_the_model_or_the_unit() -> None:
    buffer = bytearray(1 << 16)
    writer = LogWriter(buffer)
    writer.write(512, b"a" * 1024)
    writer.write(1024, b"b" * BLOCK)
    log = BlockLog.parse(buffer)
    named = [
        {state.name for state in StateSpace(log, bytes(2 * BLOCK), model=model, unit=unit).states(10**4, 0).states}
        for model, unit in ((Model.PREFIX, 4096), (Model.SUBSET, 4096), (Model.TORN, 4096), (Model.TORN, 512))
    ]
    assert named[0] < named[1] < named[2] < named[3]


def test_a_builder_never_goes_back() -> None:
    space = StateSpace(make_log([1, 1]), bytes(2 * BLOCK))
    builder = DiskBuilder(space, bytearray(2 * BLOCK))
    builder.build(CrashState(1, 3, 0, 0, ""))
    with pytest.raises(InternalError, match="went back"):
        builder.build(CrashState(0, 0, 0, 0, ""))
    with pytest.raises(InternalError, match="for a volume of"):
        DiskBuilder(space, bytearray(BLOCK))


def test_a_log_that_does_not_fit_the_volume_is_refused() -> None:
    with pytest.raises(BadLog, match="event 1 of the log touches bytes 4096 to 8192 of a volume of 8191"):
        StateSpace(make_log([2]), bytes(2 * BLOCK - 1))


@pytest.mark.parametrize("sizes", [{"unit": 0}, {"unit": 1000}, {"sector": 256}, {"sector": -512}])
def test_sizes_that_make_no_sense_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(Misuse, match="is not a possible size"):
        StateSpace(make_log([1]), bytes(BLOCK), **sizes)  # type: ignore[arg-type]


def test_enormous_counts_are_shown_short() -> None:
    assert show_count(127) == "127"
    assert show_count(1 << 100_000) == "about 2^100000"
    assert one_epoch(5000).allowed == 1 << 5000

"""The enumeration: as many sequences as published, each with a name of its own, each able to run."""

import errno
import itertools
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from harness.errors import Misuse
from harness.plan.dependencies import Workload
from harness.plan.enumeration import (
    OPS_MAX,
    PUBLISHED,
    PUBLISHED_BY_COUNTING,
    RENAMES_THAT_FAIL,
    Bounds,
    Sequence,
    _skeletons,
    differences,
    sequences,
    shard,
    total,
)
from harness.plan.interpreter import run_plan
from harness.plan.operations import Creat, Fallocate, Fsync, Mkdir, Operation, Rename, Symlink, Sync, Write, persists
from harness.plan.plan import Outcome, Plan, check_paths, from_json

ALL_BOUNDS = list(itertools.product((False, True), repeat=2))


def sample(ops: int, nested: bool, wide: bool, about: int) -> Iterator[Sequence]:
    """Sequences spread evenly over all (of length 3: over the first), from the same place each time."""
    step = max(1, total(ops, nested, wide=wide) // about) if ops < OPS_MAX else 4001
    start = random.Random(f"{ops} {nested} {wide}").randint(1, step)
    return itertools.islice(sequences(ops, nested, wide=wide, part=(start, step)), about)


@pytest.mark.parametrize(("ops", "count"), PUBLISHED.items())
def test_there_are_as_many_sequences_as_published(ops: int, count: int) -> None:
    assert total(ops) == count


@pytest.mark.parametrize("ops", [1, 2, 3])
def test_the_differences_add_up(ops: int) -> None:
    numbers = [int(sentence.partition(":")[0]) for sentence in differences(ops)]
    assert numbers
    assert PUBLISHED_BY_COUNTING[ops] + sum(numbers) == total(ops)
    assert all(re.match(r"[+-]\d+: \w", sentence) for sentence in differences(ops))


def test_repeats_of_the_published_count_are_those_after_an_mmap_write() -> None:
    """Its mmap writes have no persistence point written down: all of ours but one of each would be the same there."""
    for ops in (1, 2):
        seen = {_without_points_after_mmap(sequence) for sequence in _skeletons_with_mmap(ops)}
        repeats = sum(1 for _ in _skeletons_with_mmap(ops)) - len(seen)
        assert differences(ops)[0].startswith(f"-{repeats}:")


def _skeletons_with_mmap(ops: int) -> Iterator[tuple[str, ...]]:
    for choices, points in _skeletons(ops, Bounds()):
        if any(choice.kind == "mmap-write" for choice in choices):
            yield tuple(map(str, itertools.chain(*zip(choices, points, strict=True))))


def _without_points_after_mmap(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for n, word in enumerate(words) if n % 2 == 0 or "mmap-write" not in words[n - 1])


@pytest.mark.parametrize(("nested", "wide"), ALL_BOUNDS)
@pytest.mark.parametrize("ops", [1, 2])
def test_total_counts_what_is_generated(ops: int, nested: bool, wide: bool) -> None:
    if ops == 1 or not (nested or wide):
        assert total(ops, nested, wide=wide) == sum(1 for _ in _skeletons(ops, Bounds(nested, wide)))


@pytest.mark.parametrize(("nested", "wide"), ALL_BOUNDS)
def test_ids_are_unique(nested: bool, wide: bool) -> None:
    of_one = list(sequences(1, nested, wide=wide))
    of_two = list(sample(2, nested, wide, 3000))
    ids = {sequence.id for sequence in of_one + of_two}
    assert len(ids) == len(of_one) + len(of_two)


def test_ids_do_not_depend_on_the_order_of_hashes() -> None:
    program = (
        "from harness.plan.enumeration import sequences\n"
        "for ops, step in ((1, 1), (2, 997)):\n"
        "    for s in sequences(ops, True, wide=True, part=(1, step)): print(s.number, s.id, s.text, s.plan.id)"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert told[0].count("\n") > 3000


def test_a_known_sequence_keeps_its_id() -> None:
    """Reports name sequences by it: an id that changes cuts them off from what they were about."""
    (known,) = (each for each in sequences(1) if each.text == "rename foo -> A/bar; fsync A")
    assert (known.number, known.id) == (261, "d19b2c00bed6f9db")
    assert known.plan.operations == (
        Creat(path="foo"),
        Mkdir(path="A"),
        Rename(path="foo", new="A/bar"),
        Fsync(path="A"),
    )


def test_shards_are_a_partition() -> None:
    whole = [sequence.id for sequence in sequences(1)]
    for n in (1, 2, 3, 7, 400):
        parts = [[sequence.id for sequence in sequences(1, part=(i, n))] for i in range(1, n + 1)]
        assert sorted(itertools.chain(*parts)) == sorted(whole)
        assert [list(shard(whole, i, n)) for i in range(1, n + 1)] == parts
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", [(0, 3), (4, 3), (1, 0), (-1, 2)])
def test_a_shard_that_does_not_exist_is_refused(part: tuple[int, int]) -> None:
    with pytest.raises(Misuse, match="no shard"):
        sequences(1, part=part)


@pytest.mark.parametrize("ops", [0, 4, -1])
def test_lengths_outside_the_bounds_are_refused(ops: int) -> None:
    for call in (sequences, total, differences):
        with pytest.raises(Misuse, match="outside the bounds"):
            call(ops)


def test_sequences_are_numbered_in_order() -> None:
    assert [sequence.number for sequence in sequences(1)] == list(range(328))
    assert [sequence.number for sequence in itertools.islice(sequences(2, part=(3, 10)), 3)] == [2, 12, 22]


@pytest.mark.parametrize(("nested", "wide"), ALL_BOUNDS)
@pytest.mark.parametrize("ops", [1, 2, 3])
def test_every_sequence_is_what_it_says(ops: int, nested: bool, wide: bool) -> None:
    for sequence in sample(ops, nested, wide, 300):
        check_paths(sequence.plan)
        assert from_json(sequence.plan.to_json()) == sequence.plan
        assert not sequence.plan.setup
        assert len(sequence.core) == ops
        told = sequence.text.split("; ")
        assert [word for word in told if word in map(str, sequence.core)] == list(map(str, sequence.core))
        assert persists(sequence.plan.operations[-1]), "nothing after the last"
        done = iter(map(str, sequence.plan.operations))
        assert all(word in done for word in told), "the plan does them in this order"


def test_direct_writes_are_aligned() -> None:
    writes = [
        operation
        for sequence in sample(2, False, False, 5000)
        for operation in sequence.core
        if isinstance(operation, Write) and operation.how == "direct"
    ]
    assert writes
    assert all(write.offset % 4096 == write.length % 4096 == 0 for write in writes)


@pytest.mark.parametrize(("nested", "wide"), ALL_BOUNDS)
@pytest.mark.parametrize(("ops", "about"), [(1, 1000), (2, 400), (3, 200)])
def test_no_operation_fails_for_want_of_what_it_needs(
    ops: int, about: int, nested: bool, wide: bool, tmp_path: Path
) -> None:
    seen = 0
    for sequence in sequences(1, nested, wide=wide) if ops == 1 else sample(ops, nested, wide, about):
        volume = tmp_path / str(seen)
        volume.mkdir()
        for operation, outcome in run_quickly(sequence.plan, volume):
            assert outcome.ok or may_fail(operation, outcome.errno, sequence), f"{sequence.text}: {outcome}"
        seen += 1
    assert seen >= min(about, 328) // 2


def run_quickly(plan: Plan, volume: Path) -> Iterable[tuple[Operation, Outcome]]:
    """On a directory of this machine. Without sync(2): it would wait for every other file system as well."""
    plan = Plan(operations=tuple(each for each in plan.operations if not isinstance(each, Sync)))
    return zip(plan.operations, run_plan(plan, str(volume), lambda _: None), strict=True)


def may_fail(operation: Operation, number: int, sequence: Sequence) -> bool:
    if operation in RENAMES_THAT_FAIL:
        return number == errno.EINVAL
    if number == errno.EOPNOTSUPP:
        return isinstance(operation, Fallocate)  # of this directory's file system
    # Within the wide bounds: a symbolic link that was renamed, and is then to be opened.
    return number == errno.ELOOP and any(isinstance(each, Symlink) for each in sequence.core)


def test_a_missing_dependency_would_be_noticed(tmp_path: Path) -> None:
    (sequence,) = (each for each in sequences(1) if each.text == "rename foo -> A/bar; fsync A")
    bare = Plan(operations=sequence.plan.operations[1:])
    assert not all(outcome.ok for _, outcome in run_quickly(bare, tmp_path))


def test_a_directory_is_emptied_before_it_is_made_again(tmp_path: Path) -> None:
    workload = Workload()
    for path in ("A/C/foo", "A/bar"):
        workload.add(Creat(path=path))
    workload.add(Mkdir(path="A"))
    assert list(map(str, workload.operations[4:])) == [
        "unlink A/bar",
        "unlink A/C/foo",
        "rmdir A/C",
        "rmdir A",
        "mkdir A",
    ]
    assert all(outcome.ok for _, outcome in run_quickly(Plan(operations=tuple(workload.operations)), tmp_path))

"""The engine's protocol with a fault at every place, and at every two: nothing acknowledged is ever forgotten."""

import random

import pytest
from replicated_model import Fault, explored, run

_SAMPLED = 400
_FAULTS_MAX = 5


def test_no_two_faults_make_the_engine_forget_what_it_acknowledged() -> None:
    runs = 0
    for faults, world in explored("fixed", 2):
        runs += 1
        assert not world.problems, (faults, world.problems)
    assert runs > 5000


def test_many_faults_do_not_either() -> None:
    drawn = random.Random(20261129)
    events = len(run("fixed", {}).events)
    kinds: tuple[Fault, ...] = ("lost", "answer-lost", "crash", "intrude")
    for _ in range(_SAMPLED):
        faults = {drawn.randrange(events): drawn.choice(kinds) for _ in range(drawn.randint(3, _FAULTS_MAX))}
        world = run("fixed", faults)
        assert not world.problems, (faults, world.problems)


def test_without_faults_everything_is_written_and_read() -> None:
    world = run("fixed", {})
    assert world.acked == world.issued == 4
    assert not any(disk.state.dirty for disk in world.disks.values())


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("salvage-picks-first", "in sync of"),
        ("no-fencing", "reads gave"),
        ("ack-before-all-replicas", "in sync of"),
        ("rejoin-without-rebuild", "in sync after a start"),
    ],
)
def test_one_fault_is_enough_for_each_variant(variant: str, said: str) -> None:
    found = [problem for _, world in explored(variant, 1) for problem in world.problems]
    assert any(said in problem for problem in found)

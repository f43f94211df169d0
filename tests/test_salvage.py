"""salvage.choose: the tables, and every small history of a volume whose members came and went."""

import itertools
from collections.abc import Iterator

import msgspec
import pytest

from fixtures.systems.replicated_volume.salvage import Choice, Refused, choose

NAMES = ("a", "b", "c")


class Told(msgspec.Struct, frozen=True):
    """What one replica says of itself."""

    epoch: int
    members: tuple[str, ...]
    counter: int = 10
    dirty: bool = True
    mode: str = "RW"


def told(epoch: int, members: str, counter: int = 10, mode: str = "RW", *, dirty: bool = True) -> Told:
    return Told(epoch, tuple(members), counter, dirty, mode)


ALIKE = told(1, "abc")
OUT = told(1, "abc", 99)
LEFT = told(2, "ab")

CHOSEN = {
    "all-alike": ((ALIKE, ALIKE, ALIKE), "a", "abc"),
    "highest-counter-is-the-source": ((ALIKE, told(1, "abc", 11), ALIKE), "b", "abc"),
    "who-was-left-out-is-behind-whatever-its-counter": ((LEFT, LEFT, OUT), "a", "ab"),
    "who-was-left-out-need-not-be-there": ((LEFT, LEFT, None), "a", "ab"),
    "only-one-had-heard-of-the-new-epoch": ((LEFT, ALIKE, OUT), "a", "ab"),
    "one-went-on-alone": ((told(3, "a", 1), told(2, "ab", 50), OUT), "a", "a"),
    "a-failed-one-is-behind": ((ALIKE, told(1, "abc", 12, "ERR"), ALIKE), "a", "ac"),
    "all-failed": ((told(1, "abc", 1, "ERR"), told(1, "abc", 2, "ERR"), told(1, "abc", 1, "ERR")), "b", "abc"),
    "half-rebuilt-is-behind": ((LEFT, LEFT, told(9, "abc", 99, "WO")), "a", "ab"),
    "left-out-and-opened-again": ((LEFT, LEFT, told(2, "abc", 99)), "a", "ab"),
    "opened-while-the-old-engine-left-it-out": ((told(9, "abc", 5), told(2, "bc", 6), told(2, "bc", 6)), "b", "bc"),
}


@pytest.mark.parametrize(("states", "source", "in_sync"), CHOSEN.values(), ids=CHOSEN)
def test_choices(states: tuple[Told | None, ...], source: str, in_sync: str) -> None:
    choice = choose(dict(zip(NAMES, states, strict=True)), "fixed")
    assert isinstance(choice, Choice), choice
    assert (choice.source, choice.in_sync) == (source, tuple(in_sync))
    assert choice.behind == tuple(n for n, s in zip(NAMES, states, strict=True) if s and n not in in_sync)
    assert choice.epoch == max(state.epoch for state in states if state)


REFUSED = {
    "nobody": ((None, None, None), "no replica can be asked"),
    "a-member-is-missing": ((ALIKE, None, ALIKE), "epoch 1 names b, which cannot be asked"),
    "only-the-stale-one": ((None, None, OUT), "names a, b"),
    "half-rebuilt-ones-only": ((told(3, "a", mode="WO"), None, None), "is whole"),
    "each-says-the-other-is-out": ((told(2, "b"), told(2, "a"), None), "is whole"),
}


@pytest.mark.parametrize(("states", "why"), REFUSED.values(), ids=REFUSED)
def test_refusals(states: tuple[Told | None, ...], why: str) -> None:
    refused = choose(dict(zip(NAMES, states, strict=True)), "fixed")
    assert isinstance(refused, Refused)
    assert why in refused.why


@pytest.mark.parametrize(
    ("states", "equal"),
    [
        ((told(1, "ab", dirty=False), told(1, "ab", dirty=False)), True),
        ((told(1, "ab", 1, dirty=False), told(1, "ab", 2, dirty=False)), False),
        ((told(1, "ab", dirty=False), told(1, "ab")), False),
    ],
)
def test_only_those_that_were_closed_clean_and_count_alike_are_equal(states: tuple[Told, ...], equal: bool) -> None:
    choice = choose(dict(zip("ab", states, strict=True)), "fixed")
    assert isinstance(choice, Choice) and choice.equal is equal


def histories(length: int) -> Iterator[dict[str, Told]]:
    """Every volume that `length` epochs may leave: in each, some members fail, and the rest go on and write.

    A counter never falls; one that was left out may have counted writes that nobody acknowledged, up to 2.
    """
    for steps in itertools.product(range(len(NAMES) + 1), repeat=length):
        for extra in itertools.product((0, 2), repeat=len(NAMES)):
            members: tuple[str, ...] = NAMES
            states = dict.fromkeys(NAMES, Told(1, NAMES, 1))
            for epoch, step in enumerate(steps, 2):
                left = tuple(name for at, name in enumerate(NAMES) if at != step and name in members)
                if left:
                    members = left
                    states |= {name: Told(epoch, members, epoch) for name in members}
            yield {
                name: msgspec.structs.replace(state, counter=state.counter + more)
                for (name, state), more in zip(states.items(), extra, strict=True)
            }


def wrong_choices(variant: str) -> tuple[int, int]:
    """How often somebody was chosen, and how often somebody who lacks acknowledged writes was."""
    chosen = wrong = 0
    for states in histories(3):
        last = max(states.values(), key=lambda state: state.epoch).members
        for present in itertools.product((True, False), repeat=len(NAMES)):
            choice = choose({n: s if p else None for (n, s), p in zip(states.items(), present, strict=True)}, variant)
            if isinstance(choice, Choice):
                chosen += 1
                wrong += not set(choice.in_sync) <= set(last)
    return chosen, wrong


def test_in_every_small_history_only_those_are_chosen_that_have_everything() -> None:
    chosen, wrong = wrong_choices("fixed")
    assert chosen > 500 and not wrong


def test_the_first_that_can_be_asked_is_often_the_wrong_one() -> None:
    _, wrong = wrong_choices("salvage-picks-first")
    assert wrong > 100

"""Cuts right after each promise: each state is one that the model subset allows, and it holds what was flushed."""

from hypothesis import given
from hypothesis import strategies as st

from harness.blocklog import BlockLog, Kind, LogWriter
from harness.crash import DiskBuilder, StateSpace

SECTOR = 512
BLOCKS = 4
Event = tuple[str, int]

events = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, BLOCKS - 1)),
        st.tuples(st.just("fua"), st.integers(0, BLOCKS - 1)),
        st.just(("flush", 0)),
        st.just(("promise", 0)),
    ),
    max_size=14,
)


def log_of(told: list[Event]) -> BlockLog:
    buffer = bytearray(1 << 16)
    writer = LogWriter(buffer)
    for number, (kind, block) in enumerate(told, 1):
        if kind == "flush":
            writer.flush()
        elif kind == "promise":
            writer.mark(b"promise:%d" % number)
        else:
            writer.write(block * SECTOR, bytes([number]) * SECTOR, kind == "fua")
    return BlockLog.parse(buffer)


def wanted(told: list[Event]) -> set[tuple[int, bytes]]:
    """By brute force: for each promise, the disk with nothing unflushed, and the one with everything."""
    found = set()
    promises = 0
    for at, (kind, _) in enumerate(told):
        if kind == "promise":
            promises += 1
            flushed = max((n for n in range(at) if told[n][0] == "flush"), default=-1)
            for everything in (False, True):
                disk = bytearray(SECTOR * BLOCKS)
                for number, (what, block) in enumerate(told[:at], 1):
                    if what in ("write", "fua") and (number - 1 < flushed or everything or what == "fua"):
                        disk[block * SECTOR : (block + 1) * SECTOR] = bytes([number]) * SECTOR
                found.add((promises, bytes(disk)))
    return found


def space_of(log: BlockLog, begin: int = 0) -> StateSpace:
    return StateSpace(log, bytes(SECTOR * BLOCKS), unit=SECTOR, sector=SECTOR, begin=begin)


@given(events)
def test_they_are_those_of_a_brute_force_reference(told: list[Event]) -> None:
    log = log_of(told)
    space = space_of(log)
    image = bytearray(SECTOR * BLOCKS)
    builder = DiskBuilder(space, image)
    built = set()
    for state in space.after_promises().states:
        builder.build(state)
        built.add((state.promises, bytes(image)))
        assert state.promises == len(log.promises(state.cut))
        assert space.named(state) == state
    assert built == wanted(told)


@given(events)
def test_none_is_complete_and_none_lies_before_the_first_cut(told: list[Event]) -> None:
    log = log_of(told)
    middle = len(log.events) // 2
    selection = space_of(log, begin=middle).after_promises()
    assert not selection.complete
    assert all(state.cut > middle for state in selection.states)


@given(events)
def test_a_builder_that_is_reset_leaves_the_base(told: list[Event]) -> None:
    """Whatever was built, and the differences that it names are where the image differs from the base."""
    log = log_of(told)
    space = space_of(log)
    base = bytes(range(256)) * (SECTOR * BLOCKS // 256)
    space = StateSpace(log, base, unit=SECTOR, sector=SECTOR)
    image = bytearray(base)
    builder = DiskBuilder(space, image)
    for state in space.states(20, 0).states:
        builder.build(state)
        inside = {byte for at, length in builder.differences() for byte in range(at, at + length)}
        assert all(at in inside for at in range(len(base)) if image[at] != base[at])
    builder.reset()
    assert image == base
    assert sum(event.kind is Kind.MARK for event in log.events) == len(log.promises())

"""The enumeration equals the law of docs/crash-model.md, spelled out cut by cut with no cleverness, on tiny logs."""

from collections.abc import Iterator
from itertools import combinations
from random import Random
from typing import NamedTuple

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from harness.blocklog import BlockLog, LogWriter
from harness.crash import CrashState, DiskBuilder, Model, StateSpace

S = 512
BIG = 10**6


class Op(NamedTuple):
    kind: str
    sector: int = 0
    text: bytes = b""  # of a write: one byte a sector; of a discard: its length counts
    fua: bool = False


class Case(NamedTuple):
    ops: list[Op]
    base: bytes
    unit: int
    sector: int
    begin: int
    end: int


def to_log(ops: list[Op]) -> BlockLog:
    buffer = bytearray(S * 4 * (len(ops) + 1))
    writer = LogWriter(buffer)
    for op in ops:
        if op.kind == "write":
            writer.write(op.sector * S, fill(op.text), op.fua)
        elif op.kind == "discard":
            writer.discard(op.sector * S, len(op.text) * S)
        elif op.kind == "flush":
            writer.flush()
        else:
            writer.mark(b"promise:p" if op.kind == "promise" else b"op:o")
    return BlockLog.parse(buffer)


def fill(text: bytes) -> bytes:
    return b"".join(bytes([letter]) * S for letter in text)


def powerset(items: list[int]) -> Iterator[set[int]]:
    for size in range(len(items) + 1):
        for chosen in combinations(items, size):
            yield set(chosen)


def pieces(ops: list[Op], lost_from: int, cut: int, unit: int | None) -> list[tuple[int, int, bytes, bool]]:
    """U at the cut: (op, first byte, content, is FUA) of each thing that is persisted wholly or not at all."""
    found = []
    for at in range(lost_from, cut):
        op = ops[at]
        if op.kind == "discard":
            found.append((at, op.sector * S, bytes(len(op.text) * S), False))
        elif op.kind != "write":
            continue
        elif unit is None:
            found.append((at, op.sector * S, fill(op.text), op.fua))
        else:
            by_unit: dict[int, bytes] = {}
            for i, letter in enumerate(op.text):
                number = (op.sector + i) * S // unit
                by_unit[number] = by_unit.get(number, b"") + bytes([letter]) * S
            for number, content in by_unit.items():
                found.append((at, max(op.sector * S, number * unit), content, op.fua))
    return found


def legal_choices(model: Model, fua: list[int], count: int) -> Iterator[set[int]]:
    if model is Model.FLUSHED:
        yield set(fua)
    elif model is Model.PREFIX:
        for j in range(count + 1):
            if all(must < j for must in fua):
                yield set(range(j))
    else:
        free = [i for i in range(count) if i not in fua]
        for chosen in powerset(free):
            yield chosen | set(fua)


class Legal(NamedTuple):
    flushed_upto: int
    promises: int
    kept: frozenset[int]
    disk: bytes


def law(case: Case, model: Model) -> Iterator[Legal]:
    """Every disk that the law allows at every cut, with the promises that stand before the cut."""
    for cut in range(case.begin, case.end + 1):
        flushes = [at for at in range(cut) if case.ops[at].kind == "flush"]
        lost_from = flushes[-1] + 1 if flushes else 0
        promises = sum(op.kind == "promise" for op in case.ops[:cut])
        durable = bytearray(case.base)
        for _, start, content, _ in pieces(case.ops, 0, lost_from, None):
            durable[start : start + len(content)] = content
        unflushed = pieces(case.ops, lost_from, cut, case.unit if model is Model.TORN else None)
        fua = [i for i, piece in enumerate(unflushed) if piece[3]]
        for kept in legal_choices(model, fua, len(unflushed)):
            disk = bytearray(durable)
            for i in sorted(kept):
                _, start, content, _ = unflushed[i]
                disk[start : start + len(content)] = content
            yield Legal(lost_from, promises, frozenset(kept), bytes(disk))


def cost(case: Case, model: Model) -> int:
    worst = 0
    for cut in range(case.end + 1):
        flushes = [at for at in range(cut) if case.ops[at].kind == "flush"]
        lost_from = flushes[-1] + 1 if flushes else 0
        worst = max(worst, len(pieces(case.ops, lost_from, cut, case.unit if model is Model.TORN else None)))
    return worst


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sectors = draw(st.sampled_from([4, 6, 5]))
    letter = st.sampled_from(b"\x00ab")

    @st.composite
    def data_op(draw: st.DrawFn, kind: str) -> Op:
        first = draw(st.integers(0, sectors - 1))
        length = draw(st.integers(1, min(3, sectors - first)))
        text = bytes(draw(letter) for _ in range(length))
        return Op(kind, first, text, kind == "write" and draw(st.integers(0, 4)) == 0)

    op = st.one_of(
        data_op("write"),
        data_op("write"),
        data_op("write"),
        data_op("discard"),
        st.just(Op("flush")),
        st.sampled_from([Op("promise"), Op("mark")]),
    )
    ops = draw(st.lists(op, max_size=8))
    base = b"".join(bytes([draw(letter)]) * S for _ in range(sectors))
    end = draw(st.one_of(st.just(len(ops)), st.integers(0, len(ops))))
    begin = draw(st.one_of(st.just(0), st.integers(0, end)))
    unit, sector = draw(st.sampled_from([512, 1024])), draw(st.sampled_from([512, 1024, 4096]))
    return Case(ops, base, unit, sector, begin, end)


def space_of(case: Case, model: Model, bound: int = 10) -> StateSpace:
    return StateSpace(
        to_log(case.ops),
        case.base,
        model=model,
        unit=case.unit,
        sector=case.sector,
        bound=bound,
        begin=case.begin,
        end=case.end,
    )


def changed_bytes(before: bytes, after: bytes) -> set[int]:
    return {i // S for i in range(0, len(before), S) if before[i : i + S] != after[i : i + S]}


def build_all(space: StateSpace, case: Case, states: list[CrashState]) -> list[bytes]:
    """The disk of each state; checks on the way what the builder says of the extents."""
    image = bytearray(case.base)
    builder = DiskBuilder(space, image)
    disks = []
    for state in states:
        before = bytes(image)
        extents = builder.build(state)
        ends = [offset + length for offset, length in extents]
        assert all(end < offset for end, (offset, _) in zip(ends, extents[1:], strict=False))
        assert all(offset % case.sector == 0 and length > 0 for offset, length in extents)
        assert all(end % case.sector == 0 or end == len(image) for end in ends)
        told = {number for offset, length in extents for number in range(offset // S, (offset + length) // S)}
        footprint = {n for offset, length in builder.footprint for n in range(offset // S, (offset + length) // S)}
        assert changed_bytes(before, bytes(image)) <= told <= footprint
        disks.append(bytes(image))
    return disks


def check_names(states: list[CrashState], disks: list[bytes], base: bytes) -> None:
    by_name: dict[str, bytes] = {}
    for state, disk in zip(states, disks, strict=True):
        assert by_name.setdefault(state.name, disk) == disk
        assert (state.name == "0" * 32) == (disk == base)
        assert len(state.name) == 32
    assert len(set(by_name.values())) == len(by_name)


def check_whole(case: Case, model: Model, bound: int) -> None:
    assume(cost(case, model) <= 9)
    legal = list(law(case, model))
    space = space_of(case, model, bound)
    selection = space.states(BIG, 0)
    disks = build_all(space, case, selection.states)
    found = [(disk, state.promises) for disk, state in zip(disks, selection.states, strict=True)]
    assert set(found) == {(state.disk, state.promises) for state in legal}
    assert len(found) == len(set(found))
    assert selection.complete
    assert space.allowed == selection.candidates == len({state[:3] for state in legal})
    assert selection.states == sorted(selection.states)
    assert all(case.begin <= state.cut <= case.end for state in selection.states)
    check_names(selection.states, disks, case.base)


many = settings(
    max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@many
@given(cases())
def test_flushed_is_the_law(case: Case) -> None:
    check_whole(case, Model.FLUSHED, 10)


@many
@given(cases())
def test_prefix_is_the_law(case: Case) -> None:
    check_whole(case, Model.PREFIX, 10)


@many
@given(cases(), st.sampled_from([10, 1]))
def test_subset_is_the_law(case: Case, bound: int) -> None:
    check_whole(case, Model.SUBSET, bound)


@many
@given(cases(), st.sampled_from([10, 1]))
def test_torn_is_the_law(case: Case, bound: int) -> None:
    check_whole(case, Model.TORN, bound)


@many
@given(
    cases(),
    st.sampled_from(list(Model)),
    st.one_of(st.none(), st.integers(0, 40)),
    st.integers(0, 4),
    st.integers(0, 99),
)
def test_a_sample_stays_within_the_law(case: Case, model: Model, budget: int | None, bound: int, seed: int) -> None:
    assume(cost(case, model) <= 9)
    legal = {(state.disk, state.promises) for state in law(case, model)}
    space = space_of(case, model, bound)
    selection = space.states(budget, seed)
    disks = build_all(space, case, selection.states)
    found = [(disk, state.promises) for disk, state in zip(disks, selection.states, strict=True)]
    assert set(found) <= legal
    assert len(set(found)) == len(found)
    assert budget is None or len(found) <= budget
    if selection.complete:
        assert set(found) == legal
    check_names(selection.states, disks, case.base)
    assert space_of(case, model, bound).states(budget, seed) == selection


@many
@given(cases(), st.sampled_from([Model.SUBSET, Model.TORN]), st.randoms(use_true_random=False))
def test_a_builder_makes_any_walk_forward(case: Case, model: Model, rng: Random) -> None:
    space = space_of(case, model)
    picked = []
    for epoch in sorted(rng.choices(space.epochs, k=8), key=lambda epoch: epoch.index):
        kept = rng.getrandbits(len(epoch.atoms)) if epoch.atoms else 0
        picked.append(CrashState(epoch.index, epoch.stop, kept, 0, ""))
    for state, disk in zip(picked, build_all(space, case, picked), strict=True):
        epoch = space.epochs[state.epoch]
        expected = bytearray(case.base)
        for _, start, content, _ in pieces(case.ops, 0, epoch.start, None):
            expected[start : start + len(content)] = content
        unit = case.unit if model is Model.TORN else None
        for i, (_, start, content, _) in enumerate(pieces(case.ops, epoch.start, epoch.stop, unit)):
            if state.kept >> i & 1:
                expected[start : start + len(content)] = content
        assert disk == bytes(expected)

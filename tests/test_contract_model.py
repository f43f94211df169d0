"""What may be found after which persistence call: small plans, properties, and the page that tells it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.blocklog import Promise
from harness.blocklog.format import JSON
from harness.machine.image import Image
from harness.oracle.checks import RecoveredState
from harness.oracle.contracts import CONTRACTS, RULES, contract_named
from harness.oracle.expectation import Expectation
from harness.oracle.history import NOTHING, ROOT, SECTOR, ZEROS, Content, History, Name
from harness.oracle.plan_check import PlanCheck
from harness.plan import operations as op
from harness.plan.interpreter import run_plan
from harness.plan.operations import Operation
from harness.plan.payload import payload
from harness.plan.plan import Outcome, Plan
from harness.plan.strategies import plans
from harness.settings import Settings
from harness.verdict import FindingKind
from harness.volume import VolumeSpec, make_base, mounted_plain

PAGE = Path(__file__).parent.parent / "docs/contracts.md"
SPEC = VolumeSpec.of(Settings(fs="ext4", size=16 << 20))

FOO, BAR = 12, 13
FOO_NAME: Name = (ROOT, "foo")
BAR_NAME: Name = (ROOT, "bar")
IN_A: Name = (20, "foo")

Step = tuple[Operation, dict[str, Any]]


def creat(path: str = "foo", inode: int = FOO) -> Step:
    return op.Creat(path=path), {"inode": inode}


def mkdir(path: str, inode: int) -> Step:
    return op.Mkdir(path=path), {"inode": inode}


def write(offset: int, length: int, size: int, how: op.How = "write") -> Step:
    """To foo, which it leaves with that size."""
    done = {"inode": FOO, "value": length, "size": size}
    return op.Write(path="foo", offset=offset, length=length, how=how), done


def does(operation: Operation, **outcome: Any) -> Step:
    return operation, outcome


def fsync(path: str = "foo") -> Step:
    return does(op.Fsync(path=path))


def expected(*steps: Step, contract: str = "linux", points: int = 99, setup: int = 0) -> Expectation:
    """What may be found after these steps, when so many (or all) of the persistence calls had returned."""
    operations = tuple(operation for operation, _ in steps)
    plan = Plan(setup=operations[:setup], operations=operations[setup:])
    outcomes = [Outcome(n=n, **fields) for n, (_, fields) in enumerate(steps)]
    made = sum(
        1 for (operation, _), outcome in zip(steps, outcomes, strict=True) if outcome.ok and op.persists(operation)
    )
    return PlanCheck(plan, outcomes, contract).expected(min(points, made))


def sizes(found: Expectation) -> set[int]:
    return set(found.sizes(found.life(FOO, FOO_NAME)).exact)


def allows(found: Expectation, size: int) -> bool:
    return found.sizes(found.life(FOO, FOO_NAME)).allow(size)


def sector(found: Expectation, number: int) -> frozenset[bytes]:
    return found.sector_values(found.life(FOO, FOO_NAME), number)


def names(found: Expectation, inode: int = FOO) -> set[frozenset[Name]]:
    return set(found.name_sets(inode))


ATTRIBUTES = (
    does(op.Chmod(path="foo", mode=0o600)),
    does(op.SetXattr(path="foo")),
    does(op.Utimens(path="foo", seconds=5)),
)

# Behind creat, write and the attributes: the call; whether data, attributes, name are owed by posix; then by linux.
CALLS = {
    "nothing": (does(op.SyncFileRange(path="foo", length=512)), (False, False, False), (False, False, False)),
    "fsync": (fsync(), (True, True, False), (True, True, True)),
    "fdatasync": (does(op.Fdatasync(path="foo")), (True, False, False), (True, False, False)),
    "msync": (does(op.Msync(path="foo", length=512)), (True, False, False), (True, False, False)),
    "fsync of the directory": (fsync("."), (False, False, True), (False, False, True)),
    "sync": (does(op.Sync()), (False, False, False), (True, True, True)),
    "syncfs": (does(op.Syncfs()), (False, False, False), (True, True, True)),
    "fsync that failed": (does(op.Fsync(path="foo"), errno=5), (False, False, False), (False, False, False)),
}


@pytest.mark.parametrize("contract", ["posix", "linux"])
@pytest.mark.parametrize("call", CALLS)
def test_what_a_call_makes_certain(call: str, contract: str) -> None:
    step, posix, linux = CALLS[call]
    data, attributes, name = posix if contract == "posix" else linux
    found = expected(creat(), write(0, 512, 512), *ATTRIBUTES, step, contract=contract)
    new = payload(FOO, 1, 0, 512)
    assert sector(found, 0) == ({new} if data else {ZEROS, new})
    assert sizes(found) == ({512} if data else {0, 512})
    assert found.modes(FOO) == ({0o600} if attributes else {0o644, 0o600})
    assert found.xattr_sets(FOO) == {frozenset({("attr", "value")}), *([] if attributes else [frozenset()])}
    assert found.mtimes(FOO) == ({5} if attributes else set())
    there = 0 not in found.bindings(FOO_NAME) or frozenset() not in names(found)
    assert there == name


@pytest.mark.parametrize("how", ["sync", "dsync"])
def test_a_synchronous_write_makes_its_own_pages_certain_and_no_others(how: op.How) -> None:
    found = expected(creat(), write(0, 512, 512), write(8192, 512, 8704, how), write(0, 40, 8704))
    assert sector(found, 16) == {payload(FOO, 2, 8192, 512)}
    assert sector(found, 0) > {ZEROS, payload(FOO, 1, 0, 512)}
    assert sizes(found) == {8704} and not allows(found, 4096)
    assert not found.floors.data


def test_what_was_synced_with_one_page_is_certain_too() -> None:
    found = expected(creat(), write(0, 512, 512), write(512, 512, 1024, "dsync"))
    assert sector(found, 0) == {payload(FOO, 1, 0, 512)}


def test_what_was_synced_may_be_cut_off_later() -> None:
    found = expected(creat(), write(0, 8192, 8192, "dsync"), does(op.Truncate(path="foo", size=100)))
    assert sizes(found) == {8192, 100} and sector(found, 1) == {payload(FOO, 1, 512, 512), ZEROS}


def test_until_the_next_call_returns_everything_before_it_may_have_happened() -> None:
    steps = (creat(), write(0, 512, 512), fsync(), write(0, 512, 512), fsync(), write(0, 512, 512))
    versions = [payload(FOO, n, 0, 512) for n in (1, 3, 5)]
    assert sector(expected(*steps, points=0), 0) == {ZEROS, versions[0]}
    assert sector(expected(*steps, points=1), 0) == {versions[0], versions[1]}
    assert sector(expected(*steps, points=2), 0) == {versions[1], versions[2]}


def test_what_the_setup_did_is_certain_under_each_contract() -> None:
    for contract in CONTRACTS:
        found = expected(creat(), write(0, 512, 512), does(op.Unlink(path="foo")), contract=contract, setup=2)
        assert found.bindings(FOO_NAME) == {FOO, 0} and sizes(found) == {512}


def test_fsync_of_a_file_keeps_the_directories_above_it_under_any_later_name() -> None:
    steps = (mkdir("A", 20), creat("A/foo"), fsync("A/foo"), does(op.Rename(path="A", new="B"), inode=20))
    found = expected(*steps)
    assert names(found) == {frozenset({IN_A})}
    assert names(found, 20) == {frozenset({(ROOT, "A")}), frozenset({(ROOT, "B")})}
    assert frozenset() in names(expected(*steps, contract="posix"), 20)


def test_fsync_of_a_directory_keeps_its_entries_and_linux_its_own_name() -> None:
    steps = (mkdir("A", 20), creat("A/foo"), fsync("A"))
    for contract in CONTRACTS:
        found = expected(*steps, contract=contract)
        assert found.bindings(IN_A) == {FOO} and found.bindings((ROOT, "A")) == {0, 20}
        assert (frozenset() in names(found, 20)) == (contract == "posix")


def test_a_rename_over_a_file_leaves_the_old_or_the_new_one() -> None:
    steps = (creat("foo", FOO), creat("bar", BAR), does(op.Rename(path="foo", new="bar"), inode=FOO))
    found = expected(*steps, setup=2)
    assert found.bindings(BAR_NAME) == {BAR, FOO} and found.bindings(FOO_NAME) == {FOO, 0}
    assert names(found) == {frozenset({FOO_NAME}), frozenset({BAR_NAME})}
    assert names(found, BAR) == {frozenset({BAR_NAME}), frozenset()}
    found = expected(*steps, fsync("bar"), setup=2)
    assert names(found) == {frozenset({BAR_NAME})}
    found = expected(*steps, fsync("."), setup=2)
    assert found.bindings(BAR_NAME) == {FOO} and found.bindings(FOO_NAME) == {0}


def test_an_exchange_is_one_step_for_both() -> None:
    exchange = does(op.Rename(path="foo", new="bar", how="exchange"), inode=FOO)
    found = expected(creat("foo", FOO), creat("bar", BAR), exchange, setup=2)
    assert found.bindings(FOO_NAME) == found.bindings(BAR_NAME) == {FOO, BAR}
    assert names(found) == names(found, BAR) == {frozenset({FOO_NAME}), frozenset({BAR_NAME})}


def test_a_rename_between_two_names_of_one_file_does_nothing() -> None:
    found = expected(
        creat(), does(op.Link(path="foo", new="bar"), inode=FOO), does(op.Rename(path="foo", new="bar")), setup=2
    )
    assert names(found) == {frozenset({FOO_NAME, BAR_NAME})}


def test_link_unlink_and_a_new_file_of_that_name() -> None:
    steps = (
        creat(),
        does(op.Link(path="foo", new="bar"), inode=FOO),
        fsync(),
        does(op.Unlink(path="bar")),
        creat("bar", BAR),
        fsync("bar"),
    )
    found = expected(*steps)
    both, one = frozenset({FOO_NAME, BAR_NAME}), frozenset({FOO_NAME})
    assert names(found) == {both, one}  # that bar is the new one says that foo has lost it: _names sees to that
    assert names(found, BAR) == {frozenset({BAR_NAME})}


def test_a_number_given_out_again_is_the_former_file_or_the_later_and_never_one_with_the_others_bytes() -> None:
    steps = (creat(), write(0, 512, 512), fsync(), does(op.Unlink(path="foo")), creat("bar", FOO))
    found = expected(*steps)
    assert names(found) == {frozenset({FOO_NAME}), frozenset(), frozenset({BAR_NAME})}
    former, later = found.life(FOO, FOO_NAME), found.life(FOO, BAR_NAME)
    assert 512 in found.sizes(former).exact and found.sizes(later).exact == {0}
    assert found.sector_values(later, 0) == {ZEROS}
    assert found.sector_values(former, 0) == {payload(FOO, 1, 0, 512), ZEROS}


def test_blocks_taken_out_are_there_moved_or_for_a_while_a_hole() -> None:
    collapse = does(op.Fallocate(path="foo", length=4096, mode="collapse-range"), inode=FOO, size=4096)
    found = expected(creat(), write(0, 8192, 8192), fsync(), collapse)
    assert sizes(found) == {8192, 4096}
    assert sector(found, 0) == {payload(FOO, 1, 0, 512), payload(FOO, 1, 4096, 512), ZEROS}
    found = expected(creat(), write(0, 8192, 8192), collapse, fsync())
    assert sizes(found) == {4096} and sector(found, 0) == {payload(FOO, 1, 4096, 512)}


def test_blocks_put_in_leave_what_is_before_them_alone() -> None:
    insert = does(op.Fallocate(path="foo", offset=4096, length=4096, mode="insert-range"), inode=FOO, size=12288)
    found = expected(creat(), write(0, 8192, 8192), fsync(), insert)
    assert sizes(found) == {8192, 12288}
    assert sector(found, 0) == {payload(FOO, 1, 0, 512)}
    assert sector(found, 8) == {payload(FOO, 1, 4096, 512), ZEROS}
    assert sector(found, 16) == {payload(FOO, 1, 4096, 512), ZEROS}


def test_a_growing_file_may_stop_at_a_block_or_at_the_end_of_a_range() -> None:
    found = expected(creat(), write(0, 5000, 5000), fsync(), write(5000, 10_000, 15_000))
    allowed = {size for size in range(20_000) if allows(found, size)}
    assert allowed == {5000, 8192, 12_288, 15_000}
    found = expected(creat(), write(0, 5000, 5000), write(5000, 10_000, 15_000), fsync())
    assert {size for size in range(20_000) if allows(found, size)} == {15_000}


def test_a_shrinking_file_has_the_one_size_or_the_other() -> None:
    found = expected(creat(), write(0, 9000, 9000), fsync(), does(op.Truncate(path="foo", size=100)))
    assert {size for size in range(10_000) if allows(found, size)} == {100, 9000}


def test_a_time_that_the_kernel_set_is_not_asked_for() -> None:
    stamp = does(op.Utimens(path="foo", seconds=5))
    assert expected(creat(), stamp, fsync()).mtimes(FOO) == {5}
    assert not expected(creat(), stamp, write(0, 1, 1), fsync()).mtimes(FOO)
    assert not expected(creat(), stamp, fsync(), write(0, 1, 1)).mtimes(FOO)


def test_of_a_content_that_failed_half_way_nothing_is_asked_from_then_on() -> None:
    full = does(op.Write(path="foo", length=9000), errno=28)
    assert not expected(creat(), write(0, 512, 512), full).asks_content(FOO)
    assert expected(creat(), write(0, 512, 512), fsync(), does(op.Chmod(path="foo", mode=0)), fsync()).asks_content(FOO)
    refused = does(op.Write(path="foo", length=9000), errno=2)
    assert expected(creat(), write(0, 512, 512), refused).asks_content(FOO)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5))), st.integers(-1, 10), st.integers(-1, 10))
def test_a_history_against_a_plain_list(sets: list[tuple[int, int]], first: int, last: int) -> None:
    history, known = History(-1), [(0, -1)]
    for t, value in sorted(sets, key=lambda pair: pair[0]):
        history.set(t, value)
        known.append((t, value))
    before = [value for t, value in known if t <= first] or [-1]
    assert history.at(first) == before[-1]
    assert history.between(first, last) == [before[-1], *(value for t, value in known if first < t <= last)]
    assert history.within(first, last) == [value for t, value in known if first <= t <= last]
    assert history.last == known[-1][1]


BLOCKS = st.integers(0, 3).map(lambda n: n * 4096)
BYTES = st.integers(0, 5) | st.integers(505, 520) | st.integers(0, 9000)
CHANGES = st.one_of(
    st.tuples(st.just("write"), BYTES, BYTES),
    st.tuples(st.just("zero"), BYTES, BYTES),
    st.tuples(st.just("zero beyond"), BYTES, BYTES),
    st.tuples(st.just("resize"), BYTES, BYTES),
    st.tuples(st.just("collapse"), BLOCKS, BLOCKS),
    st.tuples(st.just("insert"), BLOCKS, BLOCKS),
)


def _changed(content: Content, plain: bytearray, change: tuple[str, int, int], n: int) -> Content:
    """Both by one change, as fallocate(2) and write(2) would."""
    kind, offset, length = change
    end = offset + length
    match kind:
        case "write" if length:
            data = payload(FOO, n, offset, length)
            plain.extend(bytes(max(0, end - len(plain))))
            plain[offset:end] = data
            return content.written(offset, data, len(plain))
        case "zero" | "zero beyond":
            if kind == "zero beyond":
                plain.extend(bytes(max(0, end - len(plain))))
            stop = max(offset, min(end, len(plain)))
            plain[offset:stop] = bytes(stop - offset) if offset < len(plain) else b""
            return content.zeroed(offset, length, len(plain))
        case "resize":
            plain.extend(bytes(max(0, offset - len(plain))))
            del plain[offset:]
            return content.resized(offset)
        case "collapse" if length and end < len(plain):
            del plain[offset:end]
            return content.collapsed(offset, length)
        case "insert" if length and offset < len(plain):
            plain[offset:offset] = bytes(length)
            return content.inserted(offset, length)
    return content


@given(st.lists(CHANGES, max_size=8), BYTES, BYTES)
def test_content_against_a_plain_bytearray(changes: list[tuple[str, int, int]], offset: int, length: int) -> None:
    content, plain = NOTHING, bytearray()
    for n, change in enumerate(changes):
        before = content, bytes(content.read(0, content.size))
        content = _changed(content, plain, change, n)
        assert before[0].read(0, before[0].size) == before[1]  # what was is not changed by what comes
        assert content.size == len(plain)
        assert content.read(0, content.size) == plain
    assert content.read(offset, length) == plain[offset : offset + length]
    whole = b"".join(content.sector(number) for number in range(-(-len(plain) // SECTOR)))
    assert whole == bytes(plain).ljust(len(whole), b"\0")


@pytest.fixture(scope="module")
def base() -> Iterator[Image]:
    with make_base(SPEC) as image:
        yield image


@pytest.mark.root
@settings(derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_where_no_power_was_cut_every_contract_is_content(base: Image, plan: Plan) -> None:
    with base.copy() as image:
        marks: list[bytes] = []
        with mounted_plain(image, SPEC) as root:
            outcomes = run_plan(plan, root, marks.append)
            texts = [mark.removeprefix(JSON) for mark in marks if mark.startswith(JSON)]
            made = [Promise(at, text, True) for at, text in enumerate(texts)]
            for contract in CONTRACTS:
                check = PlanCheck(plan, outcomes, contract, works=False)
                assert check(RecoveredState(root, made)) == [], plan.lines()
        with mounted_plain(image, SPEC) as root:  # from the disk, and it works
            assert PlanCheck(plan, outcomes)(RecoveredState(root, made)) == [], plan.lines()


def page_rows() -> dict[str, list[str]]:
    """The page's table: rule -> its other cells."""
    lines = re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {rule: [cell.strip() for cell in rest.split(" | ")] for rule, rest in lines}


def test_the_page_names_every_rule_in_order_with_the_contracts_that_hold_it() -> None:
    rows = page_rows()
    assert list(rows) == list(RULES)
    for rule, (_says, contracts, kinds, source) in rows.items():
        assert contracts.split(", ") == [c.name for c in CONTRACTS.values() if RULES[rule] in c.rules]
        assert set(kinds.split(", ")) <= set(FindingKind.__members__), rule
        assert source, rule


def test_the_page_names_every_contract_and_how_to_choose_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for contract in CONTRACTS:
        assert f"**`{contract}`**" in text and contract_named(contract).name == contract
    assert "--contract posix" in text and 'contract="posix"' in text

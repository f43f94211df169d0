"""Faults as data: their text, their JSON, and those that contradict each other."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import faults
from harness.errors import Misuse
from harness.faults import (
    FAULTS,
    AnyFault,
    At,
    Delay,
    Drop,
    Eio,
    EngineKill,
    File,
    Journal,
    Range,
    Remove,
    ShutDown,
    SingleFault,
    Superblock,
    compose,
    fault_from_json,
    fault_to_json,
    parse_fault,
)

_MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("eio@write:3", Eio(at=At.write(3))),
        ("eio@read:2@journal", Eio(at=At.read(2), where=Journal())),
        ("eio@superblock", Eio(at=At.write(1), where=Superblock())),
        ("eio@range:1M+64K#2,count=0", Eio(at=At.write(2), where=Range(_MIB, 64 << 10), count=0)),
        ("drop@file:data.bin#2", Drop(at=At.write(2), where=File("data.bin"))),
        ("drop@op:7/file:a/b%20c#2", Drop(at=At.write(2, since=At.operation(7)), where=File("a/b c"))),
        ("drop@file:a%2Cb%23%2B%40", Drop(at=At.write(1), where=File("a,b#+@"))),
        ("remove@op:7", Remove(at=At.operation(7))),
        ("remove", Remove()),
        ("remove@mark:promise:done#2", Remove(at=At.mark("promise:done", 2))),
        ("remove@mark:a%2Fwrite:1/flush:2", Remove(at=At.flush(2, since=At.mark("a/write:1")))),
        ("engine-kill@write:12,done=yes", EngineKill(at=At.write(12), done=True)),
        ("delay@after:0.5/write:1,seconds=2.5", Delay(at=At.write(1, since=At.after(0.5)), seconds=2.5)),
        ("eio@discard:1 + shutdown@op:0", compose(Eio(at=At.discard(1)), ShutDown(at=At.operation(0)))),
    ],
)
def test_a_fault_has_one_spelling_and_json_both_ways(text: str, fault: AnyFault) -> None:
    assert parse_fault(text) == fault
    assert str(fault) == text
    assert fault_from_json(fault_to_json(fault)) == fault


_STARTS = st.one_of(
    st.integers(0, 99).map(At.operation),
    st.text(min_size=1, max_size=8).map(At.mark),
    st.floats(0, 1e9).map(At.after),
)
_REQUESTS = st.builds(
    lambda make, n, since: make(n, since=since),
    st.sampled_from([At.write, At.read, At.discard]),
    st.integers(1, 999),
    st.none() | _STARTS,
)
_NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
_PLACES = st.one_of(
    st.builds(Range, st.integers(0, 1 << 40), st.integers(1, 1 << 40)),
    st.lists(_NAMES.filter(lambda name: name != ".."), min_size=1, max_size=3).map(lambda names: File("/".join(names))),
    st.just(Journal()),
    st.just(Superblock()),
)


@given(
    st.sampled_from([Eio, Remove, EngineKill]),
    st.just(At.once) | _STARTS | _REQUESTS,
    st.none() | _PLACES,
)
def test_any_address_reads_back(kind: type[SingleFault], at: At, where: AnyFault | None) -> None:
    fault = kind(at=at, where=where if at.request else None)  # type: ignore[arg-type]
    assert parse_fault(str(fault)) == fault
    assert fault_from_json(fault_to_json(fault)) == fault


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("eoi@write:3", "no fault 'eoi'; eio"),
        ("", "no fault ''"),
        ("eio@write:1 + ", "no fault ''"),
        ("eio@", "'' is no address"),
        ("eio@write:0", "no write number 0"),
        ("eio@write:x", "'write:x' is no address"),
        ("eio@writes:3", "'writes:3' is no address"),
        ("eio@write:3@", "is no address"),
        ("eio@journal#0", "no write number 0"),
        ("eio@op:7@journal", "is no address"),
        ("eio@write:3/op:7", "is no address"),
        ("eio@range:1M", "'range:1M' is no address"),
        ("eio@range:1M+0", "no range"),
        ("eio@range:a+b", "'A' is not a size|'a' is not a size"),
        ("eio@file:", "is no file of the volume"),
        ("eio@file:/etc/passwd", "is no file of the volume"),
        ("eio@file:a/../../b", "is no file of the volume"),
        ("remove@mark:", "a mark without a text"),
        ("remove@after:soon", "'soon' is not a number of seconds"),
        ("remove@after:nan", "nan seconds"),
        ("remove@after:-1", "-1.0 seconds"),
        ("remove@when", "'when' is no address"),
        ("drop@flush:1", "a flush cannot have that"),
        ("lie@write:1", "a write cannot have that"),
        ("lie@journal", "a write cannot have that"),
        ("lie@flush:1@journal", "only a write, read or discard has a place, not flush:1"),
        ("eio@mark:x#2/write:1", "since the first such mark"),
        ("eio@journal#", "is no address"),
        ("eio@mark:x#2", "since the first such mark"),
        ("flip@write:1,bite=3", "flip has no option 'bite'"),
        ("remove@op:1,at=3", "remove has no option 'at'"),
        ("flip@write:1,byte=-1", "'-1' is not a size"),
        ("delay,seconds=0", "Expected `float` > 0.0"),
        ("delay,seconds=x", "delay,seconds=x is not a number"),
        ("rate,bytes_per_second=0", "Expected `int` >= 1"),
        ("shutdown,flush_log=maybe", "neither yes nor no"),
        ("engine-kill@after:1,done=yes", "no request that could be done"),
    ],
)
def test_what_cannot_be_read_is_misuse_that_says_why(text: str, why: str) -> None:
    with pytest.raises(Misuse, match=why) as refused:
        parse_fault(text)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"fault":"eoi"}', "Invalid value 'eoi'"),
        ('{"fault":"eio","ät":1}', "unknown field"),
        ('{"fault":"eio","at":{"on":"when"}}', "a condition of a program cannot be read"),
        ('{"fault":"eio","at":{"on":"write","n":0}}', "no write number 0"),
        ('{"fault":"eio","where":{"place":"file","path":"/x"}}', "is no file"),
        ('{"fault":"several","faults":[]}', "no faults"),
        ('{"fault":"several","faults":[{"fault":"remove"},{"fault":"capacity"}]}', "contradict"),
        ("[]", "not a fault"),
        ("{", "not a fault"),
    ],
)
def test_json_that_is_no_fault_is_misuse(text: str, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        fault_from_json(text)


def test_a_condition_has_no_json() -> None:
    with pytest.raises(Misuse, match="remove@when: a condition of a program has no JSON"):
        fault_to_json(Remove(at=At.when(lambda: True)))


@pytest.mark.parametrize("at", [At.once, At.operation(3), At.flush(1), At.after(0.1)])
def test_only_a_request_has_a_place(at: At) -> None:
    with pytest.raises(Misuse, match="eio@journal: only a write, read or discard has a place"):
        Eio(at=at, where=Journal())


def test_a_plan_carries_a_fault() -> None:
    class Plan(msgspec.Struct):
        fault: AnyFault

    plan = Plan(parse_fault("eio@write:3 + remove@op:7"))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("eio@write:3 + drop@write:3", "both decide about write 3"),
        ("eio@write:3 + eio@write:3", "both decide about write 3"),
        ("read-only + drop@write:2", "both decide about write 2"),
        ("read-only + drop@file:data.bin#2", "both decide about write 2"),
        ("eio@write:2,count=0 + drop@write:9", "both decide about write 9"),
        ("eio@write:1,count=4 + drop@write:4", "both decide about write 4"),
        ("eio@file:a#2 + drop@file:a#2", "both decide about write 2 to file:a"),
        ("eio@op:1/write:1 + drop@op:1", "both decide about write 1"),
        ("eio@flush:2 + engine-kill@flush:2", "both decide about flush 2"),
        ("remove@op:7 + shutdown@op:7", "both decide about the mark op:begin 7"),
        ("remove@op:7 + capacity", "each of them takes the device away"),
        ("engine-kill@write:3 + remove@op:2", "each of them takes the device away"),
        ("engine-kill@write:3 + force-detach@write:9", "each of them takes the device away"),
        ("eio@write:5 + remove@write:3", "after remove no further write comes"),
        ("engine-kill@flush:1 + lie@flush:2", "after engine-kill no further flush comes"),
        ("remove + eio@write:1", "after remove, which is done at once, no write comes"),
        ("shutdown@op:3 + engine-kill", "after engine-kill, which is done at once, no mark op:begin 3 comes"),
    ],
)
def test_contradictory_faults_are_misuse_that_names_both(text: str, why: str) -> None:
    with pytest.raises(Misuse, match=why) as refused:
        parse_fault(text)
    assert all(part in refused.value.cause for part in text.split(" + "))


@pytest.mark.parametrize(
    "text",
    [
        "eio@write:3 + drop@write:4",
        "eio@write:3 + eio@flush:3",
        "eio@file:a + drop@file:b",
        "eio@op:1/write:1 + drop@op:2/write:1",
        "lie@flush:1 + engine-kill@flush:2",
        "eio@write:1,count=3 + drop@write:4",
        "remove@write:5 + eio@write:3",
        "remove + full@op:3",
        "writer-kill@op:3 + engine-kill@op:4",
        "delay@read:1 + eio@write:1",
        "eio@write:1 + drop@write:2 + lie@flush:1",
    ],
)
def test_faults_that_can_be_together_can(text: str) -> None:
    assert str(parse_fault(text)) == text


def test_composing_flattens_and_one_alone_is_itself() -> None:
    eio, drop, remove = Eio(at=At.write(3)), Drop(at=At.write(4)), Remove(at=At.operation(7))
    assert compose(eio) is eio
    assert compose(compose(eio, drop), remove) == compose(eio, drop, remove)
    assert compose(eio, drop).back == min(eio.back, drop.back)
    with pytest.raises(Misuse):
        compose()


def test_all_public_names_are_there() -> None:
    assert {kind.__name__ for kind in FAULTS.values()} <= set(faults.__all__)
    assert all(hasattr(faults, name) for name in faults.__all__)


PAGE = (Path(__file__).parent.parent / "docs/faults.md").read_text(encoding="utf-8")


def test_the_page_has_every_fault() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \| .* \| .* \| .* \|$", PAGE, re.MULTILINE) == list(FAULTS)


def test_spellings_on_the_page_are_understood() -> None:
    spelled = {text for text in re.findall(r"`([^`\n]+)`", PAGE) if re.match(rf"({'|'.join(FAULTS)})@", text)}
    refused = {text for text in spelled if not _understood(text)}
    contradictory = [
        "eio@write:3 + drop@write:3",
        "read-only + drop@write:2",
        "engine-kill@write:3 + remove@op:7",
        "remove@write:3 + eio@write:5",
        "engine-kill + shutdown@op:3",
    ]
    assert len(spelled) > 15
    assert refused == {text for text in contradictory if "@" in text.split(" ")[0]}


def _understood(text: str) -> bool:
    try:
        return str(parse_fault(text)) == text
    except Misuse:
        return False

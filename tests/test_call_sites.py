"""From the calls that a program made to the places where an fsync may be missing, or be one too many."""

from collections.abc import Iterable

import pytest

from harness.advice.advised import Change
from harness.advice.call_sites import additions, normal, removals
from harness.machine.calls_seen import Call


def calls(text: str) -> list[Call]:
    """`write a; rename a b; promise`; `fsync ./` for a directory, `mkdir d/`."""
    made = []
    for number, line in enumerate(filter(None, map(str.strip, text.split(";")))):
        name, *paths = line.split()
        directory = bool(paths) and paths[0].endswith("/")
        names = tuple(path.rstrip("/") for path in paths)
        made.append(Call(number=number, name=name, paths=names, directory=directory, process=1, thread=1))
    return made


def texts(changes: Iterable[Change]) -> list[str]:
    return [change.text for change in changes]


REPLACE = "creat config.new; write config.new; rename config.new config; fsync ./; promise;"


def test_replace_by_rename_reads_like_the_textbook() -> None:
    found = texts(additions(calls(REPLACE * 3)))
    assert found[0] == "fsync(config.new) before each rename of config.new -> config"
    # After the rename the program itself fsyncs the directory: there is nothing to add.
    assert found[1:] == [
        "fsync(config) before each promise",
        "fsync(directory .) after each creat of config.new",
        "fdatasync(config.new) after each write of config.new",
    ]


def test_numbers_make_a_class() -> None:
    loop = "".join(f"creat {n}.msg; write {n}.msg; write {n}.msg; promise;" for n in range(3))
    found = additions(calls(loop))
    assert texts(found) == [
        "fsync(N.msg) before each promise",
        "fsync(directory .) after each creat of N.msg",
        "fsync(directory .) before each promise",
        "fdatasync(N.msg) after each run of writes of N.msg",
    ]
    assert {change.times for change in found} == {3}


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("msg/17.json", "msg/N.json"),
        ("tmpk3x_9fab", "tmp*"),
        ("tmp.4XvSOZbQxg", "tmp.*"),
        ("config.new", "config.new"),
        ("ledger.db-journal", "ledger.db-journal"),
        ("objects/0a1b2c3d4e", "objects/N"),
        ("a/#123 (deleted)", "(no name)"),
        (".", "."),
    ],
)
def test_the_class_of_a_path(path: str, wanted: str) -> None:
    assert normal(path) == wanted


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("write a; fsync a; rename a b", "fsync(a)"),
        ("write a; sync; rename a b", "fsync(a)"),
        ("write a; rename a b; fsync b; promise", "fsync(b)"),
        ("write a; link a b; fsync b; promise", "fsync(a) before the promise"),
        ("mkdir d/; write d/a; rename d/ e/; fsync e/a; promise", "fsync(e/a)"),
        ("write a; unlink a; promise", "fsync(a) before the promise"),
        ("creat d/a; fsync d/; promise", "fsync(directory d)"),
    ],
)
def test_what_is_durable_already_is_no_place(text: str, absent: str) -> None:
    assert not [found for found in texts(additions(calls(text))) if found.startswith(absent)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write a; rename a b; promise", "fsync(b) before the promise"),
        ("write a; fsync b; promise", "fsync(a) before the promise"),
        ("write a; link a b; promise", "fsync(a) before the link of a -> b"),
        ("rename d/a e/a; promise", "fsync(directory e) after the rename of d/a -> e/a"),
        ("rename d/a e/a; promise", "fsync(directory d) after the rename of d/a -> e/a"),
        ("creat d/a; rename d/ e/", "fsync(directory d) before the rename of d -> e"),
        ("write a; fsync a; write a; promise", "fsync(a) before the promise"),
        ("truncate a; promise", "fsync(a) before the promise"),
        ("unlink d/a; write b", "fsync(directory d) after the unlink of d/a"),
        ("symlink s; write b", "fsync(directory .) after the symlink of s"),
        ("mkdir d/; write b", "fsync(directory .) after the mkdir of d"),
        ("exchange a d/b; write c", "fsync(directory d) after the exchange of a -> d/b"),
        ("mmap a; fsync a; promise", "fsync(a) before the promise"),
    ],
)
def test_what_may_be_missing_is_proposed(text: str, wanted: str) -> None:
    assert wanted in texts(additions(calls(text)))


def test_a_durable_write_leaves_nothing_to_add() -> None:
    assert not additions([Call(name="write", paths=("a",), durable=True), Call(name="promise")])


def test_each_sync_may_be_left_out_and_two_in_a_row_are_told_apart() -> None:
    found = texts(removals(calls("write a; fsync a; fsync a; promise;" * 3)))
    assert found == ["without fsync(a) after each write of a", "without fsync(a) before each promise"]


def test_removals_say_what_they_stand_before() -> None:
    found = texts(removals(calls("write a.new; fsync a.new; rename a.new a; fsync ./; promise; sync; write b")))
    assert found == [
        "without fsync(a.new) before the rename of a.new -> a",
        "without fsync(directory .) before the promise",
        "without fsync(all files, by sync) before the write of b",
    ]


def test_every_place_has_a_text_of_its_own() -> None:
    text = "write a; fsync a; promise; write b; fsync a; promise; fsync a; fdatasync a; write c; fdatasync a; promise"
    made = calls(text)
    assert len(removals(made)) == sum(call.syncs for call in made)

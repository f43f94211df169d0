"""Litmus tests: the data, the predicate language, the runs, the table, the command."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_support import harness
from rich.console import Console

from harness.errors import Misuse
from harness.oracle.litmus_check import read_tests, reader, surprise
from harness.plan.litmus import Litmus, Predicate, describe, from_json
from harness.reporting.litmus import LitmusPage, as_json, exit_code
from harness.trial.litmus import CONFIGURATIONS, Answer, Bed, Cell, Configuration, configurations
from harness.verdict import ExitCode

FOLDER = Path(__file__).parent.parent / "scenarios/litmus"
TESTS = {test.id: test for test in read_tests(str(FOLDER))}
EXT4 = Configuration("ext4")
ACVR = json.loads((FOLDER / "atomic-create-via-rename.json").read_text())


def changed(**changes: object) -> str:
    return json.dumps({name: value for name, value in (ACVR | changes).items() if value is not None})


def predicate(**fields: object) -> Predicate:
    return msgspec.convert(fields, Predicate)  # type: ignore[no-any-return,arg-type,unused-ignore]


def repair(**changes: object) -> dict[str, object]:
    return ACVR["repair"] | changes  # type: ignore[no-any-return]


ALWAYS = {"test": "any", "of": [{"test": "exists", "path": "file"}, {"test": "absent", "path": "file"}]}
NEVER = {"test": "all", "of": [{"test": "exists", "path": "file"}, {"test": "absent", "path": "file"}]}


def test_the_seven_published_tests_are_here() -> None:
    assert sorted(TESTS) == ["ACVR", "ARVR", "DUR", "IDF", "OSFO", "OTFO", "PA"]
    assert [test.id for test in TESTS.values() if not test.repair] == ["DUR"]


def test_the_example_in_the_docs_is_one() -> None:
    text = (FOLDER.parent.parent / "docs/litmus.md").read_text(encoding="utf-8")
    assert from_json(text.partition("```json\n")[2].partition("```")[0], "docs/litmus.md").repair


@pytest.mark.parametrize("test", TESTS.values(), ids=list(TESTS))
def test_json_goes_both_ways(test: Litmus) -> None:
    assert from_json(msgspec.json.encode(test), "here") == test


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("{", "truncated", id="no-json"),
        pytest.param("[1]", "crash-harness litmus test", id="no-object"),
        pytest.param(changed(kind="crash-harness plan"), "crash-harness litmus test", id="another-kind"),
        pytest.param(changed(schema=2), "schema 2", id="newer"),
        pytest.param(changed(colour="red"), "colour", id="unknown-field"),
        pytest.param(changed(main=[]), "$.main", id="does-nothing"),
        pytest.param(changed(main=[{"op": "crate", "path": "file"}]), "$.main[0]", id="unknown-operation"),
        pytest.param(changed(main=[{"op": "creat", "path": "/a"}] * 3), "leaves the volume", id="off-the-volume"),
        pytest.param(
            changed(main=[{"op": "write", "path": "file", "length": 1, "offset": -1}]), "$.main[0]", id="minus"
        ),
        pytest.param(changed(surprising={"test": "maybe"}), "$.surprising", id="unknown-predicate"),
        pytest.param(changed(surprising={"test": "all", "of": []}), "$.surprising", id="all-of-nothing"),
        pytest.param(changed(surprising={"test": "exists", "path": "flie"}), "flie", id="another-file"),
        pytest.param(
            changed(surprising={"test": "prefix", "path": "file", "of": [["ab", 1]]}), "$.surprising", id="two-letters"
        ),
        pytest.param(changed(repair=None), "nothing_lacks", id="no-repair-and-no-reason"),
        pytest.param(changed(nothing_lacks="x"), "nothing_lacks", id="repair-and-a-reason"),
        pytest.param(changed(repair=repair(before=9)), "repair.before", id="behind-the-end"),
        pytest.param(changed(repair=repair(operation={"op": "creat", "path": "x"})), "durable", id="repairs-nothing"),
        pytest.param(changed(initial=[{"op": "sync"}]), "no fsync", id="promise-before-the-pattern"),
        pytest.param(changed(initial=[{"op": "creat", "path": "neighbour"}]), "environment", id="neighbours-file"),
        pytest.param(changed(published={"zfs": "never"}), "zfs", id="published-elsewhere"),
    ],
)
def test_bad_data_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(Misuse) as caught:
        from_json(text, "here.json")
    assert "here.json" in caught.value.cause and told in caught.value.cause


def test_folders_without_tests_and_with_two_of_one_id_are_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="holds no litmus test"):
        read_tests(str(tmp_path))
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(changed())
    with pytest.raises(Misuse, match="both have the id ACVR"):
        read_tests(str(tmp_path))


EXISTS = {"test": "exists", "path": "file"}
AB = [["a", 2], ["b", 1]]


@pytest.mark.parametrize(
    ("fields", "content", "promised", "holds"),
    [
        (EXISTS, b"", 0, True),
        (EXISTS, None, 0, False),
        ({"test": "absent", "path": "file"}, None, 0, True),
        ({"test": "absent", "path": "file"}, b"", 0, False),
        ({"test": "content", "path": "file", "one_of": [AB]}, b"aab", 0, True),
        ({"test": "content", "path": "file", "one_of": [AB]}, b"aa", 0, False),
        ({"test": "content", "path": "file", "one_of": [AB]}, None, 0, False),
        ({"test": "content", "path": "file", "one_of": [AB, []]}, b"", 0, True),
        ({"test": "prefix", "path": "file", "of": AB}, b"aa", 0, True),
        ({"test": "prefix", "path": "file", "of": AB}, b"", 0, True),
        ({"test": "prefix", "path": "file", "of": AB}, b"aab", 0, True),
        ({"test": "prefix", "path": "file", "of": AB}, b"aabb", 0, False),
        ({"test": "prefix", "path": "file", "of": AB}, b"a\0", 0, False),
        ({"test": "prefix", "path": "file", "of": AB}, None, 0, False),
        ({"test": "byte", "path": "file", "at": 1, "value": "b"}, b"ab", 0, True),
        ({"test": "byte", "path": "file", "at": 1, "value": "b"}, b"aa", 0, False),
        ({"test": "byte", "path": "file", "at": 1, "value": "b"}, b"a", 0, False),
        ({"test": "byte", "path": "file", "at": 1, "value": "b"}, None, 0, False),
        ({"test": "promised"}, None, 1, True),
        ({"test": "promised"}, None, 0, False),
        ({"test": "promised", "at_least": 2}, None, 1, False),
        ({"test": "not", "of": EXISTS}, None, 0, True),
        ({"test": "not", "of": EXISTS}, b"", 0, False),
        ({"test": "all", "of": [EXISTS, {"test": "promised"}]}, b"", 1, True),
        ({"test": "all", "of": [EXISTS, {"test": "promised"}]}, b"", 0, False),
        ({"test": "any", "of": [EXISTS, {"test": "promised"}]}, None, 1, True),
        ({"test": "any", "of": [EXISTS, {"test": "promised"}]}, None, 0, False),
    ],
)
def test_truth_of_predicates(
    tmp_path: Path, fields: dict[str, object], content: bytes | None, promised: int, holds: bool
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert predicate(**fields).holds(reader(str(tmp_path)), promised) is holds


def test_a_surprise_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * 3 + b"\0\0\xff")
    found = surprise(predicate(**EXISTS), str(tmp_path), 1)
    assert found == "surprising: file is 3 x 'a', 2 x NUL, 1 x 0xff after 1 promise"
    assert describe(None) == "absent" and describe(b"") == "empty"
    assert describe(b"ab" * 9).endswith("12 more runs")


def test_what_is_no_file_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        surprise(predicate(**EXISTS), str(tmp_path), 0)


def test_the_fsync_goes_where_the_data_say() -> None:
    assert [str(each) for each in TESTS["ARVR"].operations(repaired=True)] == [
        "creat tmp",
        "write tmp 0+1048576 of 'n'",
        "fsync tmp",
        "rename tmp -> file",
    ]
    assert str(TESTS["IDF"].operations(repaired=True)[-1]) == "fsync ."
    with pytest.raises(Misuse, match="the pattern has its fsync"):
        TESTS["DUR"].operations(repaired=True)


def test_configurations_by_file_system() -> None:
    assert configurations([]) == list(CONFIGURATIONS)
    assert {each.fs for each in configurations(["xfs", "btrfs"])} == {"xfs", "btrfs"}
    assert configurations(["ext3"]) == [Configuration("ext3")]
    with pytest.raises(Misuse, match="zfs"):
        configurations(["zfs"])


@pytest.mark.root
def test_the_neighbour_commits_and_promises_nothing() -> None:
    alone, beside = Bed(EXT4).recordings(TESTS["DUR"])
    assert len(alone.log.promises(alone.end)) == len(beside.log.promises(beside.end)) == 1
    flushes = [sum(event.kind.name == "FLUSH" for event in each.log.events[each.begin :]) for each in (alone, beside)]
    assert flushes[1] > flushes[0]
    assert "alone" in alone.notes[-1] and "beside a neighbour" in beside.notes[-1]


@pytest.mark.root
@pytest.mark.parametrize(
    ("planted", "answer", "told"),
    [(ALWAYS, Answer.UNKNOWN, "with no power cut: surprising: "), (NEVER, Answer.NOT_FOUND, "")],
    ids=["always-true", "never-true"],
)
def test_a_planted_predicate_is_told(planted: dict[str, object], answer: Answer, told: str) -> None:
    """Always true: not even the volume that lost nothing passes. Never true: where it is known to be there, none is."""
    cell = Bed(EXT4).run(from_json(changed(surprising=planted), "planted"))
    assert cell.answer is answer
    assert told in cell.error


@pytest.mark.root
def test_a_pattern_that_cannot_run_is_unknown() -> None:
    cell = Bed(EXT4).run(from_json(changed(main=ACVR["main"][1:]), "planted"))
    assert cell.answer is Answer.UNKNOWN
    assert "an operation of the pattern failed: write tmp" in cell.error


def cells() -> list[Cell]:
    """A table as it may be, without a volume."""
    made = [
        Cell(test=test, configuration=where, repaired=repaired, judged=1500, complete=where.fs != "btrfs")
        for where in CONFIGURATIONS
        for test in TESTS.values()
        for repaired in (False, True)
        if test.repair or not repaired
    ]
    made[0].observed = 234
    return made


def page(table: list[Cell], *, brief: bool = False) -> str:
    out = io.StringIO()
    LitmusPage(Console(file=out, width=140), brief=brief).show(table, 61.0)
    return out.getvalue()


def test_the_table_can_be_read_in_140_columns() -> None:
    text = page(cells())
    assert max(map(len, text.splitlines())) <= 140
    for wanted in (
        "OBSERVED 234/1500",
        "none in 1500 all",
        "none in 1500 smp",
        "data=journal",
        "not reached",
        "lacks: fsync",
    ):
        assert wanted in text
    assert "neighbour" in text and "UNKNOWN:" not in text.replace("UNKNOWN: see below", "")
    assert len(page(cells(), brief=True)) < len(text)
    assert exit_code(cells()) is ExitCode.INTACT


def test_what_could_not_be_judged_is_said_and_makes_it_unknown() -> None:
    table = cells()
    table[3].error = "the engine is gone"
    text = page(table)
    assert "1 UNKNOWN" in text and "the engine is gone" in text
    assert exit_code(table) is exit_code([]) is ExitCode.UNKNOWN
    assert as_json(table, ExitCode.UNKNOWN, 1.0)["cells"][3]["answer"] == "UNKNOWN"


def test_nothing_judged_is_never_not_found() -> None:
    assert Cell(test=TESTS["PA"], configuration=EXT4, repaired=False).answer is Answer.UNKNOWN


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((str(FOLDER), "--only", "ACVT"), "did you mean ACVR?"),
        (("/no/such/folder",), "/no/such/folder"),
        ((str(FOLDER), "--fs", "zfs"), "zfs"),
        ((str(FOLDER), "--only", "dur", "--repaired"), "lacks an fsync"),
        ((str(FOLDER), "--rounds", "0"), "rounds"),
        ((str(FOLDER), "--fsx", "ext4"), "did you mean --fs?"),
        ((__file__,), "no litmus test"),
    ],
)
def test_misuse_is_told_on_one_screen(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    ran = harness("litmus", *words, cwd=tmp_path)
    assert ran.status == 2, ran
    assert told in ran.err
    ran.assert_one_screen()


def test_help_says_what_it_is(tmp_path: Path) -> None:
    ran = harness("litmus", "--help", cwd=tmp_path)
    assert ran.status == 0 and "surprising outcome" in ran.out and "--verify" not in ran.out


@pytest.mark.parametrize(("content", "status"), [("", 1), ("d" * 5000, 0), (None, 0)])
def test_the_check_of_a_bundle(tmp_path: Path, content: str | None, status: int) -> None:
    (tmp_path / "promises").touch()
    if content is not None:
        (tmp_path / "file").write_text(content)
    ran = harness(
        *("litmus", "--verify", str(FOLDER / "atomic-create-via-rename.json")),
        cwd=tmp_path,
        HARNESS_VOLUME=str(tmp_path),
        HARNESS_PROMISES=str(tmp_path / "promises"),
    )
    assert ran.status == status, ran
    assert ran.out.startswith("surprising: file is empty") == (status == 1)


def test_a_check_that_cannot_say_is_neither_yes_nor_no(tmp_path: Path) -> None:
    ran = harness("litmus", "--verify", str(tmp_path / "none.json"), cwd=tmp_path)
    assert ran.status == 126, ran


@pytest.mark.root
def test_the_command_makes_the_table_and_bundles_that_replay(tmp_path: Path) -> None:
    ran = harness("litmus", str(FOLDER), "--fs", "xfs", "--only", "acvr", "--json", "r.json", cwd=tmp_path)
    assert ran.status == 0, ran
    told: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert [cell["answer"] for cell in told["cells"]] == ["OBSERVED", "NOT_FOUND"]
    assert "OBSERVED" in ran.out and len(ran.err.splitlines()) == 2
    bundle = told["cells"][0]["bundle"]
    assert f"harness replay {bundle}" in ran.out
    replayed = harness("replay", bundle, "--json", "p.json", cwd=tmp_path)
    assert replayed.status == 1, replayed
    assert "surprising: file is empty" in replayed.out

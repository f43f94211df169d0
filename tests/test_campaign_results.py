"""Results of an enumeration on the disk: resumed after any interruption, refused where they are of something else."""

import os
from pathlib import Path

import msgspec
import pytest

from harness.campaign.results import Header, Result, Results, Seen
from harness.errors import Misuse
from harness.settings import Settings
from harness.verdict import Verdict

HEADER = Header.of(1, False, False, (1, 1), Settings())


def result(number: int, verdict: Verdict = Verdict.INTACT) -> Result:
    seen = Seen(kind="TORN", summary="TORN foo", group="TORN data", states=3)
    findings = (seen,) if verdict is Verdict.CORRUPTED else ()
    return Result(id=f"{number:012x}", number=number, text="creat foo", verdict=verdict, judged=7, findings=findings)


def written(folder: Path, *results: Result) -> Path:
    with Results(str(folder), HEADER, resume=False) as file:
        for each in results:
            file.add(each)
        return Path(file.path)


def test_what_was_judged_is_there_after_a_resume(tmp_path: Path) -> None:
    told = [result(1), result(2, Verdict.CORRUPTED)]
    written(tmp_path, *told)
    with Results(str(tmp_path), HEADER, resume=True) as file:
        assert file.done == {each.id: each for each in told}
        file.add(result(3))
    with Results(str(tmp_path), HEADER, resume=True) as file:
        assert len(file.done) == 3


def test_what_could_not_be_judged_is_tried_again(tmp_path: Path) -> None:
    written(tmp_path, result(1), result(2, Verdict.UNKNOWN))
    with Results(str(tmp_path), HEADER, resume=True) as file:
        assert list(file.done) == [result(1).id]


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    written(tmp_path, result(1))
    with Results(str(tmp_path), HEADER, resume=False) as file:
        assert not file.done


@pytest.mark.parametrize("left", range(1, 40, 7))
def test_a_last_line_that_was_cut_off_is_no_result(tmp_path: Path, left: int) -> None:
    path = written(tmp_path, result(1), result(2))
    os.truncate(path, path.stat().st_size - left)
    with Results(str(tmp_path), HEADER, resume=True) as file:
        assert list(file.done) == [result(1).id]
        file.add(result(2))
    lines = path.read_bytes().splitlines()
    assert [msgspec.json.decode(line)["number"] for line in lines[1:]] == [1, 2]


@pytest.mark.parametrize("content", [b"{}\n", b"not json\n", b'{"schema": 1}\n{"id": 3}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, result(1))
    path.write_bytes(content)
    with pytest.raises(Misuse):
        Results(str(tmp_path), HEADER, resume=True)


def test_the_name_tells_runs_apart_and_workers_do_not_matter() -> None:
    same = Header.of(1, False, False, (1, 1), Settings(workers=3, timeout=5.0))
    assert same.file_name == HEADER.file_name
    others = [
        Header.of(2, False, False, (1, 1), Settings()),
        Header.of(1, False, False, (1, 2), Settings()),
        Header.of(1, False, True, (1, 1), Settings()),
        Header.of(1, False, False, (1, 1), Settings(mount_options="nobarrier")),
        Header.of(1, False, False, (1, 1), Settings(cuts="promises")),
    ]
    assert len({each.file_name for each in [HEADER, *others]}) == 6

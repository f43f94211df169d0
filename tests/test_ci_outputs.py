"""What CI is given: annotations, a Markdown summary, one folder of artifacts, and the least privileges that work."""

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import Ran, harness
from plugin_app import run, text

from harness.reporting import github, markdown
from harness.reporting.scenarios import Scenario, Volume
from harness.verdict import Verdict

pytest_plugins = ["pytester"]
root = pytest.mark.root

ROOT = Path(__file__).parent.parent

PAIR = """
def test_kept(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume)
    crash_volume.verify(kept)

def test_lost(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume, sync=False)
    crash_volume.verify(kept)

def test_never_judged(crash_volume):
    raise RuntimeError("50% done, then: nothing")

def test_of_the_user():
    assert not "a failure that has nothing to do with crashes"
"""


def scenario(verdict: Verdict = Verdict.CORRUPTED, **fields: object) -> Scenario:
    """A scenario that failed with this verdict, or passed."""
    made = Scenario(test="tests/test_a.py::test_it", guarantee="Nothing is lost", message="LOST 3")
    made.outcome = "passed" if verdict is Verdict.INTACT else "failed"
    made.volumes = [Volume(verdict=str(verdict), expected="INTACT", states=5, fs="ext4", scope="all 5")]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_workflow_commands_are_escaped_as_the_runner_reads_them() -> None:
    told = github.command("error", "50% of a::b,\r\nnext", file="a:b,c.py", line=3, title="x, y: 100%")
    assert told == "::error file=a%3Ab%2Cc.py,line=3,title=x%2C y%3A 100%25::50%25 of a::b,%0D%0Anext"
    assert github.command("warning", "w", title="") == "::warning::w"


def test_a_message_cannot_smuggle_in_a_command(tmp_path: Path) -> None:
    lines = github.annotations([scenario(message="x\n::set-output name=a::b")], str(tmp_path), str(tmp_path))
    assert len(lines) == 1 and "\n" not in lines[0]


def test_an_annotation_stands_at_the_test_and_has_its_replay(tmp_path: Path) -> None:
    (tmp_path / "sub/tests").mkdir(parents=True)
    (tmp_path / "sub/tests/test_a.py").write_text("import os\n\n\ndef test_it():\n    pass\n")
    failing = scenario(test="tests/test_a.py::test_it[ext4]", replays=["harness replay reports/a.crash"])
    (line,) = github.annotations([failing, scenario(Verdict.INTACT)], str(tmp_path / "sub"), str(tmp_path))
    assert line.startswith("::error file=sub/tests/test_a.py,line=4,title=CORRUPTED%3A Nothing is lost::it [ext4]%0A")
    assert line.endswith("%0Aharness replay reports/a.crash")


@pytest.mark.parametrize(("number", "lines"), [(10, 10), (11, 10), (300, 10)])
def test_of_each_kind_at_most_ten_are_told(tmp_path: Path, number: int, lines: int) -> None:
    many = [scenario()] * number + [scenario(Verdict.UNKNOWN)]
    told = github.annotations(many, str(tmp_path), str(tmp_path))
    assert [line.partition(" ")[0] for line in told] == ["::error"] * lines + ["::warning"]
    if number > lines:
        assert f"{number - lines + 1} more scenarios" in told[lines - 1]


def test_the_summary_has_the_worst_first_and_hides_what_passed() -> None:
    scenarios = [scenario(Verdict.INTACT, guarantee="Kept"), scenario(Verdict.UNKNOWN), scenario(guarantee="Lost")]
    scenarios[2].replays, scenarios[2].bundles = ["harness replay r/a.crash"], ["r/a.crash"]
    shown = markdown.summary(scenarios, elapsed=3.0, artifacts="r")
    assert shown.startswith("## ❌ CORRUPTED: 1 of 3 scenarios as they should be, in 3.0 s")
    rows = [line for line in shown.splitlines() if line.startswith("| ") and "guarantee" not in line]
    assert [row.split(" | ")[0] for row in rows] == ["| ❌", "| ⚠️", "| ✅"]
    assert "| `harness replay r/a.crash` |" in rows[0]
    assert shown.index("<b>CORRUPTED</b>: Lost") < shown.index("<b>UNKNOWN</b>")
    assert shown.count("<details") == shown.count("</details>") == 2
    assert "```sh\nharness replay r/a.crash\n```" in shown


def test_nothing_that_a_program_prints_breaks_the_page() -> None:
    evil = scenario(guarantee="a | b <script> `c` *d* _e_ [f](g)", message="```\n</details> | x\x1b[31m")
    evil.replays = ['harness trial a --plan \'{"x": "`|`"}\'']
    shown = markdown.summary([evil], elapsed=1.0)
    assert "<script>" not in shown and "\x1b" not in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("| ❌")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "a \\| b &lt;script\\> \\`c\\` \\*d\\*" in row
    assert "\n````\n```\n" in shown  # the fence is longer than what it holds
    assert shown.count("\n</details>\n") == 1


def test_a_summary_is_never_larger_than_what_github_takes() -> None:
    many = [scenario(message="m" * 5000, test=f"t.py::test_{n}", replays=["r" * 300]) for n in range(3000)]
    shown = markdown.summary(many, elapsed=1.0)
    assert len(shown.encode()) <= markdown.SIZE_MAX
    assert "further scenario" in shown or "further failure" in shown
    small = markdown.summary(many[:50], elapsed=1.0, size_max=20_000)
    assert len(small.encode()) <= 20_000 and "left out" in small
    assert small.count("<details") == small.count("</details>")


@root
def test_a_pytest_session_on_github(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    step = pytester.path / "step.md"
    step.write_text("what an earlier step wrote\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path.parent))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    result = run(pytester, PAIR, "--harness-reports=kept", "--harness-summary=out/own.md")
    result.assert_outcomes(passed=1, failed=3)
    lines = [line for line in result.outlines if line.startswith("::")]
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert re.match(rf"::error file={pytester.path.name}/test_it.py,line=11,title=CORRUPTED%3A ", lines[0])
    assert "%0Aharness replay kept/" in lines[0]
    assert "50%25 done, then: nothing" in lines[1]
    own = (pytester.path / "out/own.md").read_text()
    assert step.read_text() == "what an earlier step wrote\n" + own
    assert "1 of 3 scenarios as they should be" in own and "of the user" not in own
    (bundle,) = (pytester.path / "kept").glob("*.crash")
    assert f"harness replay kept/{bundle.name}" in own


@root
def test_a_plan_that_hypothesis_drew_has_its_bundle_in_the_summary(pytester: pytest.Pytester) -> None:
    body = """
from harness.plan import operations as op
from harness.plan.plan import Plan

def test_plan(plan_judge):
    plan = Plan(operations=(op.Creat(path="foo"), op.Write(path="foo", length=8192), op.Fsync(path="foo")))
    plan_judge.verify(plan, fs="ext4", mount_options="nobarrier", max_states=20)
"""
    run(pytester, body, "--harness-summary=own.md")
    own = (pytester.path / "own.md").read_text()
    assert own.startswith("## ❌ CORRUPTED")
    bundles = list((pytester.path / "reports").glob("*.crash"))
    assert bundles and all(f"harness replay reports/{bundle.name}\n" in own for bundle in bundles)


@root
def test_several_processes_write_one_summary(pytester: pytest.Pytester) -> None:
    run(pytester, PAIR, "-n", "2", "--harness-summary=own.md")
    own = (pytester.path / "own.md").read_text()
    assert own.count("\n## ") + own.startswith("## ") == 1 and "1 of 3 scenarios" in own


def test_without_being_asked_nothing_is_written(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "step.md"))
    result = run(pytester, "def test_crash(crash_volume):\n    assert False\n")
    assert "::" not in [line[:2] for line in result.outlines]
    assert not (pytester.path / "step.md").exists()


@root
def test_a_summary_that_cannot_be_written_changes_no_verdict(pytester: pytest.Pytester) -> None:
    result = run(pytester, PAIR, "-k", "kept", "--harness-summary=/proc/no/summary.md")
    assert result.ret == 0
    assert "the summary could not be written to /proc/no/summary.md" in text(result)


LOSING = '''"""A file is there without fsync."""
import os

def check(state):
    assert not state.promises or os.path.exists(state.path + "/a"), "a is gone"

def test_it(crash_volume):
    with crash_volume.record() as volume:
        with open(volume.path + "/a", "w") as file:
            file.write("data")
        volume.promise("a")
    crash_volume.verify(check)
'''


def project(folder: Path) -> Path:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "scenarios").mkdir()
    (folder / "scenarios/test_a.py").write_text(LOSING)
    return folder


def harness_run(folder: Path, *words: str) -> Ran:
    return harness("run", *words, cwd=folder, HARNESS_NO_SKIP="", PYTEST_ADDOPTS="", GITHUB_ACTIONS="")


@root
def test_one_folder_holds_the_artifacts_of_a_run(tmp_path: Path) -> None:
    ran = harness_run(project(tmp_path), "--artifacts", "out")
    assert ran.status == 1, ran
    names = {path.name for path in (tmp_path / "out").iterdir()}
    (bundle,) = [name for name in names if name.endswith(".crash")]
    assert {"junit.xml", "summary.md", bundle} <= names
    assert not (tmp_path / "reports").exists()
    told = (tmp_path / "out/summary.md").read_text()
    assert told.startswith("## ❌ CORRUPTED: 0 of 1 scenario as they should be")
    assert f"harness replay out/{bundle}" in told and "Bundles: `out`" in told
    properties = {e.get("name"): e.get("value") for e in ElementTree.parse(tmp_path / "out/junit.xml").iter("property")}
    assert properties["crash_verdict"] == "CORRUPTED" and properties["crash_replay"] == f"harness replay out/{bundle}"
    assert harness("replay", f"out/{bundle}", cwd=tmp_path).status == 1


@root
def test_markdown_goes_where_it_is_wanted(tmp_path: Path) -> None:
    ran = harness_run(project(tmp_path), "--markdown", "deep/s.md")
    assert ran.status == 1 and (tmp_path / "deep/s.md").read_text().count("<details") == 1
    both = harness_run(tmp_path, "--artifacts", "out", "--reports", "r")
    assert both.status == 2 and "give one of them" in both.err


def under(capabilities: str, folder: Path, *words: str) -> Ran:
    """`harness WORDS` with these capabilities and no others, as in a container that was given them."""
    keep = ",".join(f"+{name}" for name in capabilities.split(",") if name)
    wall = ["--bounding-set", "-all" + (f",{keep}" if keep else ""), "--inh-caps=-all", "--ambient-caps=-all"]
    return harness(*words, cwd=folder, before=("setpriv", *wall, "--"))


CHECK = (
    "check",
    "--workload",
    f"python3 {ROOT}/fixtures/programs/sqlite_ledger.py write --synchronous OFF",
    "--check",
    f"python3 {ROOT}/fixtures/programs/sqlite_ledger.py verify",
    "--max-states",
    "60",
    "--json",
    "r.json",
    "-q",
)


@root
def test_the_least_privileges_that_work(tmp_path: Path) -> None:
    """docs/container.md names these capabilities: with them there is a verdict, and without any of them none."""
    documented = re.search(r"setpriv --bounding-set '-all((?:,\+\w+)+)'", (ROOT / "docs/container.md").read_text())
    assert documented
    least = documented[1].removeprefix(",").replace("+", "")
    ran = under(least, tmp_path, *CHECK)
    assert ran.status == 1, ran
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == "CORRUPTED"
    for name in least.split(","):
        fewer = under(",".join(other for other in least.split(",") if other != name), tmp_path, *CHECK)
        assert fewer.status == 4, fewer
        assert "remedy" in fewer.err, fewer
    assert os.listdir(tmp_path / "reports")

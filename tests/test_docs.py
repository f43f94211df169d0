"""README and docs say what is true: their commands parse, their links lead somewhere, their examples run."""

import ast
import configparser
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from harness.cli.app import COMMANDS, module_of
from harness.errors import Misuse
from harness.settings import DECLARED
from harness.verdict import ExitCode, FindingKind

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HARNESS = Path(sys.executable).with_name("harness")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(harness [^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OF_ONE_MACHINE = re.compile(r"(?<![\w.])/(work|root|opt|home)/|index-url|find-links")


class Block(NamedTuple):
    page: str
    language: str
    text: str


def _blocks(page: Path, *languages: str) -> list[Block]:
    found = [Block(page.name, match[1], match[2]) for match in _FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def _commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of each `harness …` that a page shows, and of those in tox.ini."""
    for page in PAGES:
        for block in _blocks(page, "sh", "console", "yaml"):
            yield from ((page.name, command) for command in _harness_lines(block.text))
        yield from ((page.name, match[1]) for match in _INLINE.finditer(page.read_text(encoding="utf-8")))
    yield from (("tox.ini", command) for command in _harness_lines((ROOT / "tox.ini").read_text(encoding="utf-8")))


def _harness_lines(text: str) -> list[str]:
    """What follows the word `harness`, with the lines that continue a command (a backslash, or YAML's folding)."""
    folded = re.sub(r"\\\n\s*|\n\s+(?=--)", " ", text)
    return [match[0] for match in re.finditer(r"(?<![\w.-])harness [a-z].*$", folded, re.MULTILINE)]


COMMAND_LINES = sorted(set(_commands()))


def unknown_in(command: str) -> str:
    """What the command line does not understand in `command`; nothing if it is all right."""
    words = [word for word in shlex.split(command, comments=True)[1:] if word not in ("…", "...")]
    if words[0] not in COMMANDS:
        return f"no command {words[0]}" if not words[0].startswith("-") else ""
    subcommand: click.Command = importlib.import_module(f"harness.cli.{module_of(words[0])}").command
    try:
        context = click.Context(subcommand, info_name=words[0])
        given, _, _ = subcommand.make_parser(context).parse_args(words[1:])
        for name in set(given) & set(DECLARED):
            if isinstance(given[name], str):
                DECLARED[name].read(given[name])
    except (click.UsageError, Misuse) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("page", "command"), COMMAND_LINES, ids=[f"{page}-{line}" for page, line in COMMAND_LINES])
def test_a_command_in_the_docs_is_understood(page: str, command: str) -> None:
    assert not unknown_in(command), page


def test_the_pages_show_every_command() -> None:
    shown = {command.split()[1] for _, command in COMMAND_LINES}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("command", ["harness chekc", "harness check --wrokload x", "harness check --model maybe"])
def test_a_wrong_command_would_be_noticed(command: str) -> None:
    assert unknown_in(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in _anchors(linked), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    linked = set(_LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in PAGES} - {"README.md", "index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_is_python(page: Path) -> None:
    for block in _blocks(page, "python"):
        # Decorators may be shown by themselves.
        alone = block.text.splitlines()[-1].startswith("@")
        ast.parse(block.text + ("def decorated(): ..." if alone else ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_in_the_docs_is_shell(page: Path) -> None:
    for block in _blocks(page, "sh"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "tox.ini", ROOT / "pyproject.toml", ROOT / ".ci/run"],
    ids=lambda path: path.name,
)
def test_nothing_is_of_one_machine_only(path: Path) -> None:
    assert not _OF_ONE_MACHINE.search(path.read_text(encoding="utf-8"))


def test_the_two_commands_of_the_readme_are_the_environments_of_tox() -> None:
    shown = re.findall(r"^\.ci/run ?(\w*)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    assert shown == ["main", ""]
    assert [name.strip() for name in tox["tox"]["env_list"].split(",")] == ["main", "test"]
    assert all(f"testenv:{name}" in tox for name in ("main", "test"))
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert '-e "${1:-test}"' in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/reading-a-report.md"])
def test_exit_codes_are_all_told(page: str) -> None:
    told = re.findall(r"^\| (\d+) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(code) for code in told] == [code.value for code in ExitCode]


def test_kinds_of_finding_are_all_told() -> None:
    text = (ROOT / "docs/reading-a-report.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", text, re.MULTILINE)
    assert told == [(kind.value, kind.meaning) for kind in FindingKind]


def _example(containing: str) -> str:
    return next(block.text for block in _blocks(ROOT / "README.md", "python") if containing in block.text)


def _check_example(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "app.py").write_text(program)
    shown = next(block.text for block in _blocks(ROOT / "README.md", "console") if "harness check" in block.text)
    words = shlex.split(_harness_lines(shown)[0])
    return subprocess.run([HARNESS, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.root
def test_the_readme_shows_what_its_program_gives(tmp_path: Path) -> None:
    done = _check_example(tmp_path, _example("HARNESS_PROMISES"))
    assert done.returncode == ExitCode.CORRUPTED, done.stdout + done.stderr
    shown = next(block.text for block in _blocks(ROOT / "README.md", "console") if "CORRUPTED" in block.text)
    assert _stable(shown.partition("\n")[2]) == _stable(done.stdout)


def _stable(report: str) -> list[str]:
    """The report without what differs from run to run: counts, speeds, names of states and devices, kernel lines."""
    # The kernel limits how often it reports a mount, so its lines may be one or three.
    report = re.sub(r"^  kernel .*\n(?:   .*\n)*", "", report, flags=re.MULTILINE)
    report = re.sub(r"(?<=lost_acked-)[\w-]+|zram|loop(?=\d)", "N", report)
    lines = (re.sub(r"\d[\d.,]*", "N", line).strip() for line in report.splitlines())
    return [line for line in lines if line]


@pytest.mark.root
def test_with_the_fsync_that_the_readme_names_its_program_is_intact(tmp_path: Path) -> None:
    program = _example("HARNESS_PROMISES")
    fixed = program.replace("log.flush()", "log.flush(); os.fsync(log.fileno())")
    assert fixed != program
    done = _check_example(tmp_path, fixed)
    assert done.returncode == ExitCode.INTACT, done.stdout + done.stderr


@pytest.mark.root
def test_the_pytest_example_passes_and_finds_a_missing_fsync(pytester: pytest.Pytester) -> None:
    example = _example("crash_volume")
    pytester.makepyfile(test_intact=example, test_broken=example.replace("os.fsync(ledger.fileno())", "pass"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*CORRUPTED*", "*harness replay*"])

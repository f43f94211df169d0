"""For each planted program the missing fsync is found, from the bundle that `harness check` saved, and is the textbook
one; of a fixed program a planted fsync that does nothing is named.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_support import harness

from harness.verdict import ExitCode

pytestmark = pytest.mark.root

PROGRAMS = Path(__file__).parent.parent / "fixtures/programs"
PYTHON = "python3 -SE"  # starts several times as fast: the check is started for each state
FEW = ("--no-fsck", "-q")

NO_DIRECTORY_FSYNC = f"""
import sys
sys.path.insert(0, {str(PROGRAMS)!r})
import names
names.fsync_directory = lambda path: None
names.main(*sys.argv[1:])
"""
DIRECTORY_FSYNC_BEFORE_RENAME = f"""
import os, sys
sys.path.insert(0, {str(PROGRAMS)!r})
import replace
rename = os.rename
def planted(old, new):
    replace.fsync_directory(os.path.dirname(old))
    rename(old, new)
os.rename = planted
replace.main(*sys.argv[1:])
"""


class Program(NamedTuple):
    """A program with its planted bug, and how it is checked: with as few states as show it."""

    name: str
    write: str
    verify: str = "verify"
    setup: str = ""
    options: tuple[str, ...] = ()


def command(program: Program, words: str) -> str:
    return f"{PYTHON} {program.name} {words}"


def bundle_of(folder: Path, program: Program) -> str:
    """What `harness check` finds of it, or, for an intact one, its whole recording."""
    words = ["--workload", command(program, program.write), "--check", command(program, program.verify)]
    words += ["--setup", command(program, program.setup)] if program.setup else []
    ran = harness("check", *words, *program.options, *FEW, "--save", "whole.crash", cwd=folder)
    assert ran.status in (ExitCode.INTACT, ExitCode.CORRUPTED), ran
    return next((str(each) for each in (folder / "reports").glob("*.crash")), "whole.crash")


def advice_on(folder: Path, program: Program, *more: str) -> dict[str, Any]:
    """What `harness advise` says of its bundle, as JSON."""
    ran = harness("advise", bundle_of(folder, program), "--json", "advice.json", "-q", *more, cwd=folder)
    told: dict[str, Any] = json.loads((folder / "advice.json").read_text())
    assert ran.status == told["exit_code"], ran
    assert told["text"] in ran.out
    return told


LEDGER = str(PROGRAMS / "ledger.py")
REPLACE = str(PROGRAMS / "replace.py")
SPOOL = str(PROGRAMS / "spool.py")
TRANSACTION = str(PROGRAMS / "transaction.py")
AT_PROMISES = ("--cuts", "promises")
NO_HELP = ("--mount-options", "noauto_da_alloc", "--max-states", "30")


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (Program(LEDGER, "write no-fsync", options=AT_PROMISES), "fsync(ledger) before each promise"),
        (Program(LEDGER, "write early-ack", options=AT_PROMISES), "fsync(ledger) before each promise"),
        (Program(LEDGER, "write wrong-descriptor", options=AT_PROMISES), "fsync(ledger) before each promise"),
        (
            Program(REPLACE, "write rename-before-fsync", setup="setup", options=NO_HELP),
            "fsync(config.new) before each rename of config.new -> config",
        ),
        (
            Program(SPOOL, "write no-directory-fsync", setup="setup", options=("--fs", "ext2", *AT_PROMISES)),
            "fsync(directory jobs) after each unlink of jobs/N",
        ),
        (
            Program("app.py", "write unlink", "verify unlink", "setup unlink", AT_PROMISES),
            "fsync(directory .) after each unlink of old-N",
        ),
    ],
    ids=["ledger", "ledger-early", "ledger-descriptor", "replace", "spool", "names"],
)
def test_the_missing_fsync_is_the_textbook_one(tmp_path: Path, program: Program, text: str) -> None:
    (tmp_path / "app.py").write_text(NO_DIRECTORY_FSYNC)
    told = advice_on(tmp_path, program, "--no-superfluous")
    assert told["verdict"] == "CORRUPTED" and told["before"]["failing"]
    assert told["best"]["text"] == text and told["best"]["intact"], told["text"]


def test_two_files_changed_at_once_need_more_than_an_fsync(tmp_path: Path) -> None:
    program = Program(TRANSACTION, "write no-intent", setup="setup", options=("--max-states", "30"))
    told = advice_on(tmp_path, program)
    assert told["verdict"] == "CORRUPTED" and told["best"] is None
    assert told["why"].startswith("no fsync helps") and "two files changed at once" in told["why"]


def test_a_planted_fsync_that_does_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(DIRECTORY_FSYNC_BEFORE_RENAME)
    told = advice_on(tmp_path, Program("app.py", "write fixed", setup="setup", options=NO_HELP))
    assert told["verdict"] == "INTACT" and told["before"]["intact"], told
    (named,) = told["superfluous"]
    assert "directory ." in named["text"] and "before each rename" in named["text"]

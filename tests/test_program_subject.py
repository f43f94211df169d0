"""The planted programs, run again: the missing fsync is found and is the textbook one; a superfluous one is told."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from trial_support import with_settings

from harness.advice.advised import Change, Tried
from harness.advice.interposed import Prepared, record_interposed
from harness.advice.program_subject import ProgramSubject
from harness.errors import Misuse
from harness.plan.operations import Creat
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.commands import Commands, attachments
from harness.trial.recorder import prepare

pytestmark = pytest.mark.root

PROGRAMS = Path(__file__).resolve().parent.parent / "fixtures" / "programs"
SETTINGS = with_settings(max_states=60)


def commands_of(program: str, variant: str, *, setup: bool = False) -> Commands:
    line = f"{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAMS / program))}.py"
    return Commands(workload=f"{line} write {variant}", check=f"{line} verify", setup=f"{line} setup" if setup else "")


def first_that_helps(subject: ProgramSubject, changes: Sequence[Change]) -> tuple[Change, Tried] | None:
    """The search in its simplest form: one change after the other."""
    for change in changes:
        tried = subject.judge([change])
        assert not tried.trouble
        if tried.intact:
            return change, tried
    return None


@pytest.mark.parametrize(
    ("program", "variant", "changes", "textbook"),
    [
        ("ledger", "no-fsync", {}, "fsync(ledger) before each promise"),
        ("ledger", "no-fsync", {"fs": "xfs", "size": 0}, "fsync(ledger) before each promise"),
        ("ledger", "early-ack", {}, "fsync(ledger) before each promise"),
        ("ledger", "wrong-descriptor", {}, "fsync(ledger) before each promise"),
        ("replace", "no-fsync", {}, "fsync(config.new) before each rename of config.new -> config"),
        ("replace", "rename-before-fsync", {}, "fsync(config.new) before each rename of config.new -> config"),
        ("spool", "no-directory-fsync", {"fs": "ext2"}, "fsync(directory jobs) after each unlink of jobs/N"),
    ],
)
def test_the_missing_fsync_is_the_textbook_one(
    program: str, variant: str, changes: dict[str, object], textbook: str
) -> None:
    if program == "replace":
        changes = {"mount_options": "noauto_da_alloc"}
    settings = with_settings(max_states=40, **changes)
    with ProgramSubject(settings, commands_of(program, variant, setup=program != "ledger")) as subject:
        before = subject.judge()
        assert before.failing and not before.intact and not before.unknown
        found = first_that_helps(subject, subject.additions())
        assert found is not None
        change, tried = found
        assert change.text == textbook
        assert change == subject.additions()[0]
        assert change.times == {"ledger": 8, "replace": 6, "spool": 8}[program]
        assert tried.failing == 0 and tried.states > 8 and tried.text == textbook


def test_a_missing_fsync_of_a_directory_is_found() -> None:
    settings = with_settings(max_states=60, cuts="promises")
    commands = Commands(
        workload="for n in 1 2 3 4; do mkdir job-$n; echo $n > $HARNESS_PROMISE; done",
        check="while read n; do [ -d job-$n ] || exit 1; done < $HARNESS_PROMISES",
    )
    with ProgramSubject(settings, commands) as subject:
        assert subject.judge().failing
        found = first_that_helps(subject, subject.additions())
        assert found is not None
        assert found[0].text == "fsync(directory .) after each mkdir of job-N"


def test_no_fsync_helps_where_an_intent_record_is_missing() -> None:
    with ProgramSubject(SETTINGS, commands_of("transaction", "no-intent", setup=True)) as subject:
        assert subject.judge(subject.additions()).failing


TWICE = """
import os
ledger = os.open("ledger", os.O_CREAT | os.O_WRONLY)
index = os.open("index", os.O_CREAT | os.O_WRONLY)
os.fsync(ledger)
for number in range(4):
    os.write(ledger, b"%d\\n" % number)
    os.fsync(ledger)
    os.fsync(index)
    with open(os.environ["HARNESS_PROMISE"], "w") as acknowledged:
        print(number, file=acknowledged)
"""
KEPT = "n=$(wc -l < $HARNESS_PROMISES); [ $n -eq 0 ] || head -n $n ledger | cmp -s - $HARNESS_PROMISES"


def scripted(tmp_path: Path, text: str) -> Commands:
    script = tmp_path / "program.py"
    script.write_text(text)
    return Commands(workload=f"{shlex.quote(sys.executable)} {script}", check=KEPT)


def test_a_superfluous_fsync_is_told_from_one_that_is_needed(tmp_path: Path) -> None:
    with ProgramSubject(SETTINGS, scripted(tmp_path, TWICE)) as subject:
        assert subject.judge().intact
        removals = {change.text: change for change in subject.removals()}
        assert list(removals) == [
            "without fsync(ledger) before the write of ledger",
            "without fsync(ledger) after each write of ledger",
            "without fsync(index) before each promise",
        ]
        superfluous, needed = list(removals.values())[2], list(removals.values())[1]
        assert superfluous.times == needed.times == 4
        assert subject.judge([superfluous]).intact
        assert subject.judge([needed]).failing
        assert not subject.judge([superfluous, needed]).intact


def test_of_a_fixed_program_each_needed_fsync_is_missed() -> None:
    settings = with_settings(max_states=60, mount_options="noauto_da_alloc")
    with ProgramSubject(settings, commands_of("replace", "fixed", setup=True)) as subject:
        assert subject.judge().intact
        needed, directory = subject.removals()
        assert needed.text == "without fsync(config.new) before each rename of config.new -> config"
        assert directory.text == "without fsync(directory .) before each promise"
        assert subject.judge([needed]).failing
        assert subject.judge([directory]).failing


def test_the_same_changes_give_the_same_states_again() -> None:
    with ProgramSubject(SETTINGS, commands_of("ledger", "no-fsync")) as subject:
        once, calls = subject.additions(), subject.calls
        with ProgramSubject(SETTINGS, commands_of("ledger", "no-fsync")) as other:
            assert other.additions() == once
            assert other.calls == calls


def test_a_bundle_is_searched_on_its_own_volume(tmp_path: Path) -> None:
    """The script that the bundle names is gone here, and the setup is not run again: its work is in the base."""
    commands = scripted(tmp_path, TWICE.replace("    os.fsync(ledger)\n", ""))
    commands = Commands(workload=commands.workload, check=f"[ -e before ] && {KEPT}", setup="touch before")
    recording, _ = record_interposed(SETTINGS, commands)
    packed = bundles.pack(recording, SETTINGS, commands=commands, files=attachments([commands.workload]))
    path = bundles.save(str(tmp_path / "found.crash"), packed)
    script = tmp_path / "program.py"
    script.unlink()
    with ProgramSubject.of_bundle(bundles.load(path)) as subject:
        found = first_that_helps(subject, subject.additions())
        assert found is not None
        assert found[0].text == "fsync(ledger) before each promise"


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return Prepared(*prepare(SETTINGS))


@pytest.mark.parametrize(
    ("commands", "test", "plan", "words"),
    [
        (Commands(check="true"), "tests/test_app.py::test_it", None, "test_app.py::test_it.*Python code"),
        (Commands(check="true"), "", None, "no workload"),
        (Commands(), "", Plan(operations=(Creat(path="a"),)), "holds a plan"),
        (Commands(workload="python3 /gone/app.py write"), "", None, "/gone/app.py"),
    ],
)
def test_a_bundle_without_a_program_is_misuse(
    commands: Commands, test: str, plan: Plan | None, words: str, prepared: Prepared, tmp_path: Path
) -> None:
    recording, _ = record_interposed(SETTINGS, Commands(workload="touch x"), prepared=prepared)
    packed = bundles.pack(recording, SETTINGS, commands=commands, test=test, plan=plan)
    bundle = bundles.load(bundles.save(str(tmp_path / "b.crash"), packed))
    with pytest.raises(Misuse, match=words) as caught:
        ProgramSubject.of_bundle(bundle)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("commands", "words", "settings"),
    [
        (Commands(workload="touch x; exit 3"), "exited with status 3", SETTINGS),
        (Commands(workload="touch x; sleep 60"), "hung", with_settings(timeout=0.5)),
        (Commands(workload="touch x", check="false"), "the check rejects the volume", SETTINGS),
    ],
)
def test_what_cannot_be_judged_is_trouble_and_not_intact(commands: Commands, words: str, settings: Settings) -> None:
    with ProgramSubject(settings, commands) as subject:
        tried = subject.judge()
    assert words in tried.trouble
    assert not tried.intact


def test_a_program_that_does_something_else_when_run_again_is_trouble(tmp_path: Path) -> None:
    """An fsync that was never made cannot be shown superfluous."""
    marker = tmp_path / "ran"
    workload = f"echo x > f; [ -e {marker} ] || sync f; : > {marker}"
    with ProgramSubject(SETTINGS, Commands(workload=workload)) as subject:
        (removal,) = subject.removals()
        tried = subject.judge([removal])
        assert "did not come to fsync of f" in tried.trouble
        assert not tried.intact


def test_a_change_of_another_program_is_misuse() -> None:
    change = Change(action="fsync", target="a", place="before each promise")
    with (
        ProgramSubject(SETTINGS, Commands(workload="touch x")) as subject,
        pytest.raises(Misuse, match="no such place"),
    ):
        subject.judge([change])


def test_a_lying_device_is_helped_by_no_fsync() -> None:
    with pytest.raises(Misuse, match="lying-flush"):
        ProgramSubject(with_settings(fault="lying-flush"), Commands(workload="touch x"))

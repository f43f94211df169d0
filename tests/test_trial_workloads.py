"""Workloads that do not do what is to be judged: each is told apart, none ends in a verdict, nothing is left."""

import os
from pathlib import Path

import pytest
from trial_support import SMALL, with_settings

from harness.errors import BoundExceeded, Misuse, WorkloadFailed
from harness.machine import mounts
from harness.settings import Settings
from harness.trial.check import command_checker, judge
from harness.trial.commands import Commands, attachments, materialize, resolve
from harness.trial.recorder import record
from harness.trial.recording import Recording
from harness.verdict import Verdict

pytestmark = pytest.mark.root


def recording_of(workload: str, setup: str = "", settings: Settings = SMALL) -> Recording:
    return record(settings, Commands(workload=workload, setup=setup))


@pytest.mark.parametrize(
    ("workload", "words", "changes"),
    [
        ("echo so sad; exit 7", "exited with status 7", {}),
        ("no-such-program", "exited with status 127", {}),
        ("kill -SEGV $$", "SIGSEGV", {}),
        ("sleep 60", "hung", {"timeout": 0.3}),
        ("trap '' TERM INT; while :; do :; done", "hung", {"timeout": 0.3}),
        ("cat /dev/zero > fill; true", "filled the volume", {}),
        ("sleep 60 & true", "left 1 process", {}),
        ("setsid sh -c 'sleep 60 & sleep 60' > /dev/null 2>&1 & sleep 0.1", r"left \d process", {}),
        ("true", "changed nothing", {}),
        ("echo somewhere else > /dev/null", "changed nothing", {}),
        ("cd /; umount $HARNESS_VOLUME", "unmounted the volume", {}),
        ("cd /; umount -l $HARNESS_VOLUME; echo lost > $HARNESS_VOLUME/x", "unmounted the volume", {}),
    ],
)
def test_a_workload_that_fails_is_no_verdict(workload: str, words: str, changes: dict[str, object]) -> None:
    with pytest.raises(WorkloadFailed, match=words) as caught:
        recording_of(workload, settings=with_settings(**changes))
    assert caught.value.remedy
    assert not os.path.ismount(mounts.enter_private_mounts().volume)


def test_the_end_of_its_output_is_kept() -> None:
    with pytest.raises(WorkloadFailed) as caught:
        recording_of("seq 100000; echo the last words >&2; exit 1")
    assert caught.value.output.endswith(b"the last words\n")
    assert len(caught.value.output) < 70_000


def test_a_setup_that_fails_is_told_as_setup() -> None:
    with pytest.raises(WorkloadFailed, match="setup failed"):
        recording_of("true", setup="exit 3")


def test_a_log_beyond_its_bound_is_no_verdict() -> None:
    with pytest.raises(BoundExceeded, match="log"):
        recording_of(
            "dd if=/dev/urandom of=x bs=1M count=6 conv=fsync 2> /dev/null", settings=with_settings(log_max=2 << 20)
        )


def test_promises_of_megabytes_with_any_bytes_come_back_whole() -> None:
    big = "head -c 3000000 /dev/zero | tr '\\0' x > $HARNESS_PROMISE"
    odd = "printf '\\377\\376 odd\\nsecond\\n\\nlast' > $HARNESS_PROMISE"
    settings = with_settings()
    recording = record(settings, Commands(workload=f"{big}; {odd}"))
    lines = [promise.line for promise in recording.log.promises()]
    assert lines[0] == b"x" * 3_000_000
    assert lines[1:3] == [b"\xff\xfe odd", b"second"]
    assert lines[-1] == b"last"
    check = "[ $(wc -c < $HARNESS_PROMISES) -eq 0 ] || [ $(head -n 1 $HARNESS_PROMISES | wc -c) -eq 3000001 ]"
    assert judge(recording, settings, command_checker(check, settings)).verdict is Verdict.INTACT


def test_setup_is_durable_and_seen_by_the_first_state() -> None:
    settings = with_settings()
    recording = record(settings, Commands(setup="echo before > kept", workload="echo during > other"))
    report = judge(recording, settings, command_checker('[ "$(cat kept)" = before ]', settings))
    assert report.verdict is Verdict.INTACT


def test_commands_run_in_the_volume_with_the_users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "yes")
    settings = Settings(size=16 << 20, fsck=False)
    workload = '[ "$MINE" = yes ] && [ "$PWD" = "$HARNESS_VOLUME" ] && [ -w "$HARNESS_PROMISE" ] && touch here && sync'
    recording = record(settings, Commands(workload=workload))
    check = '[ "$MINE" = yes ] && [ "$PWD" = "$HARNESS_VOLUME" ] && [ -r "$HARNESS_PROMISES" ]'
    assert judge(recording, settings, command_checker(check, settings)).verdict is Verdict.INTACT


def test_words_that_name_programs_are_resolved_and_the_files_go_along(tmp_path: Path) -> None:
    for name in ("app.py", "helper.py", "app.db", "data/golden file", "data/in"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    command = resolve("python3 app.py app.db < data/in > app.py ; 'app.py' data . app.pyx", str(tmp_path))
    assert (
        command
        == f"python3 {tmp_path}/app.py app.db < {tmp_path}/data/in > app.py ; '{tmp_path}/app.py' data . app.pyx"
    )
    files = attachments([command], [str(tmp_path / "data")])
    assert {file.path.removeprefix(f"{tmp_path}/") for file in files} == {
        "app.py",
        "helper.py",
        "data/in",
        "data/golden file",
    }
    with pytest.raises(Misuse, match="no such file"):
        attachments([], [str(tmp_path / "missing")])


def test_attached_files_that_differ_here_are_put_into_the_workspace(tmp_path: Path) -> None:
    script = tmp_path / "check.sh"
    script.write_text("exit 0")
    command = f"sh {script}"
    files = attachments([command])
    workspace = mounts.enter_private_mounts()
    assert materialize(command, files, workspace) == command
    script.write_text("exit 1")
    moved = materialize(command, files, workspace)
    assert moved != command
    assert Path(moved.removeprefix("sh ")).read_text() == "exit 0"

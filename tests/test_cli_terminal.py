"""On a terminal: live progress, Ctrl-C at any time, the interactive shell."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect  # type: ignore[import-untyped]
import pytest
from cli_support import CAREFUL, CARELESS, HARNESS, bundle_of, harness, place_app

pytestmark = pytest.mark.root

SLOW = ("check", "--workload", "python3 app.py careful", "--check", "python3 app.py slow")
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return place_app(tmp_path)


@pytest.fixture
def started() -> Iterator["list[pexpect.spawn[str]]"]:
    """Children that are gone when the test is over."""
    children: list[pexpect.spawn[str]] = []
    yield children
    for child in children:
        child.close(force=True)


def spawn(children: "list[pexpect.spawn[str]]", *words: str, cwd: Path, **env: str) -> "pexpect.spawn[str]":
    child: pexpect.spawn[str] = pexpect.spawn(
        HARNESS,
        list(words),
        cwd=str(cwd),
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 120),
        env={**os.environ, "TERM": "xterm", **env},
    )
    children.append(child)
    return child


def end_of(child: "pexpect.spawn[str]") -> tuple[int | None, str]:
    """Exit status and the rest of the output, without colours."""
    rest = child.read()
    child.close()
    return child.exitstatus, ANSI.sub("", rest or "")


def descendants(pid: int) -> set[int]:
    """All processes below `pid`, by /proc."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def test_progress_lives_on_one_line_and_leaves_the_report(app: Path, started: "list[pexpect.spawn[str]]") -> None:
    child = spawn(started, *SLOW, "--max-states", "30", cwd=app)
    child.expect(r"\[[#.]+\] .*\d+ of \d+ states, .*/s, .*0 findings")
    status, rest = end_of(child)
    assert status == 0
    assert "INTACT" in rest


def test_no_color_is_heeded(app: Path, started: "list[pexpect.spawn[str]]") -> None:
    child = spawn(started, *CARELESS, "-q", cwd=app, NO_COLOR="1")
    text = child.read() or ""
    assert "CORRUPTED" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text)


@pytest.mark.parametrize("pattern", ["recording the workload", r"\[[#.]+\] "], ids=["recording", "judging"])
def test_ctrl_c_ends_it_with_130_and_leaves_nothing(
    app: Path, started: "list[pexpect.spawn[str]]", pattern: str
) -> None:
    workload = "sleep 5" if "recording" in pattern else "python3 app.py careful"
    child = spawn(
        started, "check", "--workload", workload, "--check", "python3 app.py slow", "--json", "r.json", cwd=app
    )
    child.expect(pattern)
    time.sleep(0.5)
    below = descendants(child.pid)
    assert below
    child.sendintr()
    status, rest = end_of(child)
    assert status == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not any(os.path.exists(f"/proc/{pid}") for pid in below)
    assert '"exit_code": 130' in (app / "r.json").read_text()
    if "recording" not in pattern:
        assert "UNKNOWN" in rest
        assert re.search(r"interrupted: \d+ of \d+ states judged", rest)


def test_ctrl_c_at_many_instants_never_shows_a_traceback(app: Path, started: "list[pexpect.spawn[str]]") -> None:
    for tenth in range(1, 14):
        child = spawn(started, *CAREFUL, cwd=app)
        time.sleep(tenth / 10)
        child.kill(signal.SIGINT)
        status, rest = end_of(child)
        assert status in (130, 0), (tenth, rest)
        assert "Traceback" not in rest, (tenth, rest)


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_the_shell_has_job_control_and_ends_without_a_trace(
    app: Path, started: "list[pexpect.spawn[str]]", shell: str
) -> None:
    assert harness(*CARELESS, cwd=app).status == 1
    child = spawn(started, "replay", str(bundle_of(app)), "--shell", cwd=app, SHELL=shell, HOME=str(app))
    child.expect("exit to leave")
    child.expect(r"\(crash ext4 CORRUPTED\) .*# ")
    child.sendline("sleep 100")
    time.sleep(0.5)
    child.sendintr()
    child.expect(r"\(crash ext4 CORRUPTED\) .*# ")
    child.sendline("sleep 77 &")
    child.sendline("echo in $PWD with $(wc -l < $HARNESS_PROMISES); touch here && test -e here && echo can-write")
    child.expect(r"in /\S+/volume with \d+")
    child.expect("can-write")
    below = descendants(child.pid)
    child.sendline("exit 5")
    status, rest = end_of(child)
    assert status == 1, rest
    assert "Traceback" not in rest
    assert not any(os.path.exists(f"/proc/{pid}") for pid in below)

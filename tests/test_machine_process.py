"""External programs, pid-1 inits and shell commands, on real processes."""

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.errors import InternalError, ProgramFailed, RequirementMissing
from harness.machine import process
from harness.machine.sandbox import CRASHED, Init, ShellResult, run_shell, spawn_init

ENV = {"PATH": process.SYSTEM_PATH}


def in_init(work: Callable[[], Any]) -> Any:
    """What `work` returns as pid 1 of a new namespace (through JSON)."""
    reader, writer = os.pipe()

    def main() -> int:
        with os.fdopen(writer, "wb") as stream:
            stream.write(json.dumps(work()).encode())
        return 0

    with spawn_init(main) as init, os.fdopen(reader, "rb") as stream:
        os.close(writer)
        answer = stream.read()
        assert init.wait(30) == 0
    return json.loads(answer)


def shell(command: str, *, timeout: float = 20.0, output_max: int = 64 * 1024) -> ShellResult:
    """run_shell inside a fresh init."""

    def work() -> list[Any]:
        result = run_shell(command, cwd="/", env=ENV, timeout=timeout, output_max=output_max)
        return [result.status, result.output.decode(), result.timed_out, result.stragglers]

    status, output, timed_out, stragglers = in_init(work)
    return ShellResult(status, output.encode(), timed_out, stragglers)


def hang() -> int:
    time.sleep(60)
    return 0


def ends_within(reader: int, seconds: float) -> bool:
    """Whether every process that holds the other end of a pipe is gone: then there is end of file."""
    ready = select.select([reader], [], [], seconds)[0]
    return bool(ready) and os.read(reader, 1) == b""


class TestRun:
    def test_output_is_merged_and_the_environment_fixed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HARNESS_SECRET", "x")
        done = process.run(["sh", "-c", 'echo out; echo err >&2; echo "$LC_ALL $HARNESS_SECRET."'])
        assert (done.status, done.output) == (0, b"out\nerr\nC .\n")

    def test_programs_of_sbin_are_found_whatever_path_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        assert process.run(["tune2fs"], ok=range(256)).argv == ("tune2fs",)

    def test_stdin_is_empty_or_the_given_bytes(self) -> None:
        assert process.run(["cat"]).output == b""
        data = os.urandom(1 << 20)
        assert process.run(["cat"], input=data).output == data

    def test_a_failure_holds_a_command_to_paste_and_the_end_of_the_output(self) -> None:
        argv = ["sh", "-c", "yes start | head -c 100000; echo 'the end'; exit 3"]
        with pytest.raises(ProgramFailed, match="exited with status 3") as caught:
            process.run(argv)
        assert shlex.join(argv) in caught.value.cause
        assert caught.value.cause.endswith("the end")
        assert len(caught.value.cause) < 5000

    def test_a_status_can_be_declared_right(self) -> None:
        assert process.run(["sh", "-c", "exit 4"], ok=(0, 4)).status == 4

    def test_signals_have_names(self) -> None:
        with pytest.raises(ProgramFailed, match="killed by SIGSEGV"):
            process.run(["sh", "-c", "kill -SEGV $$"])

    def test_a_timeout_kills_the_whole_group(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        with pytest.raises(ProgramFailed, match=r"did not end within 0\.2 s"):
            process.run(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2)
        os.close(writer)
        assert ends_within(reader, 5)
        os.close(reader)

    def test_a_straggler_that_keeps_the_output_open_holds_up_nobody(self) -> None:
        began = time.monotonic()
        assert process.run(["sh", "-c", "sleep 10 & echo done"]).output == b"done\n"
        assert time.monotonic() - began < 9  # it did not wait for the straggler

    def test_a_missing_program_names_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "SYSTEM_PATH", "/nowhere")
        monkeypatch.setattr(process, "_found", {})
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(RequirementMissing, match="apt-get install xfsprogs"):
            process.run(["mkfs.xfs"])

    def test_signals_that_python_ignores_are_restored(self) -> None:
        done = process.run(["sh", "-c", "grep SigIgn /proc/self/status"])
        ignored = int(done.output.split()[1], 16)
        assert [sig for sig in process.RESTORED_SIGNALS if ignored & 1 << (sig - 1)] == []

    def test_it_dies_with_the_harness(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        command = f"echo up >/proc/self/fd/{writer}; exec sleep 60"
        code = f"from harness.machine.process import run; run(['sh', '-c', {command!r}])"
        with subprocess.Popen([sys.executable, "-c", code], pass_fds=[writer]) as harness:
            os.close(writer)
            assert os.read(reader, 3) == b"up\n"
            harness.kill()
        assert ends_within(reader, 5)
        os.close(reader)


@pytest.mark.root
class TestInit:
    def test_main_is_pid_1_and_sees_only_its_own_processes(self) -> None:
        pids = in_init(lambda: [os.getpid(), [name for name in os.listdir("/proc") if name.isdigit()]])
        assert pids == [1, ["1"]]

    def test_the_caller_keeps_its_namespaces(self) -> None:
        before = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid_for_children", "mnt")]
        in_init(os.getpid)
        assert [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid_for_children", "mnt")] == before
        assert process.run(["sh", "-c", "echo $$"]).output != b"1\n"

    def test_the_return_value_is_the_exit_status(self) -> None:
        with spawn_init(lambda: 7) as init:
            assert init.wait(10) == 7
            assert init.poll() == 7

    def test_an_exception_prints_its_traceback(self, capfd: pytest.CaptureFixture[str]) -> None:
        def main() -> int:
            raise ValueError("planted")

        with spawn_init(main) as init:
            assert init.wait(10) == CRASHED
        assert "ValueError: planted" in capfd.readouterr().err

    def test_nothing_of_the_caller_runs_in_the_child(self) -> None:
        code = (
            "import atexit; from harness.machine.sandbox import spawn_init\n"
            "atexit.register(print, 'atexit'); print('buffered')\n"
            "spawn_init(lambda: print('main') or 0).wait(10)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
        assert done.stdout.split() == [b"buffered", b"main", b"atexit"]

    def test_wait_and_poll_know_one_that_still_runs(self) -> None:
        with spawn_init(hang) as init:
            assert init.poll() is None
            assert init.wait(0.05) is None
            assert select.select([init], [], [], 0)[0] == []
            assert init.kill() == -signal.SIGKILL
            assert select.select([init], [], [], 0)[0] == [init]

    def test_it_ignores_ctrl_c_and_leads_a_session(self) -> None:
        def work() -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            return os.getsid(0) == os.getpid()

        assert in_init(work)

    def test_it_can_be_spawned_beside_threads_and_from_one(self) -> None:
        stop = threading.Event()
        busy = threading.Thread(target=stop.wait)
        busy.start()
        answers: list[Any] = []
        spawner = threading.Thread(target=lambda: answers.append(in_init(os.getpid)))
        spawner.start()
        spawner.join(20)
        answers.append(in_init(os.getpid))
        stop.set()
        busy.join()
        assert answers == [1, 1]

    def test_inits_nest(self) -> None:
        assert in_init(lambda: in_init(os.getpid)) == 1

    def test_sigkill_of_the_parent_ends_everything_below(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        code = f"""
import os
from harness.machine.sandbox import run_shell, spawn_init
daemons = "(setsid sh -c 'setsid sleep 60 & sleep 60' &); setsid sleep 60 & echo up >/proc/self/fd/{writer}; sleep 60"
def main():
    run_shell(daemons, cwd="/", env={ENV!r}, timeout=60)
    return 0
spawn_init(main).wait()
"""
        with subprocess.Popen([sys.executable, "-c", code], pass_fds=[writer]) as harness:
            os.close(writer)
            assert os.read(reader, 3) == b"up\n"
            assert not ends_within(reader, 0.1)
            harness.kill()
        assert ends_within(reader, 5)
        os.close(reader)

    def test_kill_takes_the_grandchildren_along(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)

        def main() -> int:
            return run_shell(
                f"setsid sleep 60 & echo up >/proc/self/fd/{writer}; wait", cwd="/", env=ENV, timeout=60
            ).status

        init: Init
        with spawn_init(main) as init:
            os.close(writer)
            assert os.read(reader, 3) == b"up\n"
            init.kill()
            # Reaping pid 1 means that the rest is gone: no waiting.
            assert ends_within(reader, 0)
        os.close(reader)


@pytest.mark.root
class TestShell:
    def test_output_status_and_directory(self) -> None:
        assert shell("pwd; echo err >&2; exit 3") == (3, b"/\nerr\n", False, 0)

    def test_a_signal_is_a_negative_status(self) -> None:
        assert shell("kill -SEGV $$").status == -signal.SIGSEGV

    def test_a_hanging_command_is_killed_with_all_that_it_started(self) -> None:
        began = time.monotonic()
        result = shell("echo before; setsid sleep 60 & sleep 60; echo never", timeout=0.3)
        assert (result.status, result.output, result.timed_out) == (-signal.SIGKILL, b"before\n", True)
        assert result.stragglers >= 1  # two, unless the machine is so busy that one had not been forked
        assert time.monotonic() - began < 50  # it did not wait for what sleeps

    def test_stragglers_are_counted_and_do_not_hold_up_the_result(self) -> None:
        began = time.monotonic()
        assert shell("setsid sleep 60 & sleep 60 & echo left; exit 1") == (1, b"left\n", False, 2)
        assert time.monotonic() - began < 50  # it did not wait for what sleeps

    def test_a_daemon_is_a_straggler(self) -> None:
        assert shell("(setsid sleep 60 &) ; exit 0").stragglers == 1

    def test_one_that_ended_by_itself_is_none(self) -> None:
        assert shell("true & (true &) ; sleep 0.1").stragglers == 0

    def test_an_endless_straggler_does_not_flood_us(self) -> None:
        result = shell("yes & exit 5", timeout=20)
        assert (result.status, result.timed_out, result.stragglers) == (5, False, 1)

    def test_output_is_bounded_and_the_end_is_kept(self) -> None:
        result = shell("seq 200000", output_max=1000)
        note, _, kept = result.output.partition(b"\n")
        whole = "".join(f"{n}\n" for n in range(1, 200001)).encode()
        assert (note, kept) == (b"[%d bytes dropped]" % (len(whole) - 1000), whole[-1000:])

    def test_a_command_may_close_its_output_early(self) -> None:
        assert shell("echo x; exec >&- 2>&-; sleep 0.2; exit 6") == (6, b"x\n", False, 0)

    def test_a_command_sees_its_dead_daemon_disappear(self) -> None:
        waiting = (
            'p=$(sh -c "sleep 0.1 >/dev/null 2>&1 & echo \\$!"); while kill -0 $p; do sleep 0.05; done 2>/dev/null'
        )
        assert shell(waiting, timeout=10) == (0, b"", False, 0)

    def test_output_can_go_to_a_descriptor(self) -> None:
        def work() -> list[Any]:
            target = os.memfd_create("out")
            result = run_shell("echo there", cwd="/", env=ENV, timeout=10, stdout=target)
            return [result.output.decode(), os.pread(target, 100, 0).decode()]

        assert in_init(work) == ["", "there\n"]

    def test_commands_follow_each_other_and_leave_no_descriptor_nor_directory(self) -> None:
        def work() -> list[int]:
            def state() -> list[str]:
                return [os.getcwd(), *os.listdir("/proc/self/fd")]

            before = state()
            statuses = [run_shell(f"sleep 9 & exit {n}", cwd="/tmp", env=ENV, timeout=10).status for n in range(20)]
            return statuses if state() == before else []

        assert in_init(work) == list(range(20))

    def test_a_missing_directory_is_the_callers_error(self) -> None:
        def work() -> str:
            try:
                run_shell("true", cwd="/nowhere", env=ENV, timeout=1)
            except FileNotFoundError as error:
                return str(error.filename)
            return ""

        assert in_init(work) == "/nowhere"

    def test_outside_an_init_it_refuses(self) -> None:
        with pytest.raises(InternalError, match="pid 1"):
            run_shell("true", cwd="/", env=ENV, timeout=1)

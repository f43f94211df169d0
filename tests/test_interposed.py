"""Programs run under interposition: every call on the volume is seen, syncs are added or left out, nothing remains."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from trial_support import SMALL, with_settings

from harness.advice.call_sites import AFTER, AFTER_RUN, BEFORE, DIRECTORY, FDATASYNC, FSYNC, REMOVE, Rule, Shape
from harness.advice.interposed import Prepared, record_interposed
from harness.blocklog import Kind
from harness.errors import TrialUnknown, WorkloadFailed
from harness.machine import mounts
from harness.machine.calls_seen import Call
from harness.machine.notify import Notification, Supervisor
from harness.machine.sandbox import answer_of
from harness.machine.shell import run_shell
from harness.trial.check import command_checker, judge
from harness.trial.commands import Commands
from harness.trial.recorder import prepare
from harness.trial.recording import Recording
from harness.verdict import Verdict

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return Prepared(*prepare(SMALL))


def run(workload: str, prepared: Prepared, rules: Sequence[Rule] = ()) -> tuple[Recording, tuple[Call, ...]]:
    return record_interposed(SMALL, Commands(workload=workload), rules, prepared=prepared)


def python(*lines: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote('import os' + chr(10) + chr(10).join(lines))}"


def seen(workload: str, prepared: Prepared, rules: Sequence[Rule] = ()) -> list[str]:
    return [f"{call.fate} {call.text}".strip() for call in run(workload, prepared, rules)[1]]


OPENED = "fd = os.open('f', os.O_CREAT | os.O_RDWR)"


KINDS = {
    "os.write(fd, b'x'); os.writev(fd, [b'y']); os.pwrite(fd, b'z', 9)": "write of f, write of f, write of f",
    "os.write(fd, b'x'); os.fsync(fd); os.fdatasync(fd)": "write of f, fsync of f, fdatasync of f",
    "os.truncate('f', 9); os.ftruncate(fd, 0); open('f', 'w')": "truncate of f, truncate of f",
    "os.write(fd, b'x'); open('f', 'w'); open('f', 'a')": "write of f, truncate of f",
    "os.write(fd, b'x'); shutil.copyfile('f', 'g')": "write of f, creat of g, write of g, write of g",
    "os.write(fd, b'x'); os.copy_file_range(fd, os.open('g', 66), 1, 0)": "write of f, creat of g, write of g",
    "os.posix_fallocate(fd, 0, 10)": "fallocate of f",
    "os.unlink('f'); os.write(fd, b'x')": "unlink of f, write of f (deleted)",
    "os.rename('f', 'g'); os.write(fd, b'x'); os.replace('g', 'h')": "rename of f -> g, write of g, rename of g -> h",
    "os.link('f', 'g'); os.symlink('f', 's'); open('s', 'a').write('x')": "link of f -> g, symlink of s, write of f",
    "os.makedirs('a/b'); os.rename('a/b', 'c')": "mkdir of a, mkdir of a/b, rename of a/b -> c",
    "os.mkdir('a'); os.rmdir('a'); os.sync()": "mkdir of a, rmdir of a, sync",
    "os.mkdir('a'); os.chdir('a'); open('../g', 'w'); os.mknod('h')": "mkdir of a, creat of g, creat of a/h",
    "os.mkdir('a'); d = os.open('a', 0); os.mkdir('b', dir_fd=d); os.fsync(d)": "mkdir of a, mkdir of a/b, fsync of a",
    "os.truncate(fd, 9); m = mmap.mmap(fd, 9); m[0] = 1; m.flush()": "truncate of f, mmap of f, msync of f",
    "print('elsewhere', flush=True); os.listdir('.'); os.read(fd, 1); os.write(fd, b'x')": "write of f",
    "open(os.environ['HARNESS_PROMISE'], 'w').write('one')": "promise",
}


@pytest.mark.parametrize("line", KINDS)
def test_each_kind_of_call_is_seen(line: str, prepared: Prepared) -> None:
    program = python("import mmap, shutil", OPENED, line)
    assert ", ".join(seen(program, prepared)) == f"creat of f, {KINDS[line]}"


def test_calls_that_fail_and_other_files_are_not_seen(prepared: Prepared, tmp_path: Path) -> None:
    workload = (
        f"touch kept; mkdir d; mkdir d 2> /dev/null; rm none 2> /dev/null; mv none x 2> /dev/null;"
        f"rmdir none 2> /dev/null; ln kept kept 2> /dev/null; echo x > {tmp_path}/out; mv {tmp_path}/out {tmp_path}/in"
    )
    assert seen(workload, prepared) == ["creat of kept", "mkdir of d"]


def test_where_and_how_much_was_written(prepared: Prepared) -> None:
    program = python(
        "fd = os.open('f', os.O_CREAT | os.O_WRONLY | os.O_DSYNC); os.write(fd, b'abc'); os.write(fd, b'de')",
        "os.pwrite(fd, b'x', 100)",
        "os.write(os.open('f', os.O_WRONLY | os.O_APPEND), b'end')",
    )
    _, calls = run(program, prepared)
    found = [(call.offset, call.length, call.durable) for call in calls if call.name == "write"]
    assert found == [(0, 3, True), (3, 2, True), (100, 1, True), (101, 3, False)]
    assert len({call.inode for call in calls if call.name == "write"} - {0}) == 1


def test_a_file_without_a_name_gets_one(prepared: Prepared) -> None:
    program = python(
        "fd = os.open('.', os.O_TMPFILE | os.O_WRONLY); os.write(fd, b'x')",
        "os.link(f'/proc/self/fd/{fd}', 'f', src_dir_fd=fd, follow_symlinks=True)",
    )
    _, calls = run(program, prepared)
    assert [call.name for call in calls] == ["write", "link"]
    assert calls[1].paths[1] == "f" and calls[1].paths[0] == calls[0].paths[0]


def test_a_shell_with_children_is_seen_as_one(prepared: Prepared) -> None:
    steps = ("printf 'b\\na\\n' | sort > x.new", "sync x.new", "mv x.new x", "sync .", "echo 1 | tee $HARNESS_PROMISE")
    workload = " && ".join((*steps, "sync -f ."))
    _, calls = run(workload, prepared)
    wanted = "creat of x.new, write of x.new, fsync of x.new, rename of x.new -> x, fsync of ., promise, syncfs"
    assert ", ".join(call.text for call in calls) == wanted
    assert calls[4].directory and not calls[2].directory
    # Of one process each: sort, sync, mv, sync, tee, sync; the redirection is made in the child that becomes sort.
    assert [call.process for call in calls] == [1, 1, 2, 3, 4, 5, 6]


def test_sqlite_needs_one_fsync_of_the_directory_more(prepared: Prepared) -> None:
    """https://www.sqlite.org/pragma.html#pragma_synchronous: only EXTRA syncs the directory after the journal is gone.

    So the default may lose the last commit; nothing of SQLite is changed to keep it.
    """
    workload = "sqlite3 a.db 'create table t(a); insert into t values (1)' && echo 1 > $HARNESS_PROMISE"
    settings = with_settings(max_states=200)
    check = command_checker("[ ! -s $HARNESS_PROMISES ] || [ $(sqlite3 a.db 'select a from t') = 1 ]", settings)
    before, calls = run(workload, prepared)
    names = [(call.name, *call.paths) for call in calls]
    for wanted in (("creat", "a.db"), ("write", "a.db"), ("fdatasync", "a.db"), ("unlink", "a.db-journal")):
        assert wanted in names
    assert judge(before, settings, check).verdict is Verdict.CORRUPTED
    gone = Shape("unlink", ("a.db-journal",))
    after, _ = run(workload, prepared, [Rule(when=AFTER, shape=gone, action=DIRECTORY, target=".")])
    assert judge(after, settings, check).verdict is Verdict.INTACT


THREADS = python(
    "import threading",
    "def work(n):",
    "    fd = os.open(f'file-{n}', os.O_CREAT | os.O_WRONLY)",
    "    for _ in range(20): os.write(fd, b'x'); os.fsync(fd)",
    "threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]",
    "[thread.start() for thread in threads]; [thread.join() for thread in threads]",
)


def test_threads_are_followed_each_in_its_order(prepared: Prepared) -> None:
    _, calls = run(THREADS, prepared)
    assert len(calls) == 4 * 41
    for thread in {call.thread for call in calls}:
        own = [call for call in calls if call.thread == thread]
        assert [call.name for call in own] == ["creat", *(["write", "fsync"] * 20)]
        assert len({call.paths for call in own}) == 1
    assert {call.process for call in calls} == {1}


def test_changes_reach_every_thread(prepared: Prepared) -> None:
    rules = [
        Rule(shape=Shape("fsync", ("file-N",)), action=REMOVE, target="file-N"),
        Rule(when=AFTER, shape=Shape("creat", ("file-N",)), action=DIRECTORY, target="."),
        Rule(when=AFTER_RUN, shape=Shape("write", ("file-N",)), action=FDATASYNC, target="file-N"),
    ]
    _, calls = run(THREADS, prepared, rules)
    assert sum(call.fate == "left out" and call.name == "fsync" for call in calls) == 80
    added = [call for call in calls if call.fate == "added"]
    # A thread that may still have been in its call is followed up once more.
    assert sum(call.name == "fdatasync" for call in added) >= 80
    assert sum(call.paths == (".",) for call in added) >= 4


def test_signals_of_the_program_do_not_make_a_call_be_seen_twice(prepared: Prepared) -> None:
    program = python(
        "import signal",
        "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)",
        OPENED,
        "for n in range(500): os.pwrite(fd, b'x', n)",
        "signal.setitimer(signal.ITIMER_REAL, 0)",
    )
    _, calls = run(program, prepared)
    assert [call.offset for call in calls if call.name == "write"] == list(range(500))


def test_many_processes_at_a_time_are_followed(prepared: Prepared) -> None:
    rule = Rule(shape=Shape("rename", ("N.new", "N")), action=FSYNC, target="N.new")
    workload = "seq 40 | xargs -P 8 -I @ sh -c 'echo @ > @.new; mv @.new @'"
    _, calls = run(workload, prepared, [rule])
    assert sum(call.name == "rename" for call in calls) == 40
    assert {call.paths[0] for call in calls if call.fate == "added"} == {f"{n}.new" for n in range(1, 41)}
    for path in {call.paths[0] for call in calls if call.fate == "added"}:
        assert [call.name for call in calls if path in call.paths] == ["creat", "write", "fsync", "rename"]


UNSAFE = "echo old > config.new; mv config.new config; echo 1 > $HARNESS_PROMISE"


def test_an_added_fsync_is_in_its_place(prepared: Prepared) -> None:
    rename = Shape("rename", ("config.new", "config"))
    rules = [
        Rule(shape=rename, action=FSYNC, target="config.new"),
        Rule(when=AFTER, shape=rename, action=DIRECTORY, target="."),
    ]
    assert seen(UNSAFE, prepared, rules) == [
        "creat of config.new",
        "write of config.new",
        "added fsync of config.new",
        "rename of config.new -> config",
        "added fsync of .",
        "promise",
    ]


def test_an_added_fsync_makes_durable_what_it_is_made_for(prepared: Prepared) -> None:
    settings = with_settings(cuts="promises")
    check = command_checker("[ ! -s $HARNESS_PROMISES ] || [ $(cat config) = old ]", settings)
    before, _ = run(UNSAFE, prepared)
    assert judge(before, settings, check).verdict is Verdict.CORRUPTED
    rule = Rule(when=BEFORE, shape=Shape("promise"), action=FSYNC, target="config")
    after, _ = run(UNSAFE, prepared, [rule])
    assert judge(after, settings, check).verdict is Verdict.INTACT


def test_one_that_is_left_out_is_not_made_and_the_program_does_not_see_it(prepared: Prepared) -> None:
    workload = python(OPENED, "os.write(fd, b'x'); print(os.fsync(fd)); os.write(fd, b'y'); os.fsync(fd)")
    fsync = Shape("fsync", ("f",))
    whole, _ = run(workload, prepared)
    less, calls = run(workload, prepared, [Rule(shape=fsync, action=REMOVE, target="f")])
    assert [call.fate for call in calls if call.name == "fsync"] == ["left out", "left out"]
    assert less.count(Kind.FLUSH) < whole.count(Kind.FLUSH)


def test_of_two_in_a_row_one_can_be_left_out(prepared: Prepared) -> None:
    workload = python(OPENED, "for _ in range(2): os.write(fd, b'x'); os.fsync(fd); os.fsync(fd)")
    fsync = Shape("fsync", ("f",))
    found = seen(workload, prepared, [Rule(shape=fsync, action=REMOVE, target="f", previous=fsync)])
    assert found == ["creat of f", *(["write of f", "fsync of f", "left out fsync of f"] * 2)]


def test_a_run_of_writes_gets_one_sync_at_its_end(prepared: Prepared) -> None:
    workload = "for n in 1 2; do echo a; echo b; touch $n; done > out"
    rule = Rule(when=AFTER_RUN, shape=Shape("write", ("out",)), action=FSYNC, target="out")
    found = seen(workload, prepared, [rule])
    run_of_two = ["write of out", "write of out", "added fsync of out"]
    assert found == ["creat of out", *run_of_two, "creat of 1", *run_of_two, "creat of 2"]


def test_what_follows_the_last_call_is_made_at_its_end(prepared: Prepared) -> None:
    rule = Rule(when=AFTER, shape=Shape("mkdir", ("d",)), action=DIRECTORY, target=".")
    assert seen(python("os.mkdir('d')"), prepared, [rule]) == ["mkdir of d", "added fsync of ."]


def test_the_same_changes_give_the_same_calls(prepared: Prepared) -> None:
    workload = "for n in 1 2 3; do echo $n > a.new; mv a.new a; done; sqlite3 b.db 'create table t(a)'; sync a"
    rules = [
        Rule(shape=Shape("rename", ("a.new", "a")), action=FSYNC, target="a.new"),
        Rule(shape=Shape("fsync", ("a",)), action=REMOVE, target="a"),
    ]
    first, second = run(workload, prepared, rules)[1], run(workload, prepared, rules)[1]
    assert first == second
    assert sum(call.fate == "added" for call in first) == 3


def test_the_base_stays_as_it_was(prepared: Prepared) -> None:
    assert seen("[ ! -e x ] && touch x", prepared) == seen("[ ! -e x ] && touch x", prepared) == ["creat of x"]


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ("touch x; kill -9 $$", "SIGKILL"),
        ("touch x; exit 3", "exited with status 3"),
        ("touch x; sleep 60", "hung"),
        ("while :; do echo x >> x; done", "hung"),
        ("touch x; sleep 60 & true", "left 1 process"),
        ("true", "changed nothing"),
        ("no-such-program", "exited with status 127"),
    ],
)
def test_a_workload_that_fails_is_no_verdict(workload: str, words: str, prepared: Prepared) -> None:
    rule = Rule(when=AFTER_RUN, shape=Shape("write", ("x",)), action=FSYNC, target="x")
    with pytest.raises(WorkloadFailed, match=words):
        # Only what is to hang has little time for it.
        settings = with_settings(timeout=0.5) if words == "hung" else SMALL
        record_interposed(settings, Commands(workload=workload), [rule], prepared=prepared)
    assert not os.path.ismount(mounts.enter_private_mounts().volume)


def test_a_foreign_architecture_is_told(prepared: Prepared) -> None:
    # getpid by `int 0x80`, which enters the kernel by the table of i386, from machine code: no compiler is needed.
    code = "0x53, 0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x5b, 0xc3"
    program = python(
        "import ctypes, mmap",
        f"os.mkdir('d'); memory = mmap.mmap(-1, 4096, prot=7); memory.write(bytes([{code}]))",
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()",
    )
    if os.uname().machine == "x86_64":
        with pytest.raises(TrialUnknown, match="another architecture"):
            run(program, prepared)


def test_what_cannot_be_seen_is_noted(prepared: Prepared) -> None:
    recording, _ = run(python("import ctypes", "os.mkdir('d'); ctypes.CDLL(None).syscall(425, 1, 0)"), prepared)
    assert any("io_uring" in note for note in recording.notes)


def test_a_second_supervisor_is_refused(prepared: Prepared) -> None:
    program = python(
        "import errno",
        "from harness.machine.notify import Supervisor",
        "with Supervisor(lambda _: None) as inner:",
        "    try: inner.spawn('/bin/true', ['true'], {})",
        "    except OSError as error: os.mkdir(errno.errorcode[error.errno])",
    )
    assert seen(program, prepared) == ["mkdir of EBUSY"]


def test_a_handler_that_fails_holds_nobody_up() -> None:
    def handler(_: Notification) -> int | None:
        raise ValueError("broken")

    def life() -> bytes:
        with Supervisor(handler) as supervisor:
            done = run_shell("echo hello", cwd="/", env={}, timeout=20, spawn=supervisor.spawn)
        return b"%d %s %s" % (done.status, done.output, supervisor.trouble.encode())

    told, status = answer_of(life, 30.0)
    assert status == 0
    assert told.startswith(b"0 hello") and b"ValueError: broken" in told


INTERRUPTED = """
import sys
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.advice.interposed import record_interposed
record_interposed(Settings(size=16 << 20), Commands(workload=sys.argv[1]))
"""


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    workload = f"echo x > f; : > {tmp_path}/ready; exec sleep 86399"
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, workload], stderr=subprocess.PIPE) as process:
        with ready.open():  # the workload runs
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in told
    assert not [line for line in _command_lines() if b"86399" in line]


def _command_lines() -> list[bytes]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append(Path(f"/proc/{entry}/cmdline").read_bytes())
            except OSError:
                continue
    return found

"""The crash_volume fixture as a test's author meets it: record, promise, verify, convict, and how it fails."""

import pytest
from plugin_app import GONE, run, text

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.root

BAD = """
def test_bad(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume, sync=False)
    print("printed", "once")
    crash_volume.verify(kept)  # the line that the failure shows
"""


def test_an_honest_program_passes_and_leaves_nothing(pytester: pytest.Pytester) -> None:
    body = """
def test_good(crash_volume, record_property):
    with crash_volume.record(setup=lambda path: open(path + "/old", "w").close()) as volume:
        assert os.path.exists(volume.path + "/old")
        ledger(volume)
    report = crash_volume.verify(lambda state: os.path.exists(state.path + "/old") and kept(state) is None)
    assert report.verdict == "INTACT" and report.judged == report.selected > 5 and report.promises == 3
    print(crash_volume._case.item.user_properties)
"""
    result = run(pytester, body + GONE, "-W", "error")
    result.assert_outcomes(passed=2)
    for name in ("('crash_verdict', 'INTACT')", "('crash_expected', 'INTACT')", "('crash_fs', 'ext4')", "crash_scope"):
        assert name in text(result)


def test_a_failure_is_the_finding_at_the_tests_own_line(pytester: pytest.Pytester) -> None:
    result = run(pytester, BAD + GONE)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.re_match_lines(
        [
            r">\s+crash_volume.verify\(kept\)  # the line that the failure shows",
            r"E\s+CrashFailure: CORRUPTED: assert \[\] == ",
            r"E\s+judged\s+all \d+ distinct states that the subset model allows",
            r"E\s+CHECK  \(the user's check said no, in its own words\)",
            r"E\s+shown by\s+\d+ states?, seen again 3/3 on fresh disks",
            r"E\s+cut\s+after \d+ of \d+ events, in epoch",
            r"E\s+lost ",
            r"E\s+promises\s+\d of 3 made before the cut",
            r"E .*app.py\", line \d+, in kept",
            r"E\s+AssertionError: assert \[\] == ",
            r"E\s+kernel\s+EXT4-fs",
            r"E\s+bundle\s+reports/ext4-check-[0-9a-f]+.*\.crash",
            r"E\s+replay\s+harness replay reports/ext4-check-[0-9a-f]+.*\.crash$",
            r"test_it.py:\d+: CrashFailure",
        ]
    )
    assert "harness/" not in text(result), "no frame of ours"
    assert text(result).count("\nprinted once") == 1, "no worker writes it again"
    assert list(pytester.path.glob("reports/*.crash"))


def test_a_finding_that_cannot_be_saved_is_still_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, BAD, "--harness-reports=test_it.py")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"E\s+CrashFailure: CORRUPTED", r"E\s+note\s+the bundles could not be saved: "])


def test_an_assert_without_a_message_is_told_by_its_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(plain="def check(state):\n    assert len(state.promises) != 1\n")
    body = """
def test_plain(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume)
    import plain
    crash_volume.convict(plain.check, contains="assert len(state.promises) != 1")
"""
    run(pytester, body).assert_outcomes(passed=1)


def test_a_planted_bug_is_convicted_for_the_right_reason_only(pytester: pytest.Pytester) -> None:
    body = """
@pytest.fixture
def recorded(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume, sync=False)
    return crash_volume

def test_right(recorded):
    report = recorded.convict(kept, kind="CHECK", contains="== ['0'")
    assert report.verdict == "CORRUPTED"
    names = [name for name, _ in recorded._case.item.user_properties]
    assert "crash_bundle" in names and "crash_replay" in names

def test_wrong_kind(recorded):
    recorded.convict(kept, kind="TORN")

def test_wrong_text(recorded):
    recorded.convict(kept, contains="no such words")

def test_unknown_kind(recorded):
    recorded.convict(kept, kind="BROKEN")

def test_intact(recorded):
    recorded.convict(lambda state: True)

def test_judge_only_reports(recorded):
    assert recorded.judge(kept).verdict == "CORRUPTED"
"""
    result = run(pytester, body)
    result.assert_outcomes(passed=2, failed=4)
    shown = text(result)
    assert "CrashFailure: expected CORRUPTED by TORN, but the verdict is CORRUPTED: assert" in shown
    assert "expected CORRUPTED with 'no such words' in its summary" in shown
    assert "'BROKEN' is no kind of finding" in shown
    assert "expected CORRUPTED, but the verdict is INTACT: no violation in all" in shown


def test_promises_come_back_as_json_does(pytester: pytest.Pytester) -> None:
    body = """
VALUES = ["ünï→\\U0001f4be", None, {"a": [1, {"b": None}], "": ""}, 1.5, True, "two\\nlines", "x" * 2000, "\\udc80", -1]

def test_odd(crash_volume):
    with crash_volume.record() as volume:
        for value in VALUES:
            append(volume.path, "x")
            volume.promise(value)
        with open(volume.promise_path, "ab", buffering=0) as file:
            file.write(b"a line\\n")
    def check(state):
        assert state.promises == [*VALUES, "a line"][: len(state.promises)]
    assert crash_volume.verify(check).promises == 10

@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan"), {(1, 2): 3}, object()])
def test_refused(crash_volume, value):
    from harness.errors import Misuse
    with crash_volume.record() as volume:
        with pytest.raises(Misuse, match="cannot be promised"):
            volume.promise(value)
    with pytest.raises(Misuse, match="recording is over"):
        volume.promise(1)
"""
    run(pytester, body).assert_outcomes(passed=6)


def test_programs_run_in_the_volume_and_promise_through_the_file(pytester: pytest.Pytester) -> None:
    body = """
def test_program(crash_volume):
    from harness.errors import WorkloadFailed
    with crash_volume.record() as volume:
        assert volume.run("pwd").decode().strip() == volume.path
        volume.run(["sh", "-c", 'echo 0 > log && sync && echo 0 > "$HARNESS_PROMISE"'])
        volume.run("python3 writer.py")
        with pytest.raises(WorkloadFailed, match="status 3"):
            volume.run("echo told; exit 3")
        with pytest.raises(WorkloadFailed, match="hung"):
            volume.run("sleep 30", timeout=0.2)
    assert crash_volume.verify(kept).promises == 2
    crash_volume.verify(command="python3 reader.py")
    crash_volume.convict("test ! -s log")

def test_it_fails(crash_volume):
    with crash_volume.record() as volume:
        volume.run("echo what it said; exit 3")
"""
    pytester.makepyfile(
        writer="""
            import os
            from app import append
            append(".", "1")
            with open(os.environ["HARNESS_PROMISE"], "w") as promise:
                promise.write("1\\n")
        """,
        reader="""
            import os
            promises = open(os.environ["HARNESS_PROMISES"]).read().split()
            log = open("log").read().split() if os.path.exists("log") else []
            assert log[: len(promises)] == promises
        """,
    )
    body = body.replace('crash_volume.convict("test ! -s log")', 'crash_volume.judge("true")')
    result = run(pytester, body)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines(
        [r">\s+volume.run\(\"echo what", r"E.*WorkloadFailed: the program failed", r"E\s+what it said"]
    )
    assert "harness/trial" not in text(result)


def test_what_a_test_leaves_behind_harms_no_other(pytester: pytest.Pytester) -> None:
    body = """
def test_open_file(crash_volume):
    with crash_volume.record() as volume:
        left = open(volume.path + "/left", "w")
        left.write("in a buffer")
        os.chdir(volume.path)
        ledger(volume)
    report = crash_volume.verify(kept)
    assert any("still open" in note for note in report.notes), report.notes
    left.write("later")
    left.close()

def test_raises(crash_volume):
    with crash_volume.record() as volume:
        left = open(volume.path + "/left", "w")
        left.write("in a buffer")
        raise ValueError("of the body")

kept_alive = []

def test_never_leaves_the_block(crash_volume):
    kept_alive.append(crash_volume.record().__enter__())

def test_judges_too_early(crash_volume):
    from harness.errors import Misuse
    with pytest.raises(Misuse, match="nothing was recorded"):
        crash_volume.verify(kept)
    with crash_volume.record() as volume:
        with pytest.raises(Misuse, match="recording is not over"):
            crash_volume.verify(kept)
        with pytest.raises(Misuse, match="one volume at a time"):
            crash_volume.using(model="prefix").record().__enter__()
"""
    result = run(pytester, body + GONE)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.re_match_lines(
        [r">\s+raise ValueError", r"E\s+ValueError: of the body", r"test_it.py:\d+: ValueError"]
    )


def test_a_check_that_does_not_answer_is_unknown_and_fails(pytester: pytest.Pytester) -> None:
    body = """
@pytest.fixture
def recorded(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume)
    return crash_volume.using(max_states=40)

def only_when_cut(state, then):
    if len(state.promises) == 1:
        then()

def test_raises(crash_volume, recorded):
    def check(state):
        print("seen", state.promises)
        if len(state.promises) == 1:
            raise KeyError("of the check")
    crash_volume.verify(check)

def test_says_no_with_fail(crash_volume, recorded):
    def check(state):
        if len(state.promises) == 1:
            pytest.fail("no, says the check")
    crash_volume.convict(check, kind="CHECK", contains="no, says the check")

def test_skips(crash_volume, recorded):
    def check(state):
        if len(state.promises) == 1:
            pytest.skip("too hard")
    crash_volume.verify(check)

def test_unsound(crash_volume, recorded):
    crash_volume.verify(lambda state: False)
"""
    result = run(pytester, body)
    result.assert_outcomes(passed=1, failed=3)
    shown = text(result)
    assert "CrashFailure: UNKNOWN: the check raised KeyError: 'of the check'" in shown
    assert "seen ['0']" in shown
    assert "CrashFailure: UNKNOWN: the check gave up instead of answering: Skipped: too hard" in shown
    assert "CheckUnsound: the check rejects the volume as the workload left it" in shown
    assert "harness/" not in shown
    assert "Captured stdout" not in shown, "what checks print belongs to the finding"


def test_interrupted_while_judging(pytester: pytest.Pytester) -> None:
    body = """
import signal, time

def test_slow(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    crash_volume.verify(lambda state: time.sleep(0.4))
"""
    result = run(pytester, body)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in text(result)

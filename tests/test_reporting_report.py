"""Reports drawn from made-up recordings: what stands in them is what the log and the state say."""

import io
import json

import pytest

from harness.blocklog import BlockLog, LogWriter
from harness.crash import CrashState
from harness.errors import Missing, RequirementMissing, WorkloadFailed
from harness.machine.image import Image
from harness.reporting import json_report, scenarios
from harness.reporting.console import console
from harness.reporting.facts import epoch_rows, facts
from harness.reporting.overview import epoch_lines
from harness.reporting.terminal import Page, headline
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recording import Recording
from harness.trial.report import Found, Report
from harness.verdict import ExitCode, Finding, FindingKind, Verdict
from harness.volume import VolumeSpec

SIZE = 1 << 20
BLOCK = bytes(4096)


@pytest.fixture
def recording() -> Recording:
    """Two flushed writes, then three writes and a discard with two promises before and one among them."""
    buffer = bytearray(1 << 20)
    log = LogWriter(buffer)
    log.mark(b"begin")
    log.write(0, BLOCK)
    log.write(4096, BLOCK)
    log.flush()
    log.mark(b"promise:one")
    log.mark(b"promise:\xff\x1b")
    log.write(8192, b"x" * 8192)
    log.write(65536, b"y" * 4096)
    log.mark(b"json:[3]")
    log.discard(131072, 4096)
    log.mark(b"end")
    parsed = BlockLog.parse(buffer)
    end = parsed.find(b"end")
    assert end is not None
    spec = VolumeSpec(fs="ext4", size=SIZE)
    return Recording(spec, Image.create(SIZE, "base"), parsed, 0, end)


STATE = CrashState(epoch=1, cut=9, kept=0b010, promises=2, name="ab" * 16)


def report_of(**values: object) -> Report:
    fields = {"model": "subset", "seed": 3, "allowed": 12, "selected": 10, "complete": True, "judged": 10} | values
    return Report(**fields)  # type: ignore[arg-type]


def printed(report: Report, recording: Recording, *, verbose: bool = False) -> str:
    out = io.StringIO()
    page = Page(console(out), verbose=verbose)
    page.report(report, recording, Settings())
    page.found(report, recording, Settings())
    return out.getvalue()


def test_facts_name_the_lost_writes_and_the_promises_before_the_cut(recording: Recording) -> None:
    known = facts(recording, recording.space(Settings()), STATE)
    assert [(lost.offset, lost.length) for lost in known.lost] == [(8192, 8192)]
    assert known.writes == 2
    assert [promise.raw for promise in known.promises] == [b"one", b"\xff\x1b"]
    assert known.promises_total == 3
    assert known.where == "after 9 of 11 events, in epoch 2 of 2"


def test_epochs_add_up_to_the_log(recording: Recording) -> None:
    first, second = epoch_rows(recording, recording.space(Settings()))
    assert (first.writes, first.bytes, first.promises, first.flushed) == (2, 8192, 0, True)
    assert (second.writes, second.bytes, second.discards, second.promises, second.flushed) == (2, 12288, 1, 3, False)
    lines = list(epoch_lines([first, second], 9))
    assert "<== power cut after 9 events" in lines[-1]
    assert "power cut" not in lines[-2]


def test_a_long_log_is_shown_by_its_ends_and_the_cut(recording: Recording) -> None:
    row = epoch_rows(recording, recording.space(Settings()))[0]
    rows = [row._replace(number=n, start=10 * n, stop=10 * n + 9) for n in range(1000)]
    lines = list(epoch_lines(rows, 5005))
    assert len(lines) < 80
    assert sum("left out" in line for line in lines) == 2
    assert sum("<== power cut" in line for line in lines) == 1


def test_the_verdict_comes_first_and_a_finding_has_one_replay_command(recording: Recording) -> None:
    finding = Finding(
        kind=FindingKind.LOST_ACKED,
        summary="entry 1 is gone",
        output="\n".join(f"line {n}" for n in range(30)) + "\nentry 1 is gone\x1b[31m",
        kernel=("EXT4-fs (loop0): recovery complete",),
    )
    found = Found(finding=finding, state=STATE, lost=1, states=4, reproduced="3/3", bundle="re ports/a.crash")
    text = printed(report_of(found=[found]), recording)
    assert text.strip().startswith("CORRUPTED")
    assert text.count("harness replay") == 1
    assert "harness replay 're ports/a.crash'" in text
    assert "1 of the 2 writes since the last flush" in text
    assert "8 KiB at byte 8,192" in text
    assert "2 of 3 made before the cut" in text
    assert r"\xff\x1b" in text
    assert "\x1b" not in text
    assert "line 22" in text
    assert "line 3\n" not in text
    assert "line 3\n" in printed(report_of(found=[found]), recording, verbose=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"selected": 0, "judged": 0}, "nothing was judged"),
        ({"judged": 7}, "only 7 of 10 states were judged"),
        ({"judged": 7, "interrupted": True}, "interrupted: 7 of 10 states judged"),
        ({"unknown": 2}, "2 states could not be judged"),
    ],
)
def test_unknown_explains_itself(values: dict[str, object], said: str) -> None:
    report = report_of(**values)
    assert report.verdict is Verdict.UNKNOWN
    assert said in headline(report)


def test_a_sample_never_says_all(recording: Recording) -> None:
    text = printed(report_of(complete=False, allowed=10**30), recording)
    assert "no violation in 10 distinct states of about 2^100" in text
    assert "(a sample)" in text


def test_json_holds_numbers_that_others_can_read(recording: Recording) -> None:
    finding = Finding(kind=FindingKind.CHECK, summary="bad \udcff", output="o")
    found = Found(finding=finding, state=STATE, lost=1)
    report = report_of(found=[found], allowed=2**70)
    content = json_report.of_report(report, recording, Settings(), Commands(workload="w"), ExitCode.CORRUPTED)
    told = json.loads(json.dumps(content))
    assert told["states"]["allowed"] is None
    assert told["states"]["allowed_text"].startswith("about 2^70")
    (shown,) = told["findings"]
    assert shown["summary"] == r"bad \udcff"
    assert shown["replay"] is None
    assert shown["state"]["lost"] == [{"event": 6, "kind": "write", "offset": 8192, "length": 8192}]
    assert shown["state"]["promises"]["last"] == [
        {"at": 4, "json": False, "text": "one"},
        {"at": 5, "json": False, "base64": "/xs="},
    ]


@pytest.mark.parametrize(
    ("error", "code", "key"),
    [
        (WorkloadFailed("it failed", "fix it", b"said\xff"), 3, "output"),
        (RequirementMissing([Missing("root", "needed", "sudo")]), 4, "missing"),
        (KeyboardInterrupt(), 130, "cause"),
        (ValueError("oops"), 5, "cause"),
    ],
)
def test_an_error_is_unknown_in_json(error: BaseException, code: int, key: str) -> None:
    told = json.loads(json.dumps(json_report.of_error(error, Settings(), Commands())))
    assert (told["verdict"], told["exit_code"]) == ("UNKNOWN", code)
    assert told["error"][key]
    assert told["interrupted"] is (code == 130)


def line_of(outcome: str, *properties: tuple[str, object], phase: str = "call") -> str:
    return json.dumps(
        {
            "test": "t.py::test_a",
            "outcome": outcome,
            "phase": phase,
            "seconds": 1.0,
            "properties": properties,
            "message": "m",
        }
    )


def volume_of(verdict: str, expected: str, states: int = 5) -> list[tuple[str, object]]:
    return [("crash_verdict", verdict), ("crash_states", states), ("crash_expected", expected), ("crash_fs", "xfs")]


@pytest.mark.parametrize(
    ("outcome", "volumes", "code"),
    [
        ("passed", volume_of("INTACT", "INTACT") + volume_of("CORRUPTED", "CORRUPTED"), 0),
        ("passed", [], 0),
        ("failed", volume_of("INTACT", "INTACT") + volume_of("CORRUPTED", "INTACT"), 1),
        ("failed", volume_of("INTACT", "CORRUPTED"), 3),
        ("failed", volume_of("CORRUPTED", "CORRUPTED"), 3),
        ("failed", volume_of("UNKNOWN", "INTACT"), 3),
        ("skipped", [], 3),
    ],
)
def test_exit_codes_of_scenarios(outcome: str, volumes: list[tuple[str, object]], code: int) -> None:
    (scenario,) = scenarios.gather([line_of(outcome, *volumes)], "/nowhere")
    assert scenarios.exit_code([scenario]) == code
    assert scenario.states == 5 * (len(volumes) // 4)


def test_a_failing_teardown_spoils_a_pass() -> None:
    lines = [line_of("passed", *volume_of("INTACT", "INTACT")), line_of("failed", phase="teardown")]
    (scenario,) = scenarios.gather(lines, "/nowhere")
    assert scenario.outcome == "failed in teardown"
    assert scenario.verdict is Verdict.UNKNOWN
    assert scenarios.exit_code([]) == ExitCode.UNKNOWN

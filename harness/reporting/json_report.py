"""The report as JSON, for CI and scripts. `schema` grows when a field changes its meaning or goes away.

Offsets and lengths are bytes. Text that is not UTF-8 stands as {"base64": "…"} instead of {"text": "…"}.
"""

import base64
import itertools
import platform
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

import harness
from harness.blocklog import Promise
from harness.crash.model import show_count
from harness.errors import HarnessError, RequirementMissing, TrialUnknown
from harness.explain.explained import Explained
from harness.machine.files import write_atomically
from harness.reporting.evidence import classes
from harness.reporting.facts import Facts, facts_of
from harness.reporting.terminal import replay_command
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recording import Recording
from harness.trial.report import Found, Report
from harness.verdict import ExitCode, Finding, Verdict

SCHEMA = 1
KIND = "crash-harness report"
_EXACT_MAX = 2**53
_PROMISES_MAX = 100


def head(verdict: Verdict, exit_code: ExitCode, settings: Settings, commands: Commands) -> dict[str, Any]:
    """What every report has, also that of a trial that ended in an error."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "harness": harness.__version__,
        "kernel": platform.release(),
        "verdict": verdict.value,
        "exit_code": int(exit_code),
        "interrupted": exit_code is ExitCode.INTERRUPTED,
        "error": None,
        "settings": msgspec.to_builtins(settings),
        "commands": msgspec.to_builtins(commands),
    }


def of_report(
    report: Report,
    recording: Recording,
    settings: Settings,
    commands: Commands,
    exit_code: ExitCode,
    reasons: Sequence[Explained] = (),
) -> dict[str, Any]:
    """The whole of a finished (or interrupted) trial; `reasons`: why, of each finding, as far as they go."""
    return head(report.verdict, exit_code, settings, commands) | {
        "recording": of_recording(recording)
        | {"writes": report.writes, "flushes": report.flushes, "promises": report.promises},
        "scope": report.scope,
        "states": {
            "allowed": report.allowed if report.allowed < _EXACT_MAX else None,
            "allowed_text": show_count(report.allowed),
            "selected": report.selected,
            "judged": report.judged,
            "unknown": report.unknown,
            "complete": report.complete,
            "seconds": round(report.seconds, 3),
            "rate": round(report.rate, 1),
        },
        "findings": [
            _of_found(found, facts_of(found, recording, settings)) | (_of_reason(reason) if reason else {})
            for found, reason in itertools.zip_longest(report.found, reasons)
        ],
        "notes": list(report.notes),
    }


def of_error(error: BaseException, settings: Settings, commands: Commands) -> dict[str, Any]:
    """A trial that ended without a report: UNKNOWN, and why."""
    if isinstance(error, HarnessError):
        exit_code, cause, remedy = error.exit_code, error.cause, error.remedy
    elif isinstance(error, KeyboardInterrupt):
        exit_code, cause, remedy = ExitCode.INTERRUPTED, "interrupted", ""
    else:
        exit_code, cause, remedy = ExitCode.INTERNAL, f"{type(error).__name__}: {error}", "report this"
    told: dict[str, Any] = {"type": type(error).__name__, "cause": safe(cause), "remedy": safe(remedy)}
    if isinstance(error, RequirementMissing):
        told["missing"] = [missing._asdict() for missing in error.missing]
    if isinstance(error, TrialUnknown) and (output := getattr(error, "output", b"")):
        told["output"] = output.decode("utf-8", "backslashreplace")
    return head(Verdict.UNKNOWN, exit_code, settings, commands) | {"error": told, "findings": []}


def of_recording(recording: Recording) -> dict[str, Any]:
    """The volume and the log, in figures."""
    return {
        "volume": msgspec.to_builtins(recording.spec),
        "events": len(recording.log.events),
        "begin": recording.begin,
        "end": recording.end,
        "log_bytes": recording.log.size,
        "clean_unmount": recording.orderly,
        "notes": list(recording.notes),
    }


def of_finding(finding: Finding) -> dict[str, Any]:
    """What is wrong, and the evidence."""
    return {
        "kind": finding.kind.value,
        "meaning": finding.kind.meaning,
        "verdict": finding.verdict.value,
        "summary": safe(finding.summary),
        "output": safe(finding.output),
        "kernel": [safe(line) for line in finding.kernel],
        "kernel_classes": classes(finding.kernel),
    }


def of_state(known: Facts) -> dict[str, Any]:
    """The cut, the lost writes, and the last of the promises made before it."""
    return {
        "cut": known.cut,
        "events": known.events,
        "epoch": known.epoch,
        "epochs": known.epochs,
        "unflushed_writes": known.writes,
        "lost": [
            {"event": lost.event, "kind": lost.kind.name.lower(), "offset": lost.offset, "length": lost.length}
            for lost in known.lost
        ],
        "promises": {
            "made": len(known.promises),
            "total": known.promises_total,
            "last": of_promises(known.promises[-_PROMISES_MAX:]),
        },
    }


def of_promises(promises: Sequence[Promise]) -> list[dict[str, Any]]:
    """Each with its place in the log; `json` tells a value promised from Python from a line of the promise file."""
    return [{"at": promise.at, "json": promise.is_json} | _text(promise.raw) for promise in promises]


def _of_found(found: Found, known: Facts) -> dict[str, Any]:
    return of_finding(found.finding) | {
        "states": found.states,
        "reproduced": found.reproduced or None,
        "state": {"name": found.state.name} | of_state(known),
        "bundle": found.bundle or None,
        "replay": replay_command(found.bundle) if found.bundle else None,
    }


def _of_reason(reason: Explained) -> dict[str, Any]:
    return {
        "why": safe(reason.headline),
        "story": [safe(text) for text in reason.story],
        "lost_classes": list(reason.lost_classes),
    }


def _text(raw: bytes) -> dict[str, str]:
    try:
        return {"text": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode("ascii")}


def safe(text: str) -> str:
    """Text that UTF-8 can hold: what came from undecodable bytes is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write(path: str, content: object) -> None:
    """To the file, whole or not at all; '-' is standard output. OSError as open(2) and write(2) raise it."""
    text = msgspec.json.format(msgspec.json.encode(content)) + b"\n"
    if path == "-":
        sys.stdout.write(text.decode("utf-8"))
        sys.stdout.flush()
    else:
        write_atomically(path, text)

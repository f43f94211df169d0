"""Why a finding came about, for reports that show more than that."""

from harness.explain.explained import Explained
from harness.explain.explaining import explained
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recording import Recording
from harness.trial.report import Found, Report

EXPLAINED_MAX = 20


def why(
    found: Found,
    recording: Recording,
    settings: Settings,
    *,
    plan: Plan | None = None,
    commands: Commands | None = None,
) -> Explained:
    """The story of an entry of a report: of the second crash, where there were two."""
    its = found.deeper or recording
    return explained(its, settings, found.state, found.finding, plan=plan, commands=commands, bundle=found.bundle)


def reasons(
    report: Report,
    recording: Recording,
    settings: Settings,
    *,
    plan: Plan | None = None,
    commands: Commands | None = None,
    most: int = EXPLAINED_MAX,
) -> list[Explained]:
    """Of the first so many findings of a report, in their order.

    A log that the explainer cannot cope with costs its explanation, which the report's notes tell, and not the verdict.
    """
    try:
        return [why(found, recording, settings, plan=plan, commands=commands) for found in report.found[:most]]
    except Exception as error:
        report.notes.append(f"the findings could not be explained ({type(error).__name__}: {error}): please report it")
        return []

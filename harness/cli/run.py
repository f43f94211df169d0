"""`harness run`: the scenarios as CI runs them, and what they say together."""

import os
import sys
import time

import click

import harness
from harness.cli import exits, options
from harness.cli.kept_scenarios import kept_scenarios
from harness.cli.recorded import Recorder, recorded
from harness.cli.scenarios import Ran, root_of, run_pytest
from harness.cli.verdicts import could_not_write, write_json
from harness.errors import Misuse
from harness.machine import requirements
from harness.reporting import scenarios
from harness.reporting.console import console
from harness.reporting.markdown import summary
from harness.settings import DECLARED
from harness.verdict import ExitCode, worst

_SCENARIOS = "scenarios"
_SYSTEM_PLANS = 500
_JUNIT, _SUMMARY = "junit.xml", "summary.md"


class _WithRest(click.Command):
    """What stands behind `--` is pytest's alone, also where no PATH stands before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.obj = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- PYTEST ARGS]"]


@click.command("run", cls=_WithRest, epilog=exits.epilog())
@click.argument("path", default=_SCENARIOS)
@click.option("--junit", metavar="FILE", default="", help="Write JUnit XML.")
@click.option("--markdown", metavar="FILE", default="", help="Write a summary in Markdown.")
@click.option("--artifacts", metavar="DIR", default="", help="As --reports; junit.xml and summary.md go there as well.")
@click.option(
    "--plans", type=click.IntRange(min=1), metavar="N", help="Plans for each right variant; for each point fewer."
)
@click.option("-n", "workers", type=click.IntRange(min=0), metavar="N", help="Run N tests at a time (pytest-xdist).")
@click.option(
    "--reports", metavar="DIR", default="", help="Where bundles and the store go. [default: as pytest is configured]"
)
@options.store_option
@options.report_options
@click.pass_obj
def command(
    pytest_args: tuple[str, ...],
    path: str,
    junit: str,
    markdown: str,
    artifacts: str,
    plans: int | None,
    workers: int | None,
    reports: str,
    no_store: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
) -> ExitCode:
    """Run the scenarios in PATH (default: scenarios) with pytest, nothing skipped, and say for each guarantee what was
    judged and what came of it. PATH may be the name of a system under test (dstack, cubefs, longhorn, qemu): its
    scenarios then, with 500 plans for each variant that is right, or 20 runs at each of its kill points, and a table
    of what each variant was found to do.
    """
    if not os.path.exists(path) and path.isidentifier():
        pytest_args = (*pytest_args, f"--harness-system={path}")
        plans, path = plans or _SYSTEM_PLANS, _SCENARIOS
    if plans:
        pytest_args = (*pytest_args, f"--harness-plans={plans}")
    if not os.path.exists(path.partition("::")[0]):
        raise Misuse(f"{path}: no such file or folder", "run it in a checkout of the project, or name the scenarios")
    requirements.require(str(DECLARED["fs"].default))
    if artifacts and reports:
        raise Misuse("--artifacts and --reports both say where bundles go", "give one of them")
    if artifacts:
        reports = artifacts
        junit, markdown = junit or os.path.join(artifacts, _JUNIT), markdown or os.path.join(artifacts, _SUMMARY)
    if reports:
        pytest_args = (*pytest_args, f"--harness-reports={os.path.abspath(reports)}")
    folder = reports or os.path.join(root_of([path], "."), "reports")
    with recorded(os.path.relpath(folder), "run", 0, None, store=not no_store) as run:
        run.begin()
        started = time.monotonic()
        arguments = _arguments(path, pytest_args, junit, workers, quiet, verbose)
        ran = run_pytest(arguments, cwd=".", to_stderr=json_path == "-")
        elapsed = time.monotonic() - started
        code = _conclude(ran, elapsed, json_path, run)
        if markdown and ran.scenarios and not _write_summary(markdown, ran, elapsed, os.path.relpath(folder)):
            code = code or ExitCode.UNKNOWN
        return code


def _arguments(
    path: str, further: tuple[str, ...], junit: str, workers: int | None, quiet: bool, verbose: bool
) -> list[str]:
    # A module that cannot be imported fails; the others are judged all the same.
    arguments = ["--continue-on-collection-errors", *further]
    if junit:
        arguments.append(f"--junitxml={os.path.abspath(junit)}")
    if workers:
        arguments += ["-n", str(workers)]
    if quiet:
        arguments += ["-qq", "--no-summary"]
    if verbose:
        arguments.append("-v")
    return [*arguments, path]


def _write_summary(path: str, ran: Ran, elapsed: float, folder: str) -> bool:
    """False: it could not be written, which is told."""
    text = summary(ran.scenarios, elapsed=elapsed, artifacts=folder)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        could_not_write("the summary", path, error)
        return False
    return True


def _conclude(ran: Ran, elapsed: float, json_path: str, run: Recorder) -> ExitCode:
    if ran.scenarios:
        out = console(sys.stderr if json_path == "-" else sys.stdout)
        scenarios.show(out, ran.scenarios, elapsed)
    run.add(kept_scenarios(ran.scenarios, run.reports))
    code = ExitCode.INTERRUPTED if ran.interrupted else ran.exit_code()
    run.end(worst(scenario.verdict for scenario in ran.scenarios), interrupted=ran.interrupted)
    code = run.settled(code)
    if not write_json(json_path, lambda: scenarios.as_json(ran.scenarios, code, elapsed, harness.__version__)):
        code = code or ExitCode.UNKNOWN
    if ran.interrupted:
        print("interrupted", file=sys.stderr)
    return code

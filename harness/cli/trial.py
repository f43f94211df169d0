"""`harness trial`: one plan of a system under test, again, with everything that is known of it."""

import importlib
import os
import sys
from collections import Counter
from typing import Any

import click
import msgspec

from harness.cli import exits, options
from harness.cli.verdicts import write_json
from harness.errors import Misuse
from harness.machine import requirements
from harness.reporting.console import console
from harness.reporting.systems import counted, show_trial
from harness.trial.live import System, Trial
from harness.trial.search import drawn_at
from harness.verdict import ExitCode, worst


@click.command("trial", epilog=exits.epilog())
@click.argument("module")
@click.argument("variant", required=False)
@click.option("--plan", metavar="JSON", default="", help="The plan, as reports print it; '@FILE': from a file.")
@click.option("--point", metavar="NAME", default="", help="Draw plans that strike at this kill point, one a time.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of those plans. [default: 0]")
@click.option("--repeat", type=click.IntRange(min=1), default=1, metavar="N", help="Run it N times; the worst counts.")
@options.report_options
def command(
    module: str,
    variant: str | None,
    plan: str,
    point: str,
    seed: int | None,
    repeat: int,
    json_path: str,
    quiet: bool,
    verbose: bool,
) -> ExitCode:
    """Run one plan on VARIANT of the system under test in MODULE (fixtures.systems.dstack_run: a Python module with a
    SYSTEM), and show the findings, what happened, and the kernel's words. Without VARIANT: say which there are, and
    at which points a plan can kill them.
    """
    system = _system(module)
    if variant is None:
        return _list(system)
    system.variant(variant)
    chosen = _chosen(system, plan, point, seed, repeat)
    requirements.require("ext4")
    trials = [system.trial(variant, each) for each in chosen]
    verdict = worst(trial.verdict for trial in trials)
    shown_plan, shown = next(each for each in zip(chosen, trials, strict=True) if each[1].verdict is verdict)
    out = console(sys.stderr if json_path == "-" else sys.stdout)
    if quiet:
        out.print(f"{verdict}  {', '.join(sorted(set(shown.kinds)))}".rstrip())
    else:
        show_trial(out, system, variant, system.text(shown_plan), shown, verbose=verbose)
    if repeat > 1:
        out.print(counted(trials))
    told = {"point": point, "verdict": verdict.value, "plan": msgspec.to_builtins(shown_plan)}
    written = write_json(json_path, lambda: _as_json(system, variant, told, chosen, trials))
    return verdict.exit_code if written else verdict.exit_code or ExitCode.UNKNOWN


def _chosen(system: System[Any], plan: str, point: str, seed: int | None, repeat: int) -> list[Any]:
    """The plan of each run."""
    if plan and (point or seed is not None):
        raise Misuse("--plan says all of a plan: --point and --seed have nothing to draw", "give --plan or --point")
    if plan:
        return [system.plan(_text(plan))] * repeat
    if not point:
        further = f", or --point with one of {', '.join(system.points)}" if system.points else ""
        raise Misuse(f"no plan for {system.name}", f"give --plan JSON, as harness run prints it{further}")
    return drawn_at(system, point, repeat, seed or 0)


def _system(module: str) -> System[Any]:
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        remedy = "run it in the checkout that holds it, and name it with dots: fixtures.systems.wal_node"
        raise Misuse(f"{module} cannot be imported: {error}", remedy) from error
    system = getattr(found, "SYSTEM", None)
    if not isinstance(system, System):
        raise Misuse(f"{module} has no SYSTEM", "name a module in which SYSTEM is a harness.trial.live.System")
    return system


def _text(plan: str) -> str:
    if not plan.startswith("@"):
        return plan
    try:
        with open(plan[1:], encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise Misuse(f"{plan[1:]}: {error.strerror}", "give a file that holds the plan's JSON") from error


def _list(system: System[Any]) -> ExitCode:
    out = console(sys.stdout)
    out.print(f"{system.name}: {system.about}")
    width = max(len(variant.name) for variant in system.variants)
    for variant in system.variants:
        out.print(f"  {variant.name:<{width}}  {variant.finding or 'right':<13}  {variant.about}")
    if system.points:
        out.print(f"kill points, for --point: {', '.join(system.points)}")
    return ExitCode.INTACT


def _as_json(
    system: System[Any], variant: str, told: dict[str, Any], plans: list[Any], trials: list[Trial]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "crash-harness trial",
        "system": system.name,
        "variant": variant,
        **told,
        "verdicts": Counter(trial.verdict.value for trial in trials),
        "trials": [
            {"verdict": trial.verdict.value, "plan": msgspec.to_builtins(plan)} | msgspec.to_builtins(trial)
            for plan, trial in zip(plans, trials, strict=True)
        ],
    }

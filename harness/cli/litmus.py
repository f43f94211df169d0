"""`harness litmus`: which surprising outcomes each file system lets happen."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import click

from harness.campaign.cells import kept_litmus
from harness.cli import exits, options
from harness.cli.recorded import recorded
from harness.cli.tables import CANNOT, Table, fill
from harness.cli.usage import nearest
from harness.errors import HarnessError, Misuse
from harness.machine import requirements
from harness.oracle.litmus_check import read_test, read_tests, surprise
from harness.plan.litmus import Litmus
from harness.reporting.litmus import LitmusPage, as_json, exit_code, progress
from harness.trial.litmus import Bed, Cell, Configuration, configurations, save
from harness.verdict import ExitCode

_TABLE = Table(lambda out, brief: LitmusPage(out, brief=brief), as_json, exit_code, progress)


@click.command("litmus", epilog=exits.epilog())
@click.argument("path", default="scenarios/litmus")
@click.option("--fs", "file_systems", metavar="NAME", multiple=True, help="Only this file system; may be repeated.")
@click.option("--only", metavar="ID", multiple=True, help="Only this test (PA, ACVR, …); may be repeated.")
@click.option(
    "--repaired/--no-repaired",
    default=None,
    help="Only with, or only without, the fsync that the pattern lacks. [default: both]",
)
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Record so often in each environment until the surprise is seen: some are races.",
)
@options.reports_option
@options.store_option
@options.report_options
@click.option("--verify", metavar="FILE", hidden=True, help="The check of a bundle: is the surprise on the volume?")
def command(
    path: str,
    file_systems: tuple[str, ...],
    only: tuple[str, ...],
    repaired: bool | None,
    rounds: int,
    reports: str,
    no_store: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 (its callback has done what it asks)
    verify: str | None,
) -> int:
    """Run small file-system patterns (prefix-append, create and replace via rename, ordered overwrites, …) on each file
    system and mount option, and say for each whether its surprising outcome can be found after a power cut, beside the
    published results for Linux 4.1; and the same with the fsync that the pattern lacks.

    PATH is a folder of litmus tests, or one test's .json file. [default: scenarios/litmus]
    """
    if verify:
        return _verify(verify, repaired=bool(repaired))
    tests = _chosen(read_tests(path), only)
    columns = configurations(file_systems)
    variants = _variants(tests, repaired)
    for fs in dict.fromkeys(column.fs for column in columns):
        requirements.require(fs)
    with recorded(reports, "litmus", 0, None, store=not no_store) as run:
        run.begin()
        cells = _cells(columns, variants, rounds, reports)
        return fill(_TABLE, cells, run, partial(kept_litmus, reports=reports), json_path, quiet=quiet)


def _chosen(tests: list[Litmus], only: Sequence[str]) -> list[Litmus]:
    known = [test.id for test in tests]
    for wanted in only:
        if wanted.upper() not in known:
            hint = nearest(wanted.upper(), known)
            raise Misuse(f"no litmus test {wanted}", (f"did you mean {hint}? " if hint else "") + ", ".join(known))
    return [test for test in tests if not only or test.id in {wanted.upper() for wanted in only}]


def _variants(tests: Sequence[Litmus], repaired: bool | None) -> list[tuple[Litmus, bool]]:
    """Each test as it stands, then with its fsync, as asked for. Raises Misuse where that leaves nothing."""
    wanted = (False, True) if repaired is None else (repaired,)
    variants = [(test, variant) for test in tests for variant in wanted if test.repair or not variant]
    if not variants:
        why = "; ".join(f"{test.id}: {test.nothing_lacks}" for test in tests)
        raise Misuse(f"none of these tests lacks an fsync ({why})", "leave --repaired out")
    return variants


def _cells(
    columns: Sequence[Configuration], variants: Sequence[tuple[Litmus, bool]], rounds: int, reports: str
) -> Iterator[tuple[Cell, Callable[[], object]]]:
    for column in columns:
        with contextlib.closing(Bed(column, rounds=rounds)) as bed:
            for test, repaired in variants:
                cell = bed.run(test, repaired=repaired)
                yield cell, partial(save, cell, cell.configuration.settings, reports)


def _verify(path: str, *, repaired: bool) -> int:
    """As the check of a bundle, in the volume: 1 and what was found if the surprise is there."""
    try:
        predicate = read_test(path).surprise(repaired=repaired)
        with open(os.environ["HARNESS_PROMISES"], "rb") as file:
            promised = sum(1 for _ in file)
        found = surprise(predicate, os.environ["HARNESS_VOLUME"], promised)
    except (HarnessError, OSError, KeyError) as error:
        print(f"it could not be verified: {error}", file=sys.stderr)
        return CANNOT
    print(found or "the surprising outcome is not here")
    return ExitCode.CORRUPTED if found else ExitCode.INTACT

"""`harness strike`: run a plan live, let a fault strike it, attach the volume again, and compare."""

import os
import sys
from typing import Any

import click
import xxhash

from harness.campaign.cells import kept_strike
from harness.cli import exits, options
from harness.cli.plan import read_plan
from harness.cli.recorded import recorded
from harness.cli.verdicts import could_not_write, write_json
from harness.faults import parse_fault
from harness.machine import mounts, requirements
from harness.reporting import struck
from harness.reporting.console import console
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.kill import KillBench, Struck, packed
from harness.verdict import ExitCode, Verdict
from harness.volume import VolumeSpec, make_base

_SETTINGS = ("fs", "size", "mount_options", "mkfs_options", "sector_size", "timeout", "fsck", "log_max", "contract")


@click.command("strike", epilog=exits.epilog())
@click.argument("file", metavar="FILE.json")
@click.argument("striking", metavar="FAULT")
@options.settings_options(_SETTINGS)
@options.reports_option
@options.store_option
@options.report_options
def command(
    file: str,
    striking: str,
    reports: str,
    no_store: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Run the plan in FILE.json ('-': standard input) on a fresh volume and let FAULT strike it while it runs. Then
    take the volume away, attach it again, let the kernel recover it, and compare it with what had been promised by
    then. docs/faults.md lists the faults and their addresses.

    \b
      harness strike plan.json engine-kill@op:7      the engine dies as operation 7 begins
      harness strike plan.json remove@op:7           the device is pulled out under the file system
      harness strike plan.json eio@journal#2         the second write to the journal fails
    """
    plan, chosen = read_plan(file), parse_fault(striking)
    settings = options.settings_of(values)
    requirements.require(settings.fs)
    mounts.enter_private_mounts()
    with recorded(reports, "strike", settings.seed, settings, store=not no_store) as run:
        run.begin()
        with KillBench(settings, make_base(VolumeSpec.of(settings))) as bench:
            result = bench.trial(plan, chosen)
        bundle = "" if result.verdict is Verdict.INTACT else _saved(result, settings, reports)
        run.add([kept_strike(plan, result, settings, bundle, reports)])
        run.end(result.verdict)
    code = run.settled(result.verdict.exit_code)
    out = console(sys.stderr if json_path == "-" else sys.stdout)
    if quiet:
        out.print(f"{result.verdict}  {', '.join(finding.kind for finding in result.findings)}".rstrip())
    else:
        struck.show(out, plan, result, bundle, verbose=verbose)
    written = write_json(json_path, lambda: struck.as_json(plan, result, bundle))
    return code if written else code or ExitCode.UNKNOWN


def _saved(result: Struck, settings: Settings, reports: str) -> str:
    """The path of the bundle; empty if it could not be written."""
    fault = xxhash.xxh3_64_hexdigest(str(result.fault).encode())[:6]
    kind = result.findings[0].kind.lower()
    path = os.path.join(reports, f"{settings.fs}-{kind}-{result.plan.id[:10]}-{fault}{bundles.SUFFIX}")
    try:
        return bundles.save(path, packed(result, settings))
    except OSError as error:
        could_not_write("a bundle", reports, error)
        return ""

"""`harness explain`: what the cut lost, which promise that broke, what each write was."""

import os
import sys

import click
import msgspec

from harness.cli import exits, options
from harness.cli.verdicts import write_json
from harness.errors import HarnessError
from harness.explain.explained import Explained
from harness.explain.explaining import explain_bundle
from harness.reporting import explained as reporting
from harness.reporting.console import console
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.verdict import ExitCode


@click.command("explain", epilog=exits.epilog())
@click.argument("file", metavar="FILE.crash")
@click.option("--json", "json_path", metavar="FILE", default="", help="Write it as JSON too; '-': to stdout, alone.")
@click.option("--sides/--no-sides", default=True, help="Compare the files, where this is root. [default: --sides]")
@options.verbose_option
def command(file: str, json_path: str, sides: bool, verbose: bool) -> ExitCode:
    """Say in plain words what the cut lost, which promise that broke, and what each write was: which file's data, which
    journal transaction, which directory. Judges nothing, and needs no root; as root it also mounts the disk and shows
    which files differ, byte for byte.
    """
    bundle = bundles.load(file)
    explained = explain_bundle(bundle, file)
    said = ""
    if sides and explained.state:
        explained, said = _with_sides(explained, bundle)
    if json_path == "-":
        write_json("-", lambda: reporting.as_json(explained))
        return ExitCode.INTACT
    reporting.show(console(sys.stdout), explained, verbose=verbose)
    if said:
        print(said)
    written = write_json(json_path, lambda: reporting.as_json(explained))
    return ExitCode.INTACT if written else ExitCode.UNKNOWN


def _with_sides(explained: Explained, bundle: Bundle) -> tuple[Explained, str]:
    """The files compared; or why they were not, in one line."""
    if os.geteuid() != 0:
        return explained, "the files were not compared: that mounts the disk, which needs root"
    # Imported here: the story needs none of it.
    from harness.explain.sides import sides

    manifest = bundle.manifest
    assert manifest.state is not None
    try:
        found = sides(bundle.recording, manifest.settings, manifest.state.state(), manifest.plan)
    except HarnessError as error:
        return explained, "the files were not compared: " + " ".join(error.cause.split())
    return msgspec.structs.replace(explained, sides=found), "" if found else "no file differs"

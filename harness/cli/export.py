"""`harness export`: a bundle's disks and log as plain files, for other tools."""

import os
import sys

import click
import msgspec

from harness.cli import exits, options
from harness.errors import TrialUnknown
from harness.reporting.console import console
from harness.reporting.text import size
from harness.trial import bundle as bundles
from harness.trial.foreign import Exported, export
from harness.verdict import ExitCode


@click.command("export", epilog=exits.epilog())
@click.argument("file", metavar="FILE.crash")
@click.argument("directory", metavar="DIR")
@options.verbose_option
def command(file: str, directory: str, verbose: bool) -> ExitCode:  # noqa: ARG001 (read by its callback)
    """Write what is in a bundle into a new directory: base.img and state.img (raw sparse disk images, the latter before
    any recovery), log.dmlw (the block log in the kernel's dm-log-writes format) and manifest.json.
    """
    bundle = bundles.load(file)
    manifest = msgspec.json.format(msgspec.json.encode(bundle.manifest)) + b"\n"
    try:
        written = export(bundle, manifest, directory)
    except OSError as error:
        raise TrialUnknown(f"{directory}: {error.strerror}", "name a place with room, on a writable disk") from error
    for item in written:
        _print(item)
    return ExitCode.INTACT


def _print(item: Exported) -> None:
    used = os.stat(item.path).st_blocks * 512
    console(sys.stdout).print(f"{item.path}  {size(item.size)} ({size(used)} used)  {item.what}")

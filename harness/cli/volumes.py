"""`harness volumes`: the devices and journals of volumes on this machine, and who holds them."""

import sys

import click

from harness.cli import exits, options
from harness.errors import Missing, RequirementMissing
from harness.machine import probes
from harness.reporting import json_report, volumes
from harness.reporting.console import console
from harness.verdict import ExitCode
from harness.volume import registry


def state_option(command: options.Command) -> options.Command:
    """--state DIR, for those who read journals."""
    text = f"A folder with journals of volumes; may be repeated. {registry.STATE_FOLDER} is always looked into."
    return click.option("--state", "folders", metavar="DIR", multiple=True, help=text)(command)


def require_root() -> None:
    """Raises RequirementMissing: without privileges there would seem to be no devices, and no holders."""
    if problem := probes.privileges():
        why = f"{problem}; devices, and the processes that hold them, are looked into"
        raise RequirementMissing([Missing("root", why, "run it as root: sudo harness …")])


@click.command("volumes", epilog=exits.epilog())
@state_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@options.verbose_option
def command(folders: tuple[str, ...], as_json: bool, verbose: bool) -> ExitCode:  # noqa: ARG001 (its callback)
    """List all loop devices that bear the harness's mark: volume, capacity, whether the process that owns it lives, and
    who holds it (pid, command, mount namespace, descriptor, mount point); and the volumes whose journals are in DIR.
    """
    require_root()
    devices, journals = registry.devices(), registry.journals(folders)
    if as_json:
        json_report.write("-", {"devices": devices, "journals": journals})
    else:
        volumes.show(console(sys.stdout), devices, journals)
    return ExitCode.INTACT

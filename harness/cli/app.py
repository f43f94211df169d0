"""The group of commands: each command's module is imported only when that command is wanted."""

import importlib
from collections.abc import Sequence

import click

import harness
from harness.cli import exits, streams
from harness.cli.usage import nearest
from harness.verdict import ExitCode

# Name and help. The text stands here, so that `harness --help` imports no command.
COMMANDS = {
    "check": "Run a workload, cut the power at every point, let the kernel recover, check.",
    "judge": "Judge a recording again, or a log that dm-log-writes recorded elsewhere.",
    "replay": "Build the disk in a bundle again, let the kernel recover it, run its check.",
    "shrink": "Find a smaller example of the finding in a bundle.",
    "advise": "Find the missing fsync: the smallest set that makes every judged state intact.",
    "show": "Say what a bundle is: plan, log by epoch, the cut, what was lost, the verdict.",
    "explain": "Say in plain words what the cut lost, which promise that broke, and what each write was.",
    "report": "Write one HTML file of a finding, or of a whole run: what broke, why, what to add.",
    "export": "Write a bundle's disks and log for other tools.",
    "plan": "Run a plan of file operations and judge what the file system owes it.",
    "strike": "Run a plan live and let a fault strike it: a kill, a removal, an I/O error.",
    "enumerate": "Judge every sequence of operations within bounds.",
    "litmus": "Say which surprising outcomes each file system lets happen, beside published results.",
    "fsync-failure": "Say what each file system does when a write of an fsync fails, beside published results.",
    "run": "Run the scenarios as CI runs them, or those of one system under test.",
    "soak": "Judge new seeds until the time is up; a canary must keep being found.",
    "morning": "The report of the last soak: what is new, what is back, what is gone.",
    "trial": "Run one plan of a system under test again, and show what happened.",
    "findings": "List what was ever found here: one row a bug, with its best bundle.",
    "rejudge": "Judge every stored bundle again with the oracle of now.",
    "volumes": "List the volumes on this machine, and who holds them.",
    "sweep": "Clear what a dead run left on this machine.",
    "doctor": "Say what this machine has, what is missing, and how to get it.",
}


def module_of(command: str) -> str:
    return command.replace("-", "_")


class LazyGroup(click.Group):
    """A group whose commands are modules of this package, each with one `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"harness.cli.{module_of(cmd_name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = nearest(args[0], COMMANDS)
            remedy = f"did you mean {hint}?" if hint else "commands: " + ", ".join(COMMANDS)
            raise exits.usage(f"no such command: {args[0]}", remedy, ctx)
        return super().resolve_command(ctx, args)


@click.command(
    cls=LazyGroup,
    epilog=exits.epilog(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(harness.__version__, prog_name="harness", message="%(prog)s %(version)s")
def cli() -> None:
    """Cut the power on any program: record what it writes to a volume, build every disk that a crash may leave, let the
    kernel recover each one, and check it.

    \b
      harness doctor
      harness check --workload 'python3 app.py write' --check 'python3 app.py verify'
      harness replay reports/found.crash --shell
    """


def run(args: Sequence[str]) -> int:
    """Run the command line with `args`; everything that can go wrong becomes one screen and an exit status."""
    streams.install()
    status = exits.guarded(lambda: cli.main(args=list(args), prog_name="harness", standalone_mode=False))
    return streams.settle(ExitCode(status) if status in set(ExitCode) else status)

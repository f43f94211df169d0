"""How a command ends: exit codes, one screen for each error, no traceback where the user cannot act on one."""

import sys
import traceback
from collections.abc import Callable

import click

from harness.cli.usage import as_misuse
from harness.errors import HarnessError, Misuse
from harness.reporting.text import printable, tail
from harness.verdict import ExitCode

_OUTPUT_LINES = 10
_FRAMES = 4

_MEANING = {
    ExitCode.INTACT: "nothing wrong in what was judged",
    ExitCode.CORRUPTED: "a violation was found",
    ExitCode.MISUSE: "the command, an option or a file is wrong",
    ExitCode.UNKNOWN: "no honest verdict could be given",
    ExitCode.REQUIREMENT_MISSING: "this machine lacks something; see harness doctor",
    ExitCode.INTERNAL: "the harness itself is at fault",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}

_verbose = False


def set_verbose(on: bool) -> None:
    """Show whole tracebacks of internal errors."""
    global _verbose
    _verbose = on


def epilog() -> str:
    """The exit codes, for the end of a --help page."""
    width = max(len(code.name) for code in ExitCode)
    rows = [f"  {code:>3}  {_name(code):<{width}}  {_MEANING[code]}" for code in ExitCode]
    return "\b\nExit status:\n" + "\n".join(rows)


def _name(code: ExitCode) -> str:
    return code.name.lower().replace("_", " ")


def usage(cause: str, remedy: str, ctx: click.Context) -> Misuse:
    return Misuse(cause, f"{remedy} See {ctx.command_path} --help")


def guarded(command: Callable[[], object]) -> int:
    """Run `command`; its result (an int, or None for 0), or the exit status of what it raised, told on stderr."""
    try:
        result = command()
        return result if isinstance(result, int) else ExitCode.INTACT
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return ExitCode.MISUSE
    except click.UsageError as error:
        return tell(as_misuse(error))
    except click.ClickException as error:
        return tell(Misuse(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except HarnessError as error:
        return tell(error)
    except Exception as error:
        return _internal(error)


def tell(error: HarnessError) -> ExitCode:
    """Print the error on one screen (cause, end of the output, remedy) and return its exit code."""
    # Not through sys.stdout: where the report is, only the report is.
    print(f"error: {error.cause}", file=sys.stderr)
    output = getattr(error, "output", b"")
    if output.strip():
        print("  it printed:", file=sys.stderr)
        for line in tail(output.decode(errors="backslashreplace"), _OUTPUT_LINES):
            print(f"    {line}", file=sys.stderr)
    if error.remedy:
        print(f"remedy: {error.remedy}", file=sys.stderr)
    if _verbose and error.exit_code is ExitCode.INTERNAL:
        traceback.print_exception(error)
    return error.exit_code


def _internal(error: Exception) -> ExitCode:
    print(f"internal error: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
    if _verbose:
        traceback.print_exception(error)
    else:
        for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]:
            print(f"  {frame.filename}:{frame.lineno} in {frame.name}", file=sys.stderr)
    print("remedy: this is a fault of the harness; report it, with what -v prints", file=sys.stderr)
    return ExitCode.INTERNAL

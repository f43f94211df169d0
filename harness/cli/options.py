"""Options that several commands share. Those of a trial's settings derive from harness.settings.DECLARED."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from harness.cli import exits
from harness.settings import DECLARED, OF_PLANS, Declared, Settings, from_text, show_size

Command = TypeVar("Command", bound=Callable[..., object])

OF_THE_VOLUME = ("fs", "size", "mount_options", "mkfs_options", "sector_size", "fault")
"""Settings that are fixed when the volume is made: a bundle brings its own."""

_SIZES = ("size", "log_max")


class _Value(click.ParamType[Any]):
    """A click type that reads a value as the declared setting does; its Misuse passes through to the command line."""

    def __init__(self, declared: Declared) -> None:
        self.name = declared.name
        self._declared = declared

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return self._declared.read(value)


def _option(declared: Declared) -> click.Option:
    if isinstance(declared.default, bool):
        flag = declared.flag
        text = f"{declared.help} [default: {flag if declared.default else '--no-' + flag[2:]}]"
        return click.Option([f"{flag}/--no-{flag[2:]}", declared.name], default=None, help=text)
    shown = show_size(declared.default) if declared.name in _SIZES else declared.default
    text = declared.help + (f" [default: {shown}]" if shown != "" else "")
    metavar = "|".join(declared.choices) or _metavar(declared)
    return click.Option([declared.flag, declared.name], type=_Value(declared), metavar=metavar, default=None, help=text)


def _metavar(declared: Declared) -> str:
    if declared.name in _SIZES:
        return "SIZE"
    return {int: "N", float: "SECONDS"}.get(type(declared.default), "TEXT")


_OF_EVERY_TRIAL = tuple(name for name in DECLARED if name not in OF_PLANS)


def settings_options(names: Iterable[str] = _OF_EVERY_TRIAL) -> Callable[[Command], Command]:
    """A decorator: an option for each named setting. A command gets them as keyword arguments; None: not given."""
    wanted = list(names)

    def decorate(command: Command) -> Command:
        params = command.__dict__.setdefault("__click_params__", [])
        params += [_option(DECLARED[name]) for name in reversed(wanted)]
        return command

    return decorate


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user gave on the command line."""
    return {name: value for name, value in values.items() if name in DECLARED and value is not None}


def settings_of(values: dict[str, Any]) -> Settings:
    return from_text(given(values))


def _be_verbose(_ctx: click.Context, _param: click.Parameter, on: bool) -> bool:
    exits.set_verbose(on)
    return on


def verbose_option(command: Command) -> Command:
    """-v: more of each finding, and whole tracebacks of internal errors."""
    decorate = click.option("-v", "--verbose", is_flag=True, callback=_be_verbose, help="Show all of each finding.")
    return decorate(command)


def report_options(command: Command) -> Command:
    """--json, -q and -v."""
    for decorate in (
        verbose_option,
        click.option("-q", "--quiet", is_flag=True, help="Only the verdict and the findings; no progress."),
        click.option("--json", "json_path", metavar="FILE", default="", help="Write the report as JSON; '-': stdout."),
    ):
        command = decorate(command)
    return command


def reports_option(command: Command) -> Command:
    decorate = click.option(
        "--reports", metavar="DIR", default="reports", show_default=True, help="Where bundles of findings go."
    )
    return decorate(command)


def store_option(command: Command) -> Command:
    """--no-store, beside --reports, for a command that records its runs."""
    text = "Do not keep this run in the store of the reports (harness.sqlite)."
    decorate = click.option("--no-store", is_flag=True, help=text)
    return decorate(command)


def further_options(command: Command) -> Command:
    """--html and --advise."""
    for decorate in (
        click.option("--html", metavar="FILE", default="", help="Write the report as one HTML page."),
        click.option("--advise", is_flag=True, help="Where something is wrong, search for the missing fsync."),
    ):
        command = decorate(command)
    return command

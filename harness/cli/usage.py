"""Misuse of the command line in the harness's own words: what is wrong, and what was probably meant."""

import difflib
from collections.abc import Iterable

import click

from harness.errors import Misuse


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like `word`, or an empty string."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.5)), "")


def as_misuse(error: click.UsageError) -> Misuse:
    """The harness's error for one of click's."""
    see = f"see {error.ctx.command_path} --help" if error.ctx else "see harness --help"
    if isinstance(error, click.NoSuchOption):
        hint = nearest(error.option_name, _options(error.ctx)) or next(iter(error.possibilities or ()), "")
        return Misuse(f"no such option: {error.option_name}", f"did you mean {hint}? {see}" if hint else see)
    if isinstance(error, click.MissingParameter):
        name = error.param.opts[-1] if isinstance(error.param, click.Option) else _argument(error.param)
        return Misuse(f"{name} is missing", see)
    message = error.format_message().rstrip(".")
    return Misuse(message[:1].lower() + message[1:], see)


def _options(ctx: click.Context | None) -> list[str]:
    if ctx is None:
        return []
    return [flag for param in ctx.command.get_params(ctx) for flag in (*param.opts, *param.secondary_opts)]


def _argument(param: click.Parameter | None) -> str:
    return param.human_readable_name if param else "a parameter"


def need(flag: str, value: str) -> None:
    """Raises Misuse for an empty command: /bin/sh would run it and say that all is well."""
    if not value.strip():
        raise Misuse(f"{flag} is empty", "give the command to run")

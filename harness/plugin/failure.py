"""How the plugin fails a test: one exception whose text is the finding, raised where the test's own line stands."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from harness.errors import HarnessError, Misuse, RequirementMissing, TrialUnknown

P = ParamSpec("P")
R = TypeVar("R")

_OUTPUT_LINES = 20


class CrashFailure(AssertionError):
    """A verdict that the test did not want. Its text is the whole finding, the command that replays it included."""


# As pytest does for its own Failed: the class's home says nothing to the reader of "FAILED test_x.py::test - …".
CrashFailure.__module__ = "builtins"


def door(function: Callable[P, R]) -> Callable[P, R]:
    """A public method of the fixture: errors that are meant for the user come without a single frame of ours."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except (CrashFailure, Misuse, TrialUnknown, RequirementMissing) as error:
            raise with_output(error).with_traceback(None) from None

    return call


def with_output(error: Exception) -> Exception:
    """The error, with the end of what the program or check printed as a note."""
    output = getattr(error, "output", b"")
    if isinstance(error, HarnessError) and output and not hasattr(error, "__notes__"):
        lines = output.decode(errors="backslashreplace").rstrip().splitlines()[-_OUTPUT_LINES:]
        error.add_note("\n".join(["  it printed:", *(f"    {line}" for line in lines)]))
    return error

"""Standard output and error that never end a trial: a closed pipe is quiet, a full disk is told once, at the end."""

import contextlib
import errno
import io
import os
import sys

from harness.verdict import ExitCode


class Patient(io.TextIOWrapper):
    """A text stream that, once its reader is gone or its disk is full, lets all that follows go to /dev/null."""

    failed: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)
        except ValueError:  # closed
            pass

    def _give_up(self, error: OSError) -> None:
        self.failed = self.failed or error
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, self.fileno())
        os.close(null)
        with contextlib.suppress(OSError):
            super().flush()


def install() -> None:
    """Put such streams into place. What their encoding cannot show is escaped."""
    if sys.stdout is None or sys.stderr is None or isinstance(sys.stdout, Patient):
        return
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        old.flush()
        setattr(
            sys,
            name,
            Patient(old.buffer, encoding=old.encoding, errors="backslashreplace", line_buffering=True),
        )


def settle(status: int) -> int:
    """Write out what is left. Output that could not be written, but for a closed pipe, forbids the status INTACT."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    failed = getattr(sys.stdout, "failed", None)
    if failed is None or failed.errno == errno.EPIPE or status != ExitCode.INTACT:
        return status
    with contextlib.suppress(OSError):
        print(f"error: the output could not be written: {failed.strerror}", file=sys.stderr)
    return ExitCode.UNKNOWN

"""The console script `harness`. Imports nothing until it can already answer Ctrl-C."""

import contextlib
import os
import signal
import sys

_INTERRUPTED = 130  # ExitCode.INTERRUPTED, which is not imported yet when it may be needed


def main() -> int:
    """Run the command line; the result is the process's exit status (harness.verdict.ExitCode)."""
    try:
        from harness.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    finally:
        # The exit status is settled: a further Ctrl-C must not turn it into a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


if __name__ == "__main__":
    sys.exit(main())

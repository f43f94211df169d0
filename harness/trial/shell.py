"""An interactive shell inside a recovered volume.

The shell is pid 1's only child in a PID and mount namespace of its own (unshare(1)), in the session of the terminal, so
that job control and Ctrl-C work as the user knows them. When it ends, or we are killed, everything in there is gone.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any

from harness.crash import CrashState
from harness.errors import Missing, RequirementMissing, TrialUnknown
from harness.machine import loop, mounts, process, syscalls
from harness.machine.mounts import Workspace
from harness.settings import Settings
from harness.trial.foreign import disk_of
from harness.trial.recording import Recording
from harness.verdict import Verdict

_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN)


@contextlib.contextmanager
def recovered(recording: Recording, settings: Settings, state: CrashState) -> Iterator[Workspace]:
    """The state's disk, recovered by the kernel and mounted writable, with the promises beside it. Gone afterwards.

    Raises TrialUnknown where it does not mount.
    """
    workspace = mounts.enter_private_mounts()
    spec = recording.spec
    with disk_of(recording, settings, state) as disk:
        with loop.attach(disk.fd, sector_size=spec.sector_size) as device:
            options = spec.file_system.all_mount_options(spec.mount_options)
            try:
                mounts.mount_volume(device.path, workspace.volume, spec.file_system.fs_type, options)
            except OSError as error:
                raise TrialUnknown(
                    f"the volume does not mount, so there is nothing to look at with a shell: {error.strerror}",
                    "harness export FILE DIR writes its disk as DIR/state.img, for debugfs, xfs_db and the like",
                ) from error
        try:
            with open(workspace.path("promises"), "wb") as file:
                made = recording.log.promises(recording.end)[: state.promises]
                file.writelines(promise.line + b"\n" for promise in made)
            yield workspace
        finally:
            try:
                syscalls.umount(workspace.volume)
            except OSError:
                syscalls.umount(workspace.volume, syscalls.MNT_DETACH)


def enter(workspace: Workspace, fs: str, verdict: Verdict) -> int:
    """Run the user's shell in the volume until it exits; returns its exit status."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    env = {
        **os.environ,
        "HARNESS_VOLUME": workspace.volume,
        "HARNESS_PROMISES": workspace.path("promises"),
    }
    argv = [*_namespace(), *_with_prompt(shell, workspace, f"(crash {fs} {verdict}) ", env)]
    with _terminal_handed_over():
        return subprocess.Popen(argv, cwd=workspace.volume, env=env).wait()


def _namespace() -> list[str]:
    missing = [name for name in ("setpriv", "unshare") if process.find(name) is None]
    if missing:
        why = "the shell must end with the harness"
        raise RequirementMissing([Missing(name, why, "apt-get install util-linux") for name in missing])
    # --mount-proc also gives it mounts of its own, so that ours can be taken away whatever it does.
    leash = ["setpriv", "--pdeathsig", "KILL", "--"]
    return [*leash, "unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "--"]


def _with_prompt(shell: str, workspace: Workspace, prompt: str, env: dict[str, str]) -> list[str]:
    """The shell's words, and where it reads its prompt from, after the user's own start-up file."""
    start = workspace.path("shellrc")
    name = os.path.basename(shell)
    if name == "bash":
        _write(start, f"[ -f ~/.bashrc ] && . ~/.bashrc\nPS1={shlex.quote(prompt + chr(92) + 'w# ')}\n")
        return [shell, "--rcfile", start]
    if name in ("sh", "dash", "ash", "ksh", "mksh"):
        _write(start, f"PS1={shlex.quote(prompt)}'$PWD# '\n")
        env["ENV"] = start
    env["PS1"] = prompt + "# "
    return [shell]


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def _terminal_handed_over() -> Iterator[None]:
    """Leave the terminal's signals to the shell; afterwards take the terminal back as it was, whatever became of it."""
    before = {number: signal.getsignal(number) for number in _TERMINAL_SIGNALS}
    settings, group = _terminal_state()
    # A handler, not SIG_IGN: an ignored signal would stay ignored in the shell's programs (signal(7)).
    for number in _TERMINAL_SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        if settings is not None:
            with contextlib.suppress(OSError, termios.error):
                os.tcsetpgrp(0, group)
                termios.tcsetattr(0, termios.TCSADRAIN, settings)
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminal_state() -> tuple[list[Any] | None, int]:
    if not sys.stdin.isatty():
        return None, 0
    return termios.tcgetattr(0), os.tcgetpgrp(0)

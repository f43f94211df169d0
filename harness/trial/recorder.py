"""Run the workload once, on a real volume whose engine keeps the block log."""

import os
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from harness.blocklog import Kind
from harness.blocklog.format import BEGIN, END
from harness.errors import EngineLost, WorkloadFailed
from harness.machine import mounts
from harness.machine.image import Image
from harness.machine.process import describe_status
from harness.machine.sandbox import answer_of
from harness.machine.shell import ShellResult, Spawn, run_shell
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recording import Recording
from harness.volume import LYING_FLUSH, RecordedVolume, VolumeSpec, make_base, mounted_plain

_GRACE_SECONDS = 30.0


class Ran(NamedTuple):
    """What the init of a command tells us when the command is over."""

    shell: ShellResult
    volume_stayed: bool


Runner = Callable[[str, float, dict[str, str]], Ran]
"""Runs a command with a time limit in seconds and the variables that are ours."""


def prepare(settings: Settings, setup: str = "") -> tuple[VolumeSpec, Image]:
    """A new volume with the setup command's work on it, all of it durable: the base of every crash state."""
    workspace = mounts.enter_private_mounts()
    spec = VolumeSpec.of(settings)
    base = make_base(spec)
    if setup:
        with mounted_plain(base, spec):
            expect_success("setup", setup, run(setup, settings.timeout, {"HARNESS_VOLUME": workspace.volume}))
    return spec, base


def record(settings: Settings, commands: Commands) -> Recording:
    """Prepare the volume, run the workload on it and return the recording, made up to the clean unmount that follows.

    Raises WorkloadFailed (it failed, hung, left children, unmounted or filled the volume), BoundExceeded, EngineLost.
    """
    spec, base = prepare(settings, commands.setup)
    return record_on(spec, base, settings, commands.workload)


def record_on(
    spec: VolumeSpec, base: Image, settings: Settings, workload: str, runner: Runner | None = None
) -> Recording:
    """The same on a volume that is prepared already; `base` stays as it is. `runner`: in place of run."""
    workspace = mounts.enter_private_mounts()
    with RecordedVolume(spec, base, log_max=settings.log_max) as volume:
        env = {"HARNESS_VOLUME": workspace.volume, "HARNESS_PROMISE": volume.promise_path}
        untouched = _look(volume.path)
        ran = (runner or run)(workload, settings.timeout, env)
        idle = _look(volume.path) == untouched and not volume.engine.parsed().promises()
        volume.linger(settings.linger)
        volume.finish()
    if volume.error:
        raise volume.error
    expect_success("workload", workload, ran)
    if idle:
        raise WorkloadFailed(
            f"the workload changed nothing on the volume: {workload}",
            "let it write below its working directory, which is the volume, also named by HARNESS_VOLUME",
            ran.shell.output,
        )
    expect_room("workload", volume, "give it a larger one with --size", ran.shell.output)
    return recording_of(volume, spec, base)


def _look(path: str) -> tuple[int, int, int]:
    """What changes when anything is written: the root's time of change, free blocks and free inodes."""
    space = os.statvfs(path)
    return os.stat(path).st_mtime_ns, space.f_bfree, space.f_ffree


def recording_of(volume: RecordedVolume, spec: VolumeSpec, base: Image) -> Recording:
    """The finished recording of a volume, from the mark `begin` to the mark `end`."""
    begin, end = volume.log.find(BEGIN), volume.log.find(END)
    if begin is None or end is None:
        raise EngineLost("the log has no begin and end marks: the recording was cut off", "run it again")
    notes = []
    if spec.fault == LYING_FLUSH:
        notes.append("fault: the device acknowledged flushes and did not do them; an honest one loses less")
    elif not any(event.kind is Kind.FLUSH for event in volume.log.events[begin:end]):
        notes.append("the file system never flushed the device's cache: nothing in this recording is ever durable")
    if volume.stragglers:
        notes.append("files were still open at the end: the volume was synced, not unmounted")
    return Recording(spec, base, volume.log, begin, end, not volume.stragglers, tuple(notes))


def run(command: str, timeout: float, ours: dict[str, str]) -> Ran:
    """Run a command in a PID namespace of its own, in the volume's root, with the user's environment and `ours`."""
    told = told_by_init(lambda: msgspec.msgpack.encode(ran_here(command, timeout, ours)), timeout)
    return msgspec.msgpack.decode(told, type=Ran)


def ran_here(command: str, timeout: float, ours: dict[str, str], spawn: Spawn = os.posix_spawn) -> Ran:
    """The same in this process, which must be pid 1; `spawn` starts the shell."""
    volume = ours["HARNESS_VOLUME"]
    device = mounts.device_at(volume)
    shell = run_shell(command, cwd=volume, env={**os.environ, **ours}, timeout=timeout, spawn=spawn)
    return Ran(shell, mounts.device_at(volume) == device)


def told_by_init(life: Callable[[], bytes], timeout: float) -> bytes:
    """What `life` answers, run as pid 1 of a namespace. Raises WorkloadFailed where it died, or hung past `timeout`."""
    told, status = answer_of(life, timeout + _GRACE_SECONDS)
    if not told:
        how = "did not end" if status is None else f"ended: {describe_status(status)}"
        raise WorkloadFailed(f"the process that ran the command {how}", "look at its memory and at the kernel log")
    return told


def expect_success(role: str, command: str, ran: Ran) -> None:
    """Raises WorkloadFailed, saying which: it hung, failed, unmounted the volume, or left processes behind."""
    shell = ran.shell
    if shell.timed_out:
        raise WorkloadFailed(f"the {role} hung: {command}", "give it longer with --timeout SECONDS", shell.output)
    if shell.status:
        how = describe_status(shell.status)
        raise WorkloadFailed(f"the {role} failed ({how}): {command}", f"make the {role} exit 0", shell.output)
    if not ran.volume_stayed:
        raise WorkloadFailed(f"the {role} unmounted the volume: {command}", "leave the volume mounted", shell.output)
    if shell.stragglers:
        raise WorkloadFailed(
            f"the {role} left {shell.stragglers} process(es) running when it ended: {command}",
            "stop them before it exits (wait for children, shut daemons down): they were still writing",
            shell.output,
        )


def expect_room(role: str, volume: RecordedVolume, remedy: str, output: bytes = b"") -> None:
    """Raises WorkloadFailed if the finished recording ended with a full volume."""
    if volume.free_bytes_at_end < volume.spec.sector_size:
        cause = f"the {role} filled the volume: what it could not write cannot be judged"
        raise WorkloadFailed(cause, remedy, output)

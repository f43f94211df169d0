"""The devices on which a trial's crash states are recovered, and how many processes work on them."""

import os
from collections.abc import Sequence
from contextlib import ExitStack

from harness.errors import HarnessError, InternalError, Missing, Misuse, RequirementMissing
from harness.machine import mounts, zram
from harness.machine.filesystems import lookup
from harness.machine.tracing import Tracepoint, find_tracepoint
from harness.settings import Settings
from harness.volume import VolumeSpec

Devices = Sequence[zram.ZramDevice | None]
"""One for each worker; None: loop devices, of its own making."""


def workers_wanted(settings: Settings) -> int:
    """Two a core: while one waits for the kernel (RCU, a block device), the other computes."""
    if not lookup(settings.fs).concurrent_copies:
        return 1
    return settings.workers or 2 * len(os.sched_getaffinity(0))


def scratch_devices(
    stack: ExitStack, settings: Settings, spec: VolumeSpec, count: int
) -> tuple[Devices, Tracepoint | None]:
    """zram devices (which go with `stack`) and what traces them, or loop devices where there are none to be had.

    Raises Misuse or RequirementMissing where `settings.scratch` asks for zram in vain.
    """
    wanted = settings.scratch
    lacking = _no_zram(spec)
    if wanted == "zram" and lacking:
        raise lacking
    if wanted == "loop" or lacking:
        return [None] * count, None
    workspace = mounts.enter_private_mounts()
    try:
        pool = stack.enter_context(zram.ZramPool(workspace, count, spec.size))
    except InternalError:  # no memory for one of that size, say
        if wanted == "zram":
            raise
        return [None] * count, None
    return pool.devices, find_tracepoint(workspace)


def _no_zram(spec: VolumeSpec) -> HarnessError | None:
    if spec.sector_size != zram.SECTOR_SIZE:
        return Misuse(f"zram devices have sectors of {zram.SECTOR_SIZE} bytes", "leave --scratch to choose itself")
    if not zram.available():
        why = "--scratch zram asks for it"
        return RequirementMissing([Missing("zram", why, "modprobe zram, or leave --scratch to choose itself")])
    return None

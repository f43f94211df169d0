"""A system under test for the tests of live trials: a writer on a volume that is pulled out, mostly after its close.

Kill points: P1, before the data are written, so that nothing is promised; P2, after the close.
"""

import contextlib
import os
import signal
import time

import msgspec
from hypothesis import strategies as st

from harness.machine import loop, mounts, syscalls
from harness.machine.image import Image
from harness.machine.kmsg import KernelLog
from harness.settings import Settings
from harness.trial.live import System, Table, Trial, Variant
from harness.verdict import Finding, FindingKind
from harness.volume import VolumeSpec, make_base
from harness.volume.disks import PlainDisk
from harness.volume.recorded import mount_device


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`blocks` of 4 KiB are written; `pulled`: a kill point; `mischief` is what the trial itself does wrong."""

    blocks: int = 1
    pulled: str = "P2"
    mischief: str = ""


DAEMON = f"toy-{os.getpid()}"
"""What ps calls the process that a trial leaves running."""

_SPEC = VolumeSpec.of(Settings())


def run(variant: str, plan: Plan) -> Trial:
    """Write, close, pull the device out, attach again, read."""
    mischief = "die" if variant == "dies" and plan.pulled == "P2" else plan.mischief
    if mischief:
        return _mischief(mischief)
    disk = PlainDisk(_SPEC, make_base(_SPEC), "toy")
    volume = mounts.enter_private_mounts().volume
    with KernelLog() as log:
        device = disk.attach()
        mount_device(device, volume, _SPEC)
        early = plan.pulled == "P1"
        if early:
            disk.remove()
        with contextlib.suppress(OSError):
            _write(f"{volume}/data", plan.blocks, sync=_syncs(variant, early=early))
        if not early:
            disk.remove()
        syscalls.umount(volume)
        disk.detach()
        mount_device(disk.attach(), volume, _SPEC)
        size = os.stat(f"{volume}/data").st_size if os.path.exists(f"{volume}/data") else 0
        syscalls.umount(volume)
        disk.close()
        kernel = log.lines(device.name)
    rows = tuple((str(n), "there" if n < size // 4096 else "gone") for n in range(plan.blocks))
    trial = Trial(
        story=[f"{plan.blocks} blocks written", f"{size} bytes found"],
        kernel=kernel,
        tables=[Table(title="blocks after the device came back", columns=("block", "is"), rows=rows)],
    )
    if size != plan.blocks * 4096 and not early:
        trial.findings.append(Finding(kind=FindingKind.LOST_CLEAN, summary=f"{size} of {plan.blocks * 4096} bytes"))
    return trial


def _syncs(variant: str, *, early: bool) -> bool:
    """The variant that forgets it once, where that shows, leaves a file."""
    if variant == "forgets-once" and not early and not os.path.exists("forgotten"):
        with open("forgotten", "x"):
            return False
    return variant in ("syncs", "forgets-once")


def _write(path: str, blocks: int, *, sync: bool) -> None:
    with open(path, "wb") as file:
        file.write(b"x" * blocks * 4096)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _mischief(what: str) -> Trial:
    if what == "die":
        os._exit(9)
    if what == "raise":
        raise ValueError("planted")
    if what == "daemonize" and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()
        syscalls.set_process_name(DAEMON)
        time.sleep(600)
    if what == "hang":
        time.sleep(600)
    if what == "wait-for-device":
        disk = PlainDisk(_SPEC, Image.create(1 << 20, "toy"), "toy")
        device = disk.attach()
        disk.remove()
        while loop.over_fd(disk.image.fd)[0].removed:
            time.sleep(0.01)
        os.close(device.fd)
    facts = {"mischief": what}
    if what == "look":
        facts["there"] = " ".join(sorted(os.listdir(mounts.enter_private_mounts().root)))
    return Trial(facts=facts)


SYSTEM = System(
    name="toy",
    about="a writer, and a device that is pulled out",
    home="toy_system",
    variants=(
        Variant(name="forgets-fsync", about="close, and no fsync", finding=FindingKind.LOST_CLEAN),
        Variant(name="forgets-once", about="no fsync the first time", finding=FindingKind.LOST_CLEAN),
        Variant(name="accused", about="right, and said to be wrong", finding=FindingKind.SPLIT),
        Variant(name="syncs", about="fsync before close"),
        Variant(name="praised", about="wrong, and said to be right"),
        Variant(name="dies", about="its trials at P2 come to nothing"),
    ),
    plan_type=Plan,
    plans=st.builds(Plan, blocks=st.integers(1, 64)),
    points=("P1", "P2"),
    at=lambda point: st.builds(Plan, blocks=st.integers(1, 3), pulled=st.just(point)),
    run=run,
    seconds=2.0,
)

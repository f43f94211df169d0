"""How fast states are judged, beside a bare loop and beside a shell script. `python tests/benchmarks/bench_judging.py`

Prints figures and ratios of one run; decides nothing. Needs root. Sections, in this order:

- floor: restore + mount + umount of one crash state, on the same kind of scratch device, with as many processes
- judging: with an in-process check, without and with fsck
- script: the same states one by one with cp, losetup, mount, cat, umount, e2fsck
- flat: cost a state for a log of 1,000 and of 100,000 writes, and for a volume of 64 MiB and of 4 GiB
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import msgspec

from harness.blocklog import Kind
from harness.crash import DiskBuilder
from harness.machine import mounts, syscalls, zram
from harness.machine.sandbox import spawn_init
from harness.machine.scratch import LoopScratch, Scratch, ZramScratch
from harness.oracle.checks import CallableCheck, RecoveredState
from harness.settings import Settings
from harness.trial.bench import private_copy
from harness.trial.judging import Judge
from harness.trial.recorder import prepare, recording_of
from harness.trial.recording import Recording
from harness.trial.report import Report
from harness.volume import RecordedVolume

FILES = 10
SLOTS = 4
ROUNDS = 600
FLOOR_STATES = 2000
SCRIPT_STATES = 60


def record(settings: Settings, workload: Callable[[str, Callable[[bytes], None]], None]) -> Recording:
    spec, base = prepare(settings)
    with RecordedVolume(spec, base, log_max=settings.log_max) as volume:
        workload(volume.path, volume.mark)
        volume.finish()
        if volume.error:
            raise volume.error
    return recording_of(volume, spec, base)


def files_workload(root: str, mark: Callable[[bytes], None]) -> None:
    """Rounds of write + fsync over a few small files, and a file replaced by rename: the usual small mixture."""
    for n in range(ROUNDS):
        fd = os.open(f"{root}/file{n % FILES}", os.O_CREAT | os.O_WRONLY)
        os.pwrite(fd, b"%-4096d" % n, n // FILES % SLOTS * 4096)
        os.fsync(fd)
        os.close(fd)
        if n % 4 == 0:
            fd = os.open(f"{root}/new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.write(fd, b"%d" % n)
            os.fsync(fd)
            os.close(fd)
            os.rename(f"{root}/new", f"{root}/current")
        mark(b"promise:%d" % n)


def check_files(state: RecoveredState) -> bool:
    """Each file's latest promised slot holds that write or a later one."""
    latest = {int(promise.raw) % FILES: int(promise.raw) for promise in state.made[-FILES:]}
    for number, n in latest.items():
        content = _content(f"{state.path}/file{number}")
        if int(content[n // FILES % SLOTS * 4096 :][:4096]) < n:
            return False
    return True


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def judge(recording: Recording, settings: Settings, check: Callable[[RecoveredState], object] = check_files) -> Report:
    return Judge(recording, settings, lambda _: CallableCheck(check, settings.timeout)).all()


def floor(recording: Recording, settings: Settings, workers: int) -> float:
    """States a second of the bare loop: the same device, the same crash state written anew, mount, umount."""
    workspace = mounts.enter_private_mounts()
    space = recording.space(settings)
    state = space.states(settings.max_states, 0).states[-20]

    def loop(device: zram.ZramDevice | None) -> Callable[[], int]:
        def life() -> int:
            image = private_copy(recording.base)
            builder = DiskBuilder(space, image)
            changed = builder.build(state)
            footprint = [*recording.base.nonzero_extents(), *builder.footprint]
            for _ in range(FLOOR_STATES // workers):
                scratch = _bare(device, image, footprint, settings)
                mounts.mount_volume(scratch.put(changed), workspace.volume, "ext4")
                syscalls.umount(workspace.volume)
            return 0

        return life

    with contextlib.ExitStack() as stack:
        devices = _devices(stack, recording, settings, workers)
        started = time.monotonic()
        inits = [stack.enter_context(spawn_init(loop(device))) for device in devices]
        if any(init.wait(120) for init in inits):
            raise SystemExit("the bare loop failed")
        return FLOOR_STATES / (time.monotonic() - started)


def _bare(device: zram.ZramDevice | None, image: object, footprint: object, settings: Settings) -> Scratch:
    if device:
        return ZramScratch(device, image, footprint, None)  # type: ignore[arg-type]
    return LoopScratch(image, footprint, settings.sector_size)  # type: ignore[arg-type]


def _devices(
    stack: contextlib.ExitStack, recording: Recording, settings: Settings, workers: int
) -> list[zram.ZramDevice | None]:
    if settings.scratch == "loop" or not zram.available():
        return [None] * workers
    pool = stack.enter_context(zram.ZramPool(mounts.enter_private_mounts(), workers, recording.base.size))
    return list(pool.devices)


SCRIPT = """
set -e
image=$1 root=$2 states=$3
for n in $(seq $states); do
    cp --sparse=always $image $root/state.img
    device=$(losetup --find --show $root/state.img)
    mount -t ext4 $device $root/mnt
    cat $root/mnt/file* > /dev/null
    umount $root/mnt
    e2fsck -fn $device > /dev/null 2>&1
    losetup -d $device
done
"""


def script(recording: Recording, settings: Settings) -> float:
    """States a second of a shell script that does what we do, one state after the other, in a temporary folder."""
    space = recording.space(settings)
    image = private_copy(recording.base)
    DiskBuilder(space, image).build(space.states(settings.max_states, 0).states[-20])
    with tempfile.TemporaryDirectory() as root:
        os.mkdir(f"{root}/mnt")
        with open(f"{root}/crashed.img", "wb") as file:
            file.write(image)
        subprocess.run(["cp", "--sparse=always", f"{root}/crashed.img", f"{root}/sparse.img"], check=True)
        started = time.monotonic()
        subprocess.run(
            ["sh", "-c", SCRIPT, "sh", f"{root}/sparse.img", root, str(SCRIPT_STATES)], check=True, timeout=120
        )
        return SCRIPT_STATES / (time.monotonic() - started)


def overwrite_workload(writes: int) -> Callable[[str, Callable[[bytes], None]], None]:
    """At least so many block writes, over and over the same few blocks: the log grows, the data do not."""

    def run(root: str, mark: Callable[[bytes], None]) -> None:
        fd = os.open(f"{root}/file0", os.O_CREAT | os.O_WRONLY)
        os.write(fd, bytes(1 << 16))
        os.fsync(fd)
        for n in range(writes):
            os.pwrite(fd, b"%16d" % n, n % 16 * 4096)
            os.fdatasync(fd)
        os.close(fd)
        mark(b"promise:0")

    return run


def readable(state: RecoveredState) -> bool:
    return not os.path.exists(f"{state.path}/file0") or len(_content(f"{state.path}/file0")) >= 0


def cost(recording: Recording, settings: Settings) -> float:
    """Milliseconds of one processor a state, without starting up: the difference of two runs."""
    few, many = (judge(recording, msgspec.structs.replace(settings, max_states=n), readable) for n in (500, 3000))
    return (many.seconds - few.seconds) / (many.judged - few.judged) * 1000


def rows() -> Iterator[str]:
    settings = Settings(fsck=False, max_states=4000)
    workers = 2 * len(os.sched_getaffinity(0))
    recording = record(settings, files_workload)
    bare = max(floor(recording, settings, workers) for _ in range(2))
    plain = judge(recording, settings)
    checked = judge(recording, msgspec.structs.replace(settings, fsck=True, max_states=2000))
    by_script = script(recording, settings)
    on_loop = judge(recording, msgspec.structs.replace(settings, scratch="loop", max_states=1000))
    device = "zram" if zram.available() else "loop"
    yield f"scratch device {device}, {workers} processes on {len(os.sched_getaffinity(0))} cores, ext4 64 MiB"
    yield f"bare restore + mount + umount     {bare:7.0f} states/s"
    of_bare = f"{plain.rate / bare:.2f} of bare"
    yield f"judged, in-process check          {plain.rate:7.0f} states/s   {of_bare}   (wanted: 600, 0.75)"
    yield f"judged, and fsck after each       {checked.rate:7.0f} states/s   (wanted: 350)"
    yield f"judged on loop devices            {on_loop.rate:7.0f} states/s"
    of_script = f"ours with fsck {checked.rate / by_script:.1f} x"
    yield f"cp, losetup, mount, e2fsck by sh  {by_script:7.0f} states/s   {of_script}   (wanted: 8 x)"
    yield f"verdicts: {plain.verdict}, {checked.verdict}, {on_loop.verdict}; {plain.scope}"
    short, long = (record(settings, overwrite_workload(n)) for n in (1_000, 100_000))
    costs = [cost(r, settings) for r in (short, long)]
    yield from flatness("writes in the log", [str(r.count(Kind.WRITE)) for r in (short, long)], costs)
    # With mkfs's own choice the 4 GiB volume has a journal 16 times as long, and the kernel has more of it to replay.
    for journal in ("-J size=4", ""):
        sizes = [msgspec.structs.replace(settings, size=size, mkfs_options=journal) for size in (64 << 20, 4 << 30)]
        costs = [cost(record(of_size, files_workload), settings) for of_size in sizes]
        yield from flatness(f"size of the volume ({journal or 'journal by default'})", ["64M", "4G"], costs)


def flatness(what: str, labels: list[str], costs: list[float]) -> Iterator[str]:
    pairs = ", ".join(f"{label}: {ms:.2f} ms" for label, ms in zip(labels, costs, strict=True))
    yield f"cost a state by {what}: {pairs}: {costs[1] / costs[0]:.2f} x   (wanted: within 1.3 x)"


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

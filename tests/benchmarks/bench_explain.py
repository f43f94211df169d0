"""How long `harness explain` takes for a large bundle. `python tests/benchmarks/bench_explain.py`

Prints figures of one run; decides nothing. Needs root, to record. The bundle: 64 MiB written to files of an ext4 volume
of 256 MiB, half of it in rounds of small writes, each with an fsync, half in large ones; random bytes, so that packing
saves nothing. Sections, in this order:

- load: read, decompress, check the digests, parse the log, make the base image
- explain: name every write, the story
- in all: `harness explain FILE --no-sides` as a process of its own, from start to end
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from harness.explain.explaining import explain_bundle
from harness.machine.image import Image
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.recorder import prepare, recording_of
from harness.trial.recording import Recording, whole
from harness.verdict import Finding, FindingKind
from harness.volume import RecordedVolume, VolumeSpec

HALF = 32 << 20
SMALL = 16 << 10
LARGE = 1 << 20
FILES = 16
RUNS = 3


def workload(root: str, promise: Callable[[bytes], None]) -> None:
    """Small appends to many files, each fsynced and promised; then a few large files."""
    for n in range(HALF // SMALL):
        _append(f"{root}/small-{n % FILES}", SMALL)
        promise(b"promise:%d" % n)
    for n in range(HALF // LARGE):
        _append(f"{root}/large-{n % 4}", LARGE)
        promise(b"promise:large %d" % n)


def _append(path: str, size: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, os.urandom(size))
    os.fsync(fd)
    os.close(fd)


def record(settings: Settings) -> tuple[Recording, VolumeSpec, Image]:
    spec, base = prepare(settings)
    with RecordedVolume(spec, base, log_max=settings.log_max) as volume:
        workload(volume.path, volume.mark)
        volume.finish()
        if volume.error:
            raise volume.error
    return recording_of(volume, spec, base), spec, base


def packed(settings: Settings, path: str) -> Recording:
    """Save the recording with a state in the middle of it, all of whose unflushed writes are lost."""
    recording, _, _ = record(settings)
    space = recording.space(settings)
    middle = space.cuts[len(space.cuts) // 2]
    state = whole(space, recording)._replace(epoch=middle.epoch, cut=middle.cut, kept=0, promises=middle.promises)
    finding = Finding(kind=FindingKind.LOST_ACKED, summary=f"LOST_ACKED {middle.promises - 1} is gone")
    bundles.save(path, bundles.pack(recording, settings, state=space.named(state), finding=finding))
    return recording


def timed(work: Callable[[], object]) -> float:
    """The best of several runs, in seconds."""
    best = float("inf")
    for _ in range(RUNS):
        started = time.monotonic()
        work()
        best = min(best, time.monotonic() - started)
    return best


def rows() -> Iterator[str]:
    settings = Settings(size=256 << 20)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "large.crash")
        recording = packed(settings, path)
        events = f"{len(recording.log.events):,} events"
        yield f"bundle of {os.path.getsize(path) >> 20} MiB, log of {recording.log.size >> 20} MiB, {events}"
        yield f"load                              {timed(lambda: bundles.load(path)):6.2f} s"
        bundle = bundles.load(path)
        yield f"explain                           {timed(lambda: explain_bundle(bundle, path)):6.2f} s"
        words = [sys.executable, "-m", "harness.cli.main", "explain", path, "--no-sides"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole_run = timed(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = (used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) / RUNS
        yield f"harness explain, start to end     {whole_run:6.2f} s   (wanted: under 2 s)"
        yield f"of which on a processor           {processor:6.2f} s   (the rest is waiting for one, or for the disk)"


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

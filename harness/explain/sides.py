"""Two disks, file by file: the one after the cut beside what was to be expected of it.

For a plan that is what the file system owes it, so whatever it allows is no difference. For a program nobody knows what
is owed but its own check: beside the disk after the cut stands the disk as the workload left it, and a difference is
no guilt. Both are recovered by the kernel, one after the other (two disks of one UUID cannot be mounted together), in a
process of its own: no mount and no device outlives it.
"""

import contextlib
import itertools
from collections.abc import Iterator

import msgspec

from harness.crash import CrashState
from harness.errors import HarnessError, TrialUnknown
from harness.explain.explained import Side
from harness.explain.owed import against_plan
from harness.explain.shapes import CHUNK, Shape, chunk_of, shapes, spelled, with_windows
from harness.machine import loop, mounts, syscalls
from harness.machine.process import describe_status
from harness.machine.sandbox import answer_of
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.foreign import disk_of
from harness.trial.recording import Recording, whole

FILES_MAX = 50
"""So many files are told; the others that differ are not."""
_GRACE_SECONDS = 30.0
_REMEDY = "look at them: harness replay FILE --shell"


def sides(recording: Recording, settings: Settings, state: CrashState, plan: Plan | None = None) -> tuple[Side, ...]:
    """The files in which the recovered disk of `state` differs, by path, at most FILES_MAX of them. Needs root.

    A disk that does not mount is one Side, `unreadable`, of the path `/`. Raises TrialUnknown where the comparing could
    not be done, RequirementMissing without root.
    """

    def work() -> bytes:
        try:
            return msgspec.msgpack.encode(_Told(_compared(recording, settings, state, plan)))
        except (HarnessError, OSError) as error:
            return msgspec.msgpack.encode(_Told([], getattr(error, "cause", str(error))))

    told, status = answer_of(work, settings.timeout + _GRACE_SECONDS, name="harness-sides")
    if not told:
        how = "took too long" if status is None else f"ended: {describe_status(status)}"
        raise TrialUnknown(f"the process that compared the files {how}", _REMEDY)
    answer = msgspec.msgpack.decode(told, type=_Told)
    if answer.trouble:
        raise TrialUnknown(f"the files could not be compared: {answer.trouble}", _REMEDY)
    return tuple(answer.sides)


class _Told(msgspec.Struct, array_like=True):
    """What the process that compared says: `trouble` is why it could not."""

    sides: list[Side]
    trouble: str = ""


def _compared(recording: Recording, settings: Settings, state: CrashState, plan: Plan | None) -> list[Side]:
    found: dict[str, Shape] = {}
    try:
        with _mounted(recording, settings, state) as root:
            if plan:
                differing = against_plan(root, plan, recording, settings, state.promises)
                return sorted(itertools.islice(differing, FILES_MAX), key=lambda side: side.path)
            found = shapes(root)
    except OSError:
        return [Side(path="/", what="unreadable")]
    return _against_whole(recording, settings, state, found)


@contextlib.contextmanager
def _mounted(recording: Recording, settings: Settings, state: CrashState) -> Iterator[str]:
    """The state's disk, recovered and mounted. OSError where the kernel does not mount it."""
    spec = recording.spec
    volume = mounts.enter_private_mounts().volume
    options = spec.file_system.all_mount_options(spec.mount_options)
    with disk_of(recording, settings, state) as disk, loop.attach(disk.fd, sector_size=spec.sector_size) as device:
        mounts.mount_volume(device.path, volume, spec.file_system.fs_type, options)
        try:
            yield volume
        finally:
            syscalls.umount(volume)


def _against_whole(recording: Recording, settings: Settings, state: CrashState, found: dict[str, Shape]) -> list[Side]:
    """Chunks are compared by their hashes; only of the first that differs the bytes are fetched, from both disks."""
    nothing_lost = whole(recording.space(settings), recording)
    with _mounted(recording, settings, nothing_lost) as root:
        expected = shapes(root)
        paths = [path for path in sorted({*found, *expected}) if found.get(path) != expected.get(path)][:FILES_MAX]
        first = {path: _first_chunk(expected.get(path), found.get(path)) for path in paths}
        of_expected = _chunks(root, first, expected)
    if not paths:
        return []
    with _mounted(recording, settings, state) as root:
        of_found = _chunks(root, first, found)
    return [
        _side(path, expected.get(path), found.get(path), max(first[path], 0), of_expected[path], of_found[path])
        for path in paths
    ]


def _chunks(root: str, first: dict[str, int], known: dict[str, Shape]) -> dict[str, bytes]:
    return {
        path: chunk_of(root, path, known[path], number) if number >= 0 and path in known else b""
        for path, number in first.items()
    }


def _first_chunk(expected: Shape | None, found: Shape | None) -> int:
    """The number of the first chunk in which two files differ; of one alone its first; -1 where nothing can be read."""
    if not all(shape.readable for shape in (expected, found) if shape):
        return -1
    if expected is None or found is None or expected.kind != found.kind:
        return 0
    numbers = {*expected.chunks, *found.chunks}
    differing = [number for number in numbers if expected.chunks.get(number) != found.chunks.get(number)]
    return min(differing, default=min(expected.size, found.size) // CHUNK)


def _side(path: str, expected: Shape | None, found: Shape | None, chunk: int, wanted: bytes, there: bytes) -> Side:
    side = Side(
        path="/" + spelled(path),
        what=_what(expected, found),
        expected_size=expected.size if expected else -1,
        found_size=found.size if found else -1,
    )
    return side if side.what == "unreadable" else with_windows(side, chunk * CHUNK, wanted, there)


def _what(expected: Shape | None, found: Shape | None) -> str:
    if found is None:
        return "missing"
    if expected is None:
        return "extra"
    if not found.readable:
        return "unreadable"
    if expected.kind != found.kind:
        return "type"
    if expected.size == found.size:
        return "content"
    return "shorter" if found.size < expected.size else "longer"

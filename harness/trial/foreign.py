"""Recordings that come from elsewhere, and ours for the tools of others.

In: a raw image of a device and the log that dm-log-writes (or QEMU's blklogwrites) kept of it from then on.
Out: raw images and the log in the same format, which xfstests' replay-log replays.
"""

import errno
import io
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

from harness.blocklog import BlockLog
from harness.blocklog.format import BEGIN, END, SUPER
from harness.crash import CrashState, DiskBuilder
from harness.errors import BadLog, Misuse
from harness.machine.files import write_sparse
from harness.machine.image import Image
from harness.settings import Settings
from harness.trial.bundle import Bundle
from harness.trial.recording import Recording
from harness.volume import VolumeSpec

_STEP = 1 << 20


def load_foreign(
    base: str, log: str, settings: Settings, *, sector_size: int = 0, begin: int | None = None, end: int | None = None
) -> Recording:
    """The recording in the image file (or device) `base` and the log file (or device) `log`.

    `sector_size` 0: that of the log, which is the recorded device's. `begin` and `end` count events before the cut;
    without them the marks `begin` and `end` are taken, else the whole log. Raises Misuse, BadLog.
    """
    parsed = _parse(log)
    image = _read_image(base)
    spec = VolumeSpec(
        fs=settings.fs,
        size=image.size,
        mount_options=settings.mount_options,
        mkfs_options=settings.mkfs_options,
        sector_size=sector_size or _sector_size(parsed),
    )
    first, last = _bounds(parsed, begin, end)
    _check_fits(parsed, image.size, base)
    return Recording(spec, image, parsed, first, last, orderly=False)


def _parse(path: str) -> BlockLog:
    with _open(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise BadLog(f"{path} is empty", "give a log written by dm-log-writes or by this harness")
        mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    try:
        return BlockLog.parse(mapped)
    except BadLog as error:
        raise BadLog(f"{path}: {error.cause}", error.remedy) from error


def _open(path: str) -> io.FileIO:
    try:
        return io.FileIO(path, "rb")
    except OSError as error:
        raise Misuse(f"{path}: {error.strerror}", "give the path of a file that can be read") from error


def _read_image(path: str) -> Image:
    """A copy in memory, so that nothing here can ever write to the original."""
    with _open(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0 or size % 512:
            raise Misuse(f"{path} has {size} bytes, which is no disk", "give the raw image of the device, whole")
        image = Image.create(size, "base")
        zeros = bytes(_STEP)
        for offset in _data_steps(file.fileno(), size):
            piece = os.pread(file.fileno(), _STEP, offset)
            if piece != zeros[: len(piece)]:
                os.pwrite(image.fd, piece, offset)
    return image


def _data_steps(fd: int, size: int) -> Iterator[int]:
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA) // _STEP * _STEP
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:  # a device knows no holes
                raise
        yield offset
        offset += _STEP


def _sector_size(log: BlockLog) -> int:
    size: int = SUPER.unpack_from(log.view)[3]
    return size


def _bounds(log: BlockLog, begin: int | None, end: int | None) -> tuple[int, int]:
    events = len(log.events)
    marked_begin, marked_end = log.find(BEGIN), log.find(END)
    first = begin if begin is not None else marked_begin or 0
    last = end if end is not None else (events if marked_end is None else marked_end)
    return _within(log, first, last)


def _within(log: BlockLog, first: int, last: int) -> tuple[int, int]:
    events = len(log.events)
    if not 0 <= first <= last <= events:
        raise Misuse(f"--begin {first} --end {last} do not lie in a log of {events} events", "count events from 0")
    return first, last


def rebounded(recording: Recording, begin: int | None, end: int | None) -> Recording:
    """The same recording with cuts from other bounds; None keeps the bound. Raises Misuse for one outside the log."""
    first = recording.begin if begin is None else begin
    last = recording.end if end is None else end
    return recording._replace(begin=_within(recording.log, first, last)[0], end=last)


def _check_fits(log: BlockLog, size: int, base: str) -> None:
    for at, event in enumerate(log.events):
        if event.offset + event.length > size:
            raise BadLog(
                f"event {at} of the log reaches byte {event.offset + event.length}, but {base} has {size}",
                "give the image of the device that the log belongs to",
            )


def disk_of(recording: Recording, settings: Settings, state: CrashState) -> Image:
    """The disk that the state leaves, before any recovery."""
    image = recording.base.copy("state")
    builder = DiskBuilder(recording.space(settings), image.map)
    builder.build(state)
    builder.release()
    return image


class Exported(NamedTuple):
    """One file that was written, its size and what it holds, in words."""

    path: str
    size: int
    what: str


def export(bundle: Bundle, manifest: bytes, directory: str) -> list[Exported]:
    """Write base.img, log.dmlw, state.img (if the bundle has a state) and manifest.json into a new directory.

    The images are sparse raw disks. Raises Misuse for a directory that holds something, OSError as open(2) does.
    """
    recording = bundle.recording
    _make_empty(directory)
    written = [
        _write_image(directory, "base.img", recording.base, "the volume before the recording"),
        _write(directory, "log.dmlw", recording.log.view[: recording.log.size], "the block log, dm-log-writes format"),
    ]
    if bundle.manifest.state:
        with disk_of(recording, bundle.manifest.settings, bundle.manifest.state.state()) as disk:
            written.append(
                _write_image(directory, "state.img", disk, "the disk after the power cut, not yet recovered")
            )
    written.append(_write(directory, "manifest.json", memoryview(manifest), "what the bundle says of itself"))
    return written


def _make_empty(directory: str) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise Misuse(f"{directory}: {error.strerror}", "name a directory that can be made") from error
    if os.listdir(directory):
        raise Misuse(f"{directory} is not empty", "name a new directory")


def _write_image(directory: str, name: str, image: Image, what: str) -> Exported:
    pieces = [(offset, memoryview(image.map)[offset : offset + length]) for offset, length in image.nonzero_extents()]
    try:
        return _write_file(directory, name, image.size, pieces, what)
    finally:
        for _, piece in pieces:
            piece.release()


def _write(directory: str, name: str, content: memoryview, what: str) -> Exported:
    return _write_file(directory, name, len(content), [(0, content)], what)


def _write_file(directory: str, name: str, size: int, pieces: list[tuple[int, memoryview]], what: str) -> Exported:
    path = os.path.join(directory, name)
    write_sparse(path, size, pieces)
    return Exported(path, size, what)

"""Every file of a mounted volume, so short that two volumes can be compared which are never there together."""

import errno
import os
import stat
from collections.abc import Iterator

import msgspec
import xxhash

from harness.explain.explained import Side
from harness.oracle.recovered import LOST_AND_FOUND

CHUNK = 1 << 16
"""Files are compared in chunks of so many bytes."""
WINDOW = 64
"""Bytes shown of either side."""
_BEFORE = 16
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}


class Shape(msgspec.Struct, frozen=True):
    """One name. `chunks`: the hash of each chunk of a file that is not all zeros; of a link, that of its target."""

    kind: str
    size: int = 0
    chunks: dict[int, int] = {}
    readable: bool = True


def shapes(root: str) -> dict[str, Shape]:
    """All that is below `root`, by path. What the file system cannot read is there, and not readable."""
    return {path: _shape(f"{root}/{path}") for path in _paths(root)}


def chunk_of(root: str, path: str, shape: Shape, number: int) -> bytes:
    """The bytes of one chunk, as many as there are; of a symbolic link its target. Empty where it cannot be read."""
    try:
        if shape.kind == "symbolic link":
            return os.fsencode(os.readlink(f"{root}/{path}"))
        if shape.kind != "file":
            return b""
        with open(f"{root}/{path}", "rb") as file:
            return os.pread(file.fileno(), CHUNK, number * CHUNK)
    except OSError:
        return b""


def spelled(path: str) -> str:
    """A path from a disk as text that UTF-8 can hold."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def with_windows(side: Side, base: int, wanted: bytes, there: bytes) -> Side:
    """The side with the first byte that differs and both windows; `wanted` and `there` begin at byte `base`."""
    first = next((n for n, (a, b) in enumerate(zip(wanted, there, strict=False)) if a != b), -1)
    at = first if first >= 0 else min(len(wanted), len(there))
    start = max(0, at - at % _BEFORE - _BEFORE)
    return msgspec.structs.replace(
        side,
        first=base + first if first >= 0 else -1,
        start=base + start,
        expected=wanted[start : start + WINDOW],
        found=there[start : start + WINDOW],
    )


def _paths(root: str) -> Iterator[str]:
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        for name, is_folder in found:
            path = f"{folder}/{name}" if folder else name
            if path != LOST_AND_FOUND:
                yield path
                waiting += [path] if is_folder else []


def _shape(path: str) -> Shape:
    kind = "unknown"
    try:
        status = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        if kind == "file":
            return Shape(kind, status.st_size, _hashes(path, status.st_size))
        if kind == "symbolic link":
            target = os.fsencode(os.readlink(path))
            return Shape(kind, len(target), {0: xxhash.xxh3_64_intdigest(target)})
        if kind == "directory":
            os.listdir(path)
        return Shape(kind)
    except OSError:
        return Shape(kind, readable=False)


def _hashes(path: str, size: int) -> dict[int, int]:
    """Of a sparse file only what it holds is read."""
    found = {}
    zeros = bytes(CHUNK)
    with open(path, "rb") as file:
        fd = file.fileno()
        at = _next_data(fd, 0)
        while at < size:
            data = os.pread(fd, CHUNK, at)
            if data != zeros[: len(data)]:
                found[at // CHUNK] = xxhash.xxh3_64_intdigest(data)
            at = max(at + CHUNK, _next_data(fd, at + CHUNK))
    return found


def _next_data(fd: int, at: int) -> int:
    """The chunk at or after `at` in which data begin; beyond any file where there are none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA) // CHUNK * CHUNK
    except OSError as error:
        if error.errno == errno.ENXIO:
            return 1 << 62
        raise

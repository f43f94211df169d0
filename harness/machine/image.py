"""Volume images in anonymous memory: sparse, without a name on any disk, gone with their last descriptor.

A size costs nothing until pages are written. Source: memfd_create(2), lseek(2) for SEEK_DATA and SEEK_HOLE.
"""

import errno
import mmap
import os
import secrets
from typing import Self

from harness.closing import Closing
from harness.extents import Extent
from harness.machine import fileops

_NAME_PREFIX = "crash-harness:"
_CHUNK = 1 << 18


class Image(Closing):
    """A sparse image of `size` bytes behind the descriptor `fd`, mapped whole, shared and writable as `map`.

    Reading a hole through `map` allocates its pages (mmap of shmem does); `read`, `extents` and `copy` never do.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Take over an open memfd (or regular file on a sparse file system) of `size` bytes."""
        self.fd = fd
        self.size = size
        self.map = mmap.mmap(fd, size)

    @classmethod
    def create(cls, size: int, label: str) -> Self:
        """An image of `size` zero bytes, seen in /proc as memfd:crash-harness:`label`:…, a name of its own.

        Raises OSError as memfd_create(2), ftruncate(2) and mmap(2) do, ValueError for a size that is not positive.
        """
        if size <= 0:
            raise ValueError(f"an image of {size} bytes")
        fd = os.memfd_create(f"{_NAME_PREFIX}{label}:{secrets.token_hex(4)}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            return cls(fd, size)
        except BaseException:
            os.close(fd)
            raise

    @property
    def path(self) -> str:
        """A path under which other programs (mkfs, fsck) can open the image while this process holds it."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset` (fewer at the end of the image). Holes read as zeros and stay holes."""
        return os.pread(self.fd, length, offset)

    def extents(self) -> list[Extent]:
        """The allocated (offset, length) extents in bytes, ascending; everything else reads as zeros."""
        return list(fileops.data_extents(self.fd))

    def nonzero_extents(self, granule: int = 4096) -> list[Extent]:
        """What must be written for a zeroed device to hold this image: extents less all-zero granules, merged.

        Extents begin and end at multiples of `granule` bytes (or at the end of the image).
        """
        found: list[Extent] = []
        step = granule * max(1, _CHUNK // granule)
        seen = 0
        zeros = bytes(step)
        with memoryview(bytearray(step)) as buffer:
            for start, length in self.extents():
                stop = min(start + length + -(start + length) % granule, self.size)
                for offset in range(max(seen, start - start % granule), stop, step):
                    piece = buffer[: os.preadv(self.fd, [buffer[: min(step, stop - offset)]], offset)]
                    _collect_nonzero(piece, offset, zeros, granule, found)
                seen = stop
        return found

    def copy(self, label: str = "copy") -> "Image":
        """An independent image with the same content; holes stay holes."""
        twin = Image.create(self.size, label)
        try:
            for offset, length in self.extents():
                _copy_range(self.fd, twin.fd, offset, length)
        except BaseException:
            twin.close()
            raise
        return twin

    def close(self) -> None:
        """Give the memory back, once no other process or loop device holds the image. Idempotent."""
        if self.fd >= 0:
            self.map.close()
            os.close(self.fd)
            self.fd = -1


def _collect_nonzero(data: memoryview, base: int, zeros: bytes, granule: int, found: list[Extent]) -> None:
    """Append the non-zero granules of `data`, which lies at `base`, to `found`, merging with its last extent."""
    # Comparing bytes is memcmp(3); comparing memoryviews would go item by item.
    if bytes(data) == zeros:
        return
    zero = zeros[:granule]
    for at in range(0, len(data), granule):
        piece = bytes(data[at : at + granule])
        if piece == zero or (len(piece) < granule and not any(piece)):
            continue
        if found and sum(found[-1]) == base + at:
            found[-1] = (found[-1][0], found[-1][1] + len(piece))
        else:
            found.append((base + at, len(piece)))


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    stop = offset + length
    while offset < stop:
        data = os.pread(source, min(_CHUNK, stop - offset), offset)
        if not data:
            raise OSError(errno.EIO, "image shorter than its extents")
        offset += os.pwrite(target, data, offset)

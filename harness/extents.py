"""Extents: (offset, length) pairs in bytes. Pure arithmetic for the crash model and the machine's scratch disks."""

from collections.abc import Iterable

Extent = tuple[int, int]


def merge(extents: Iterable[Extent], granule: int, size: int) -> list[Extent]:
    """Extents widened to whole granules, sorted, and joined where they touch. Nothing reaches beyond `size`."""
    joined: list[list[int]] = []
    widened = ((at // granule * granule, min(size, -(-(at + n) // granule) * granule)) for at, n in extents)
    for start, stop in sorted(widened):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    return [(start, stop - start) for start, stop in joined]

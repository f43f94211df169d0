"""Which thing of a file system each write of a block log was meant for."""

import mmap
from collections.abc import Callable

from harness.blocklog import BlockLog, Kind
from harness.layout.kinds import BlockKind, Named

Buffer = bytes | bytearray | mmap.mmap | memoryview
Names = dict[int, tuple[Named, ...]]
Namer = Callable[..., Names]


def name_writes(fs: str, base: Buffer, log: BlockLog, size: int, *, end: int | None = None) -> Names:
    """For each WRITE and DISCARD event (index into log.events[:end]): its runs of blocks, in order of offset,
    covering the event whole.

    `base` is the volume of `size` bytes before the log. A block is named by what it is at the time of its write; as
    metadata follow the data that they describe, what the log says later, up to `end`, is a help. What is not
    understood is of the kind UNKNOWN and says why: no name is guessed.
    """
    namer = _namer(fs)
    if namer is None:
        return unnamed(log, f"not named: blocks of {fs} are not known", end)
    return namer(base, log, size, end=end)


def unnamed(log: BlockLog, why: str, end: int | None = None) -> Names:
    """The same answer for every event: UNKNOWN, with the reason."""
    return {
        number: (Named(offset=event.offset, length=event.length, kind=BlockKind.UNKNOWN, text=why),)
        for number, event in enumerate(log.events[:end])
        if event.kind in (Kind.WRITE, Kind.DISCARD)
    }


def _namer(fs: str) -> Namer | None:
    """Of that file system. Imported when it is needed: a volume has one."""
    if fs in ("ext2", "ext3", "ext4"):
        from harness.layout.ext4 import name_writes as of_ext4

        return of_ext4
    if fs == "xfs":
        from harness.layout.xfs import name_writes as of_xfs

        return of_xfs
    if fs == "btrfs":
        from harness.layout.btrfs import name_writes as of_btrfs

        return of_btrfs
    return None

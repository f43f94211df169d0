"""Where a file system keeps what: its journal, the inode of a file, its trees. Asked of its own tools, on the image."""

import re
from typing import NamedTuple

from harness.errors import InternalError
from harness.extents import Extent
from harness.machine import process
from harness.machine.image import Image
from harness.machine.journals import journal_of
from harness.volume import VolumeSpec

BLOCK = 4096
_SUPERBLOCK = 64 << 10
"""Where btrfs keeps its first superblock (btrfs_sb_offset in fs/btrfs/volumes.h)."""


class Places(NamedTuple):
    """Extents of the device, in bytes. `data` holds where the workload's new block goes, once it is known."""

    journal: tuple[Extent, ...]
    metadata: tuple[Extent, ...]
    superblock: tuple[Extent, ...] = ()
    data: tuple[Extent, ...] = ()


def places(spec: VolumeSpec, image: Image, inode: int) -> Places:
    """The places of a volume at rest. Raises RequirementMissing for a tool that is not there, InternalError.

    `metadata` is the block with the inode; of btrfs, which has no such block, all trees. They are its journal too: log
    trees lie among the others (fs/btrfs/tree-log.c), so what is written tells by when it is written.
    """
    if spec.file_system.fs_type == "btrfs":
        trees = _btrfs_trees(image)
        return Places(trees, trees, ((_SUPERBLOCK, BLOCK),))
    journal = journal_of(spec.fs, image)
    if not journal:
        raise InternalError(f"no journal is to be found on this {spec.fs}")
    if spec.file_system.fs_type == "xfs":
        return Places(journal, ((_xfs_inode(image, inode), BLOCK),))
    return Places(_but_first_block(journal), ((_ext4_inode(image, inode), BLOCK),))


def _but_first_block(journal: tuple[Extent, ...]) -> tuple[Extent, ...]:
    """Without the journal's superblock: jbd2 writes that whenever the log's tail moves."""
    (at, length), *others = journal
    return tuple(extent for extent in ((at + BLOCK, length - BLOCK), *others) if extent[1])


def _ext4_inode(image: Image, inode: int) -> int:
    said = _ask("debugfs", "-R", f"imap <{inode}>", image.path)
    return _number(r"located at block (\d+)", said) * BLOCK


def _xfs_inode(image: Image, inode: int) -> int:
    at = _number(r"\((\d+)\)", _ask("xfs_db", "-r", "-c", f"convert inode {inode} byte", image.path))
    return at - at % BLOCK


def _btrfs_trees(image: Image) -> tuple[Extent, ...]:
    """Every copy of the chunks that hold system and metadata trees."""
    said = _ask("btrfs", "inspect-internal", "dump-tree", "-t", "chunk", image.path)
    found = []
    for chunk in said.split("CHUNK_ITEM")[1:]:
        if re.search(r"type (SYSTEM|METADATA)", chunk):
            length = _number(r"length (\d+)", chunk)
            found += [(int(at), length) for at in re.findall(r"stripe \d+ devid \d+ offset (\d+)", chunk)]
    if not found:
        raise InternalError(f"the file system's own tool did not say where the trees are: {said.strip()[-300:]}")
    return tuple(found)


def _ask(*words: str) -> str:
    return process.run(words).output.decode(errors="replace")


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    if found is None:
        raise InternalError(f"the file system's own tool gave no {pattern!r}: {said.strip()[-300:]}")
    return int(found[1])

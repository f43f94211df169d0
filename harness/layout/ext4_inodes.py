"""Inodes, the blocks that they map, and directories: bytes in, records out.

Sources: the kernel's Documentation/filesystems/ext4, inodes.rst, ifork.rst, directory.rst, attributes.rst.
"""

import enum
from collections.abc import Callable, Iterator
from struct import Struct, iter_unpack
from typing import NamedTuple

_HEAD = Struct("<HHIIIIIHHII")  # mode, uid, size, four times, gid, links, blocks, flags
_I_BLOCK = slice(0x28, 0x64)
_TAIL = Struct("<III")  # generation, file_acl, size_high: from 0x64
_EXTENT_HEADER = Struct("<HHHH")
_EXTENT_MAGIC = 0xF30A
_EXTENT_FORMAT = "<IHHI"
_INDEX_FORMAT = "<IIHH"
_UNWRITTEN = 1 << 15
_DEPTH_MAX = 5

_EXTENTS, _INLINE_DATA, _EA_INODE, _HASHED = 0x80000, 0x10000000, 0x200000, 0x1000
_DIRECTORY, _REGULAR, _SYMLINK = 0x4000, 0x8000, 0xA000
_CHUNK = 256
_XATTR_MAGIC = 0xEA020000
_DIRECT_BLOCKS = 12


class State(enum.IntEnum):
    """Whether an inode is in use."""

    FREE = 0
    LIVE = 1
    ORPHAN = 2
    """It has no name any more, and goes when the last who has it open closes it."""


class Role(enum.Enum):
    """What a file's block is to it. The values are words for people."""

    DATA = "data block"
    DIRECTORY = "directory block"
    SYMLINK = "symbolic link block"
    EXTENTS = "extent tree block"
    INDIRECT = "indirect block"
    XATTR = "extended attribute block"
    XATTR_VALUE = "extended attribute value block"
    SPECIAL = "block"


class Inode(NamedTuple):
    """What is of use here of an inode. `root` is its i_block."""

    mode: int
    state: State
    generation: int
    flags: int
    acl: int
    root: bytes
    raw: bytes

    @property
    def is_directory(self) -> bool:
        return self.mode & 0xF000 == _DIRECTORY

    @property
    def hashed(self) -> bool:
        return bool(self.flags & _HASHED)

    @property
    def inline(self) -> bool:
        return bool(self.flags & _INLINE_DATA)

    @property
    def by_extents(self) -> bool:
        return bool(self.flags & _EXTENTS)

    @property
    def role(self) -> Role:
        """Of the blocks that it maps."""
        if self.flags & _EA_INODE:
            return Role.XATTR_VALUE
        return {_DIRECTORY: Role.DIRECTORY, _SYMLINK: Role.SYMLINK}.get(self.mode & 0xF000, Role.DATA)

    @property
    def maps_blocks(self) -> bool:
        """Devices, pipes and short symbolic links keep something else in i_block. fs/ext4/inode.c, fast symlinks."""
        kind = self.mode & 0xF000
        if self.state is State.FREE or self.inline:
            return False
        if kind == _SYMLINK:
            return self.by_extents or not 0 < self._size < len(self.root)
        return kind in (_DIRECTORY, _REGULAR)

    @property
    def _size(self) -> int:
        return int.from_bytes(self.raw[4:8], "little")


def parse_inode(raw: bytes, inodes: int) -> Inode:
    """One slot of an inode table, on a volume of so many inodes."""
    mode, _, _, _, _, _, deleted, _, links, _, flags = _HEAD.unpack_from(raw)
    generation, acl, _ = _TAIL.unpack_from(raw, 0x64)
    acl |= int.from_bytes(raw[0x76:0x78], "little") << 32
    if links:
        state = State.LIVE
    elif mode and deleted < inodes:
        # On the list of orphans the time of deletion holds the number of the next one (fs/ext4/orphan.c).
        state = State.ORPHAN
    else:
        state = State.FREE
    return Inode(mode, state, generation, flags, acl, raw[_I_BLOCK], raw)


class Run(NamedTuple):
    """Blocks `block`, … that are `logical`, … of their file; of a tree's own blocks the first that they map."""

    block: int
    logical: int
    role: Role


class Node(NamedTuple):
    """A piece of what maps an inode: its bytes when it was read, and its runs with their lengths."""

    raw: bytes
    runs: dict[Run, int]


Nodes = dict[tuple[int, int], Node]
Read = Callable[[int], bytes]


def map_inode(inode: Inode, old: Nodes, read: Read, block_size: int) -> Nodes:
    """All that maps the inode, by (block, byte in it), 0 for the inode itself. What did not change comes from `old`."""
    nodes: Nodes = {}
    if inode.maps_blocks:
        walk = _walk_extents if inode.by_extents else _walk_indirect
        walk(_Walk(inode.role, old, nodes, read, block_size, set()), inode.root)
    return nodes


class _Walk(NamedTuple):
    role: Role
    old: Nodes
    nodes: Nodes
    read: Read
    block_size: int
    seen: set[int]

    def known(self, key: tuple[int, int], raw: bytes) -> bool:
        """Whether this node is as it was; it is taken over then."""
        node = self.old.get(key)
        if node is None or node.raw != raw:
            return False
        self.nodes[key] = node
        return True


def _walk_extents(walk: _Walk, raw: bytes, block: int = 0, above: int = _DEPTH_MAX) -> None:
    """`above`: the depth of the node above, which must be more than that of this one: a damaged tree has an end."""
    magic, entries, _, depth = _EXTENT_HEADER.unpack_from(raw)
    if magic != _EXTENT_MAGIC or depth > above:
        return
    body = raw[12 : 12 + 12 * entries]
    if len(body) != 12 * entries:
        return
    if depth == 0:
        if not walk.known((block, 0), raw):
            walk.nodes[block, 0] = Node(raw, _leaf(body, walk.role))
        return
    children = [(first, low + (high << 32)) for first, low, high, _ in iter_unpack(_INDEX_FORMAT, body)]
    if not walk.known((block, 0), raw):
        runs = {Run(child, first, Role.EXTENTS): 1 for first, child in children}
        walk.nodes[block, 0] = Node(raw, runs)
    for _, child in children:
        if child and (child, 0) not in walk.nodes:
            _walk_extents(walk, walk.read(child), child, depth - 1)


def _leaf(body: bytes, role: Role) -> dict[Run, int]:
    return {
        Run(low + (high << 32), first, role): length - _UNWRITTEN if length > _UNWRITTEN else length
        for first, length, high, low in iter_unpack(_EXTENT_FORMAT, body)
    }


def _walk_indirect(walk: _Walk, raw: bytes) -> None:
    direct = raw[: 4 * _DIRECT_BLOCKS]
    if not walk.known((0, 0), direct):
        walk.nodes[0, 0] = Node(direct, _pointers(direct, 0, walk.role))
    logical = _DIRECT_BLOCKS
    for level in (1, 2, 3):
        at = 4 * (_DIRECT_BLOCKS + level - 1)
        key, pointer = (0, at), raw[at : at + 4]
        if not walk.known(key, pointer):
            walk.nodes[key] = Node(pointer, _pointers(pointer, logical, Role.INDIRECT))
        logical = _walk_pointers(walk, int.from_bytes(pointer, "little"), logical, level)


def _walk_pointers(walk: _Walk, block: int, logical: int, level: int) -> int:
    """An indirect block of that level, which maps from `logical` on. Returns where the next one would begin.

    It is looked at in chunks: an append changes one of many pointers.
    """
    step = 1
    for _ in range(1, level):
        step *= walk.block_size // 4
    behind = logical + step * (walk.block_size // 4)
    # A damaged block may point to one above it.
    raw = walk.read(block) if block and block not in walk.seen else b""
    walk.seen.add(block)
    zeros = bytes(_CHUNK)
    for at in range(0, len(raw), _CHUNK):
        chunk = raw[at : at + _CHUNK]
        if chunk == zeros:
            continue
        first = logical + at // 4 * step
        if not walk.known((block, at), chunk):
            role = walk.role if level == 1 else Role.INDIRECT
            walk.nodes[block, at] = Node(chunk, _pointers(chunk, first, role, step))
        if level > 1:
            for number in range(_CHUNK // 4):
                child = int.from_bytes(chunk[number * 4 : number * 4 + 4], "little")
                if child:
                    _walk_pointers(walk, child, first + number * step, level - 1)
    return behind


def _pointers(raw: bytes, logical: int, role: Role, step: int = 1) -> dict[Run, int]:
    runs: dict[Run, int] = {}
    last, length = Run(0, 0, role), 0
    for number, (block,) in enumerate(iter_unpack("<I", raw)):
        at = logical + number * step
        if block and step == 1 and length and block == last.block + length and at == last.logical + length:
            length += 1
            runs[last] = length
        elif block:
            last, length = Run(block, at, role), 1
            runs[last] = 1
    return runs


def parse_directory(raw: bytes) -> dict[bytes, int]:
    """name -> inode of a directory block; of an htree's inner nodes, nothing. A damaged block ends where it makes no
    sense. `.` and `..` are left out.
    """
    return dict(_entries(raw))


def _entries(raw: bytes) -> Iterator[tuple[bytes, int]]:
    at, end = 0, len(raw) - 8
    from_bytes = int.from_bytes
    while at <= end:
        inode = from_bytes(raw[at : at + 4], "little")
        length = from_bytes(raw[at + 4 : at + 6], "little")
        if inode:
            name = raw[at + 8 : at + 8 + raw[at + 6]]
            if name not in (b".", b"..", b""):
                yield name, inode
        if length < 8:
            return
        at += length


def inline_entries(inode: Inode) -> dict[bytes, int]:
    """Of a directory that lies in its inode: i_block behind the number of its parent, then the attribute
    system.data (inlinedata.rst).
    """
    return {**parse_directory(inode.root[4:]), **parse_directory(_inline_rest(inode.raw))}


def _inline_rest(raw: bytes) -> bytes:
    extra = int.from_bytes(raw[0x80:0x82], "little") if len(raw) > 128 else 0
    first = 128 + extra
    if len(raw) <= 128 or int.from_bytes(raw[first : first + 4], "little") != _XATTR_MAGIC:
        return b""
    first += 4
    at = first
    while at + 16 <= len(raw) and raw[at]:
        length, index = raw[at], raw[at + 1]
        offset, size = int.from_bytes(raw[at + 2 : at + 4], "little"), int.from_bytes(raw[at + 8 : at + 12], "little")
        if index == 7 and raw[at + 16 : at + 16 + length] == b"data":
            return raw[first + offset : first + offset + size]
        at += 16 + -(-length // 4) * 4
    return b""

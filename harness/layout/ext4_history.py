"""What was whose, and called what, on an ext2, ext3 or ext4 volume, at each event of a log.

A version of a metadata block is its copy in the journal, which counts from the event that completed its transaction, or
a write in its place where it is not journaled. All blocks of one transaction change together. An owner is entered for
blocks that the log writes, and for no others.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from harness.layout.ext4_geometry import Geometry
from harness.layout.ext4_inodes import (
    Inode,
    Node,
    Nodes,
    Role,
    Run,
    State,
    inline_entries,
    map_inode,
    parse_directory,
    parse_inode,
)

BEFORE = -1
"""The time of what the volume held before the log."""

Read = Callable[[int], bytes]


class Owner(NamedTuple):
    """Whose a block is. Its place in the file is the block's number less `shift`; of a tree's block, what it maps."""

    inode: int
    generation: int
    role: Role
    shift: int


class Life(NamedTuple):
    """What an inode was from one time on."""

    time: int
    generation: int
    state: State
    is_directory: bool


class Name(NamedTuple):
    """A name of an inode came or went."""

    time: int
    added: bool
    parent: int
    name: bytes


class History:
    """Grows version by version, in the order of time (`apply`); asked when it is complete."""

    def __init__(self, geometry: Geometry, wanted: set[int], read: Read) -> None:
        """`wanted`: blocks whose owners are asked for. `read` answers with a block's content of that time."""
        self.geometry = geometry
        self.times: dict[int, list[int]] = {}
        """Block -> when its owner changed."""
        self.owners: dict[int, list[Owner | None]] = {}
        """Block -> its owners from then on."""
        self.lives: dict[int, list[Life]] = {}
        self.names: dict[int, list[Name]] = {}
        self.changes: list[int] = [BEFORE]
        """When any name, or what an inode is, changed."""
        self.hashed: set[int] = set()
        """Directories that have been htrees."""
        self._wanted = wanted
        self._read = read
        self._inodes: dict[int, Inode] = {}
        self._nodes: dict[int, Nodes] = {}
        self._entries: dict[tuple[int, int], dict[bytes, int]] = {}
        self._tree: dict[int, int] = {}
        self._directories: dict[int, int] = {}
        self._acl_users: dict[int, list[int]] = {}
        self._added: dict[tuple[int, bytes, int], int] = {}

    def begin(self, used: list[int]) -> None:
        """Enter what was there before the log: the inodes `used`."""
        geometry, block, raw = self.geometry, -1, b""
        for number in used:
            place, at = geometry.place_of(number)
            if place != block:
                block, raw = place, self._read(place)
            self._inode(number, raw[at : at + geometry.inode_size], BEFORE)
        self._settle_names(BEFORE)

    def parses(self, block: int) -> bool:
        """Whether the block's content says something about others (besides the inode tables)."""
        return block in self._tree or block in self._directories

    def apply(self, time: int, old: dict[int, bytes], new: dict[int, bytes]) -> dict[int, tuple[int, ...]]:
        """A version of the blocks `new`: of inode tables, and those that it `parses`; of tables also what they were.

        `read` must answer with the new ones already. Returns which inodes changed in each block of a table.
        """
        changed = {block: self.changed_inodes(block, raw, new[block]) for block, raw in old.items()}
        dirty = set()
        for block, numbers in changed.items():
            for number in numbers:
                at = self.geometry.place_of(number)[1]
                self._inode(number, new[block][at : at + self.geometry.inode_size], time)
                dirty.add(number)
        for number in {self._tree[block] for block in new if block in self._tree} - dirty:
            self._remap(number, self._inodes[number], time)
        for block, raw in new.items():
            if (folder := self._directories.get(block)) is not None:
                self._list((folder, block), parse_directory(raw))
        self._settle_names(time)
        return changed

    def changed_inodes(self, block: int, old: bytes, new: bytes) -> tuple[int, ...]:
        """Numbers of the inodes that differ, where the block is one of an inode table."""
        first = self.geometry.first_inode_in(block)
        if not first or old == new:
            return ()
        size = self.geometry.inode_size
        starts = range(0, len(new), size)
        return tuple([first + at // size for at in starts if old[at : at + size] != new[at : at + size]])

    def _inode(self, number: int, raw: bytes, time: int) -> None:
        inode = parse_inode(raw, self.geometry.inodes)
        before = self._inodes.get(number)
        lives = self.lives.setdefault(number, [])
        life = Life(time, inode.generation, inode.state, inode.is_directory)
        if not lives or lives[-1][1:] != life[1:]:
            lives.append(life)
            self._changed(time)
        if before and before.state is not State.FREE and before.generation != inode.generation:
            self._remap(number, before._replace(state=State.FREE), time)
        if inode.is_directory and inode.hashed:
            self.hashed.add(number)
        self._inodes[number] = inode
        self._remap(number, inode, time)
        acl_before = before.acl if before and before.state is not State.FREE else 0
        self._share_acl(number, acl_before, inode.acl if inode.state is not State.FREE else 0, time)

    def _remap(self, number: int, inode: Inode, time: int) -> None:
        """Enter what the inode maps now, by the difference to what it mapped."""
        before = self._nodes.get(number, {})
        now = (
            {}
            if number == self.geometry.journal_inode
            else map_inode(inode, before, self._read, self.geometry.block_size)
        )
        gone, come = _difference(before, now)
        self._nodes[number] = now
        special = number in self.geometry.special
        for run, (start, length) in gone:
            self._release(number, run, range(start, start + length), time)
        for run, (start, length) in come:
            role = Role.SPECIAL if special and run.role is Role.DATA else run.role
            self._claim(number, inode, run._replace(role=role), range(start, start + length), time)
        self._list((number, 0), inline_entries(inode) if inode.is_directory and inode.inline else {})

    def _claim(self, number: int, inode: Inode, run: Run, blocks: range, time: int) -> None:
        owner = Owner(number, inode.generation, run.role, run.block - run.logical)
        for block in self._wanted.intersection(blocks):
            self._set(block, owner, time)
        if run.role is Role.DIRECTORY and inode.state is not State.FREE:
            for block in blocks:
                self._directories[block] = number
                self._list((number, block), parse_directory(self._read(block)))
        elif run.role in (Role.EXTENTS, Role.INDIRECT):
            self._tree[run.block] = number

    def _release(self, number: int, run: Run, blocks: range, time: int) -> None:
        for block in self._wanted.intersection(blocks):
            if (owner := self.current(block)) and owner.inode == number:
                self._set(block, None, time)
        if run.role is Role.DIRECTORY:
            for block in blocks:
                self._list((number, block), {})
                if self._directories.get(block) == number:
                    del self._directories[block]
        elif self._tree.get(run.block) == number and run.role in (Role.EXTENTS, Role.INDIRECT):
            del self._tree[run.block]

    def _set(self, block: int, owner: Owner | None, time: int) -> None:
        owners, times = self.owners.setdefault(block, []), self.times.setdefault(block, [])
        if times and times[-1] == time:
            owners.pop()
            times.pop()
        if (owners[-1] if owners else None) != owner:
            owners.append(owner)
            times.append(time)

    def _share_acl(self, number: int, before: int, now: int, time: int) -> None:
        """An attribute block may be that of several inodes: it is named by the first of them."""
        for block in {before, now} - {0}:
            users = self._acl_users.setdefault(block, [])
            if block == now and number not in users:
                users.append(number)
            elif block != now and number in users:
                users.remove(number)
            if block not in self._wanted:
                continue
            if users:
                self._set(block, Owner(users[0], self._inodes[users[0]].generation, Role.XATTR, block), time)
            elif (current := self.current(block)) and current.role is Role.XATTR:
                self._set(block, None, time)

    def current(self, block: int) -> Owner | None:
        """Whose the block is after the last version that was entered."""
        owners = self.owners.get(block)
        return owners[-1] if owners else None

    def _list(self, key: tuple[int, int], entries: dict[bytes, int]) -> None:
        """What the directory block (inode, block) holds now. A name that only moves between blocks stays."""
        before = self._entries.get(key, {})
        if before == entries:
            return
        for sign, some, others in ((-1, before, entries), (1, entries, before)):
            for name, inode in some.items():
                if others.get(name) != inode:
                    entry = (key[0], name, inode)
                    self._added[entry] = self._added.get(entry, 0) + sign
        self._entries[key] = entries

    def _settle_names(self, time: int) -> None:
        for (parent, name, inode), sign in self._added.items():
            if sign:
                self.names.setdefault(inode, []).append(Name(time, sign > 0, parent, name))
                self._changed(time)
        self._added.clear()

    def _changed(self, time: int) -> None:
        if self.changes[-1] != time:
            self.changes.append(time)

    def owner_of(self, block: int, time: int) -> Owner | None:
        """Whose the block was at that time."""
        at = bisect_right(self.times.get(block, ()), time) - 1
        return self.owners[block][at] if at >= 0 else None

    def next_owner(self, block: int, time: int) -> tuple[int, Owner] | None:
        """The first other inode whose the block is after that time, and when it is."""
        times, owners = self.times.get(block, []), self.owners.get(block, [])
        at = bisect_right(times, time)
        now = owners[at - 1] if at else None
        for when, owner in zip(times[at:], owners[at:], strict=True):
            if owner and (now is None or owner[:2] != now[:2]):
                return when, owner
        return None


Piece = tuple[Run, tuple[int, int]]


def _difference(before: Nodes, now: Nodes) -> tuple[list[Piece], list[Piece]]:
    """(run, (first block, length)) of what is no longer mapped, and of what is mapped now. Of a run that grew or
    shrank only the end.
    """
    gone: list[Piece] = []
    come: list[Piece] = []
    nothing = Node(b"", {})
    lost: dict[Run, int] = {}
    found: dict[Run, int] = {}
    for key in before.keys() | now.keys():
        old, new = before.get(key, nothing), now.get(key, nothing)
        if old is not new:
            lost |= old.runs
            found |= new.runs
    for run, length in lost.items():
        kept = min(length, found.get(run, 0))
        if kept < length:
            gone.append((run, (run.block + kept, length - kept)))
    for run, length in found.items():
        kept = min(length, lost.get(run, 0))
        if kept < length:
            come.append((run, (run.block + kept, length - kept)))
    return gone, come

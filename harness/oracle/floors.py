"""What persistence calls made certain: for each fact the time before which no value of it may be found any more."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness.oracle.contracts import Contract
from harness.oracle.history import ROOT, SECTOR, Name, Tree
from harness.plan import operations as op
from harness.plan.operations import Operation
from harness.plan.plan import Outcome

PAGE = 4096


class Floors:
    """Times, by inode number or name. What is not named has the floor `everything`."""

    def __init__(self, tree: Tree, contract: Contract) -> None:
        self._tree = tree
        self._contract = contract
        self.everything = 0
        self.names: dict[int, int] = {}
        self._named_by: dict[int, int] = {}
        """When the names of a directory were promised that something in it needs: later than they were given."""
        self.entries: dict[Name, int] = {}
        self.data: dict[int, int] = {}
        self.attributes: dict[int, int] = {}
        self.ranges: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        """(time, first sector, last sector + 1) that a synchronous write or msync made durable."""
        self.least_sizes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        """(time, size): what was made durable must be within the file, unless it was cut off later."""

    def raise_all(self, t: int) -> None:
        """All that was done before t is durable."""
        self.everything = t
        named = (self.names, self._named_by, self.entries)
        for floors in (*named, self.data, self.attributes, self.ranges, self.least_sizes):
            floors.clear()

    def of_names(self, inode: int) -> int:
        return self.names.get(inode, self.everything)

    def names_promised(self, inode: int) -> int:
        """The time of the call that the floor of its names comes from."""
        return self._named_by.get(inode, self.of_names(inode))

    def of_entry(self, name: Name) -> int:
        return self.entries.get(name, self.everything)

    def of_data(self, inode: int) -> int:
        return self.data.get(inode, self.everything)

    def of_size(self, inode: int) -> int:
        """The time of the last call that made a size durable."""
        return max([self.of_data(inode), *(t for t, _ in self.least_sizes.get(inode, ()))])

    def of_attributes(self, inode: int) -> int:
        return self.attributes.get(inode, self.everything)

    def of_sector(self, inode: int, sector: int) -> int:
        """The floor of one sector's content."""
        floor = self.of_data(inode)
        return max([floor, *(t for t, first, last in self.ranges.get(inode, ()) if first <= sector < last)])

    def tell(self, operation: Operation, outcome: Outcome) -> None:
        """`operation` succeeded."""
        t = outcome.n + 1
        match operation:
            case op.Sync() | op.Syncfs():
                if self._contract.sync_waits:
                    self.raise_all(t)
            case op.Fsync():
                self._fsync(self.inode_at(operation.path, t), t)
            case op.Fdatasync():
                inode = self.inode_at(operation.path, t)
                if self._tree.file(inode).kind.at(t) == "file":
                    self.data[inode] = t
            case op.Msync():
                self._range(self.inode_at(operation.path, t), t, operation.offset, operation.length)
            case op.Write() if operation.how in ("sync", "dsync"):
                offset = outcome.size - outcome.value if operation.append else operation.offset
                self._range(outcome.inode, t, offset, outcome.value)

    def inode_at(self, path: str, t: int) -> int:
        """The inode number that a path led to at time t, 0 for none."""
        inode = ROOT
        for part in path.split("/") if path != "." else ():
            entry = self._tree.entries.get((inode, part))
            inode = entry.at(t) if entry else 0
        return inode

    def _fsync(self, inode: int, t: int) -> None:
        file = self._tree.file(inode)
        self.attributes[inode] = t
        if file.kind.at(t) == "dir":
            for name in self._tree.names_in(inode):
                self.entries[name] = t
        else:
            self.data[inode] = t
        if self._contract.fsync_names:
            self.names[inode] = t
            self._named_by.pop(inode, None)
            for directory, _ in file.names.at(t):
                self._reachable(directory, t)

    def _reachable(self, inode: int, t: int) -> None:
        """A directory above what was persisted: it exists, under one of the names that it has had since."""
        while inode != ROOT:
            file = self._tree.file(inode)
            born = file.kind.set_at("dir", t)  # the number may be given out again later
            if self.of_names(inode) < born:
                self.names[inode] = born
                self._named_by[inode] = t
            inode = next((directory for directory, _ in file.names.at(t)), ROOT)

    def _range(self, inode: int, t: int, offset: int, length: int) -> None:
        size = self._tree.file(inode).content.at(t).size
        first, last = offset // PAGE * PAGE, -(-(offset + length) // PAGE) * PAGE
        self.ranges[inode].append((t, first // SECTOR, last // SECTOR))
        self.least_sizes[inode].append((t, min(offset + length, size)))


def floors_of(
    tree: Tree, contract: Contract, calls: Iterable[tuple[Operation, Outcome]], setup: Sequence[Operation]
) -> Floors:
    """The floors behind these persistence calls; the setup was synced by us."""
    floors = Floors(tree, contract)
    floors.raise_all(len(setup))
    for operation, outcome in calls:
        if outcome.n >= len(setup):
            floors.tell(operation, outcome)
    return floors

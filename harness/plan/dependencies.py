"""What an operation needs before it can succeed, put in front of it; and the simulation of names that knows it.

A `Workload` grows operation by operation. It remembers which names lead to which file or directory, how long each file
is and which attributes it has. That is all it knows: it is no model of what must survive (harness.oracle is).

Names in one capital letter (A, B, C) are directories, all others files, wherever a missing one has to be made. No
symbolic link is followed: the interpreter follows none.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from harness.plan.operations import (
    Chmod,
    CopyRange,
    Creat,
    Fallocate,
    Fdatasync,
    Fsync,
    Link,
    Mkdir,
    Msync,
    Operation,
    Remove,
    RemoveXattr,
    Rename,
    Rmdir,
    SetXattr,
    Symlink,
    SyncFileRange,
    Tmpfile,
    Truncate,
    Unlink,
    Utimens,
    Write,
)

ROOT = "."
BLOCK = 32768
"""How much a dependency writes into a file that must hold data: as in the published enumerator."""


@dataclass(slots=True)
class Node:
    """A file, directory or symbolic link; several names can lead to one file."""

    kind: Literal["file", "directory", "symlink"]
    size: int = 0
    attributes: dict[str, str] = field(default_factory=dict)


def parent_of(path: str) -> str:
    return posixpath.dirname(path) or ROOT


def is_directory_name(path: str) -> bool:
    name = posixpath.basename(path)
    return path == ROOT or (len(name) == 1 and name.isupper())


class Workload:
    """Operations, and the names as they stand after them if each succeeds that can."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.names: dict[str, Node] = {ROOT: Node("directory")}

    def add(self, operation: Operation) -> None:
        """Append what the operation needs, then itself."""
        prepare(self, operation)
        self.add_bare(operation)

    def add_bare(self, operation: Operation) -> None:
        """Append the operation alone: it may fail."""
        self.operations.append(operation)
        apply(self, operation)

    def is_file(self, path: str) -> bool:
        node = self.names.get(path)
        return node is not None and node.kind == "file"

    def is_directory(self, path: str) -> bool:
        node = self.names.get(path)
        return node is not None and node.kind == "directory"

    def inside(self, path: str) -> list[str]:
        """All names below a directory, deepest last."""
        return sorted(name for name in self.names if name.startswith(f"{path}/"))

    def need_directory(self, path: str) -> None:
        if not self.is_directory(path):
            self.need_absent(path)
            self.need_directory(parent_of(path))
            self.add_bare(Mkdir(path=path))

    def need_file(self, path: str) -> Node:
        """A regular file at `path`, in place of whatever else is there."""
        if not self.is_file(path):
            self.need_absent(path)
            self.need_directory(parent_of(path))
            self.add_bare(Creat(path=path))
        return self.names[path]

    def need_name(self, path: str) -> None:
        """Anything at `path`: a symbolic link will do."""
        if path not in self.names:
            if is_directory_name(path):
                self.need_directory(path)
            else:
                self.need_file(path)

    def need_inode(self, path: str) -> Node:
        """A file or directory at `path`, which open(2) can open."""
        if path in self.names and self.names[path].kind == "symlink":
            self.need_absent(path)
        self.need_name(path)
        return self.names[path]

    def need_absent(self, path: str) -> None:
        """Nothing at `path`: a directory goes with all that is in it."""
        node = self.names.get(path)
        if node is None or path == ROOT:
            return
        if node.kind == "directory":
            self.need_empty(path)
            self.add_bare(Rmdir(path=path))
        else:
            self.add_bare(Unlink(path=path))

    def need_empty(self, path: str) -> None:
        for name in reversed(self.inside(path)):
            self.need_absent(name)

    def need_size(self, path: str, size: int) -> Node:
        """A file of at least `size` bytes, by writing to its end."""
        node = self.need_file(path)
        if node.size < size:
            self.add_bare(Write(path=path, offset=node.size, length=size - node.size))
        return node


def prepare(workload: Workload, operation: Operation) -> None:
    """Append what is missing for the operation to succeed."""
    match operation:
        case Fallocate(mode="collapse-range"):
            # A collapsed range must end before the end of the file (fallocate(2)).
            workload.need_size(operation.path, operation.offset + operation.length + 1)
        case Fallocate(mode="insert-range"):
            workload.need_size(operation.path, operation.offset + 1)
        case CopyRange():
            workload.need_size(operation.path, operation.offset + operation.length)
            workload.need_file(operation.new)
        case Write() | Truncate() | Fallocate() | SyncFileRange():
            workload.need_file(operation.path)
        case Msync():
            workload.need_size(operation.path, operation.offset + 1)
        case RemoveXattr():
            if operation.name not in workload.need_inode(operation.path).attributes:
                workload.add_bare(SetXattr(path=operation.path, name=operation.name))
        case SetXattr() | Chmod():
            workload.need_inode(operation.path)
        case Utimens() | Fsync() | Fdatasync():
            # Not an inode: to make room for one would undo the symbolic link that is about to be persisted.
            workload.need_name(operation.path)
        case _:
            _prepare_names(workload, operation)


def _prepare_names(workload: Workload, operation: Operation) -> None:
    match operation:
        case Creat():
            if operation.exclusive or not workload.is_file(operation.path):
                workload.need_absent(operation.path)
            workload.need_directory(parent_of(operation.path))
        case Link():
            workload.need_directory(parent_of(operation.new))
            if workload.is_directory(operation.path):
                workload.need_absent(operation.path)
            workload.need_name(operation.path)
            workload.need_absent(operation.new)
        case Symlink() | Tmpfile():
            workload.need_directory(parent_of(operation.new))
            workload.need_absent(operation.new)
        case Rename():
            _prepare_rename(workload, operation)
        case Unlink():
            if workload.is_directory(operation.path):
                workload.need_absent(operation.path)
            workload.need_name(operation.path)
        case Remove():
            workload.need_name(operation.path)
            workload.need_empty(operation.path)
        case Mkdir():
            workload.need_absent(operation.path)
            workload.need_directory(parent_of(operation.path))
        case Rmdir():
            workload.need_directory(operation.path)
            workload.need_empty(operation.path)
        case _:
            pass


def _prepare_rename(workload: Workload, operation: Rename) -> None:
    """A directory goes only to no name or an empty directory, a file only to no name or a file (rename(2))."""
    path, new = operation.path, operation.new
    workload.need_name(path)
    if path == new or new.startswith(f"{path}/") or path.startswith(f"{new}/"):
        return  # nothing that could be put in front would make it succeed
    workload.need_directory(parent_of(new))
    if operation.how == "exchange":
        workload.need_name(new)
    elif operation.how == "noreplace" or workload.is_directory(path) != workload.is_directory(new):
        workload.need_absent(new)
    else:
        workload.need_empty(new)


def apply(workload: Workload, operation: Operation) -> None:
    """Change the names as a success would; an operation that cannot succeed changes nothing."""
    match operation:
        case Write() | Truncate() | Fallocate() | CopyRange() | SetXattr() | RemoveXattr():
            path = operation.new if isinstance(operation, CopyRange) else operation.path
            node = workload.names.get(path)
            if node and (node.kind == "file" or isinstance(operation, SetXattr | RemoveXattr)):
                _apply_to(node, operation)
        case Rename():
            _apply_rename(workload.names, operation)
        case Unlink() | Remove() | Rmdir():
            if _can_remove(workload, operation):
                del workload.names[operation.path]
        case Creat() | Mkdir() | Link() | Symlink() | Tmpfile():
            _apply_new(workload, operation)
        case _:
            pass


def _apply_to(node: Node, operation: Operation) -> None:
    """How the content of a file changes: its length and attributes."""
    match operation:
        case Write():
            start = node.size if operation.append else operation.offset
            node.size = max(node.size, start + operation.length)
        case CopyRange():
            node.size = max(node.size, operation.new_offset + operation.length)
        case Truncate():
            node.size = operation.size
        case Fallocate(mode="plain" | "zero-range"):
            node.size = max(node.size, operation.offset + operation.length)
        case Fallocate(mode="collapse-range") if operation.offset + operation.length < node.size:
            node.size -= operation.length
        case Fallocate(mode="insert-range") if operation.offset < node.size:
            node.size += operation.length
        case SetXattr():
            node.attributes[operation.name] = operation.value
        case RemoveXattr():
            node.attributes.pop(operation.name, None)
        case _:
            pass


def _apply_new(workload: Workload, operation: Creat | Mkdir | Link | Symlink | Tmpfile) -> None:
    path = operation.path if isinstance(operation, Creat | Mkdir) else operation.new
    names = workload.names
    if isinstance(operation, Creat) and operation.truncate and not operation.exclusive and workload.is_file(path):
        names[path].size = 0
    if path in names or not workload.is_directory(parent_of(path)):
        return
    match operation:
        case Creat():
            names[path] = Node("file")
        case Mkdir():
            names[path] = Node("directory")
        case Link():
            if operation.path in names and not workload.is_directory(operation.path):
                names[path] = names[operation.path]
        case Symlink():
            names[path] = Node("symlink")
        case Tmpfile():
            names[path] = Node("file", size=operation.length)


def _can_remove(workload: Workload, operation: Unlink | Remove | Rmdir) -> bool:
    if operation.path not in workload.names or operation.path == ROOT:
        return False
    if workload.is_directory(operation.path):
        return not isinstance(operation, Unlink) and not workload.inside(operation.path)
    return not isinstance(operation, Rmdir)


def _apply_rename(names: dict[str, Node], operation: Rename) -> None:
    path, new = operation.path, operation.new
    old, taken, parent = names.get(path), names.get(new), names.get(parent_of(new))
    # Two names of one file: rename(2) leaves both.
    if old is None or old is taken or parent is None or parent.kind != "directory" or new.startswith(f"{path}/"):
        return
    if operation.how == "exchange":
        if taken and not path.startswith(f"{new}/"):
            _replace(names, {**dict(_moved(names, path, new)), **dict(_moved(names, new, path))}, path, new)
    elif taken is None or (operation.how == "plain" and _can_replace(names, old, taken, new)):
        _replace(names, dict(_moved(names, path, new)), path, new)


def _can_replace(names: dict[str, Node], old: Node, taken: Node, new: str) -> bool:
    if old.kind != "directory" or taken.kind != "directory":
        return "directory" not in (old.kind, taken.kind)
    return not any(name.startswith(f"{new}/") for name in names)


def _moved(names: dict[str, Node], path: str, new: str) -> Iterator[tuple[str, Node]]:
    """What lies at and below `path`, by the names that it gets when `path` becomes `new`."""
    for name, node in names.items():
        if name == path or name.startswith(f"{path}/"):
            yield new + name[len(path) :], node


def _replace(names: dict[str, Node], moved: dict[str, Node], path: str, new: str) -> None:
    for name in [each for each in names if each in (path, new) or each.startswith((f"{path}/", f"{new}/"))]:
        del names[name]
    names.update(moved)

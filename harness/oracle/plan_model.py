"""From a plan and its outcomes to the history of the volume: what each operation changed, by its man page.

Only what succeeded changes anything; `value` of an outcome tells how many bytes were really done.
"""

import errno
import posixpath
from collections.abc import Sequence
from functools import singledispatch

from harness.errors import InternalError
from harness.oracle.history import NOTHING, ROOT, Content, File, Growth, Name, Tree
from harness.plan import operations as op
from harness.plan.operations import Operation
from harness.plan.payload import payload
from harness.plan.plan import Outcome

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
PAGE = 4096

# Only these change content step by step. Every other call is one transaction: where it fails, nothing has happened.
_STEP_BY_STEP = (op.Write, op.Truncate, op.Fallocate, op.CopyRange)

# And these they answer before they begin, because of what they were asked.
_REFUSED = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.ELOOP,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EACCES,
    errno.ENODEV,
    errno.EXDEV,
    errno.ENAMETOOLONG,
    errno.EBADF,
    errno.EFBIG,
    errno.ETXTBSY,
}


class Replay:
    """The history as far as it has been told."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.t = 0
        """The time that the operation being told leads to."""

    def tell(self, operation: Operation, outcome: Outcome) -> None:
        """Go on by one operation."""
        self.t = outcome.n + 1
        if outcome.ok:
            apply(operation, self, outcome)
        elif isinstance(operation, _STEP_BY_STEP):
            self._half_way(operation, outcome.errno)

    def name(self, path: str) -> Name:
        """The directory that holds `path`, and the name in it. The root itself is (ROOT, "")."""
        folder, name = posixpath.split(path)
        return (self.inode(folder or "."), name) if path != "." else (ROOT, "")

    def inode(self, path: str) -> int:
        """The inode number that a path leads to now, 0 for none."""
        inode = ROOT
        for part in path.split("/") if path != "." else ():
            inode = self.tree.bound((inode, part))
        return inode

    def file(self, path: str) -> File:
        return self.tree.file(self.inode(path))

    def made(self, name: Name, outcome: Outcome, kind: str, mode: int) -> File:
        """A new file, directory or link; its number may have been another's before."""
        if not outcome.inode:
            raise InternalError(f"operation {outcome.n} tells no inode number", "this is a defect: report it")
        t, file = self.t, self.tree.file(outcome.inode)
        file.kind.set(t, kind)
        file.content.set(t, NOTHING)
        file.mode.set(t, mode)
        file.xattrs.set(t, frozenset())
        file.mtime.set(t, None)
        file.target.set(t, "")
        self.tree.bind(t, {name: outcome.inode})
        return file

    def changed(self, file: File, content: Content, end: int = 0) -> None:
        """New content of a file, worked on up to byte `end`; the kernel sets its modification time."""
        file.ends.append((self.t, end))
        before = file.content.last.size
        if content.size > before:
            file.growth.append(Growth(self.t, before, content.size))
        file.content.set(self.t, content)
        file.mtime.set(self.t, None)

    def _half_way(self, operation: op.Write | op.Truncate | op.Fallocate | op.CopyRange, error: int) -> None:
        # A store to a mapping extends the file first, whatever comes of the mapping.
        stored = isinstance(operation, op.Write) and operation.how == "mmap"
        inode = self.inode(operation.new if isinstance(operation, op.CopyRange) else operation.path)
        if not inode:
            return
        # ext4_fallocate and the write path call file_modified() before they look at the rest of what was asked.
        self.tree.file(inode).mtime.set(self.t, None)
        if stored or error not in _REFUSED:
            self.doubt(self.tree.file(inode))

    def doubt(self, file: File) -> None:
        """From now on the file may hold more than we know of."""
        file.uncertain = self.t if file.uncertain is None else file.uncertain


def replay(operations: Sequence[Operation], outcomes: Sequence[Outcome]) -> Tree:
    """The whole history of a plan that was run to its end."""
    told = Replay()
    for outcome in outcomes:
        told.tell(operations[outcome.n], outcome)
    return told.tree


@singledispatch
def apply(operation: Operation, on: Replay, outcome: Outcome) -> None:
    """What a successful operation changed. What is not named here changes nothing: fsync, drop_caches, …"""


@apply.register
def _creat(operation: op.Creat, on: Replay, outcome: Outcome) -> None:
    if not on.inode(operation.path):
        on.made(on.name(operation.path), outcome, "file", FILE_MODE)
    elif operation.truncate:
        on.changed(on.file(operation.path), NOTHING)


@apply.register
def _write(operation: op.Write, on: Replay, outcome: Outcome) -> None:
    file = on.file(operation.path)
    offset = outcome.size - outcome.value if operation.append else operation.offset
    if operation.how == "mmap" and outcome.size > file.content.last.size:
        on.changed(file, file.content.last.resized(outcome.size))  # ftruncate first, then the store
    done = outcome.value
    data = operation.fill.encode() * done if operation.fill else payload(outcome.inode, outcome.n, offset, done)
    if done:
        on.changed(file, file.content.last.written(offset, data, outcome.size), offset + done)


@apply.register
def _truncate(operation: op.Truncate, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    file = on.file(operation.path)
    on.changed(file, file.content.last.resized(operation.size))


@apply.register
def _fallocate(operation: op.Fallocate, on: Replay, outcome: Outcome) -> None:
    file = on.file(operation.path)
    content, offset, length = file.content.last, operation.offset, operation.length
    match operation.mode:
        case "plain" | "keep-size":
            content = content._replace(size=outcome.size)
        case "punch-hole" | "zero-range" | "zero-range-keep-size":
            content = content.zeroed(offset, length, outcome.size)
        case "collapse-range":
            file.shifted.append((on.t, offset // 512))
            content = content.collapsed(offset, length)
        case "insert-range":
            file.shifted.append((on.t, offset // 512))
            content = content.inserted(offset, length)
    on.changed(file, content, offset + length)


@apply.register
def _copy(operation: op.CopyRange, on: Replay, outcome: Outcome) -> None:
    source, target = on.file(operation.path), on.file(operation.new)
    if outcome.value:
        if source.uncertain is not None:
            on.doubt(target)
        data = source.content.last.read(operation.offset, outcome.value)
        end = operation.new_offset + outcome.value
        on.changed(target, target.content.last.written(operation.new_offset, data, outcome.size), end)


@apply.register
def _link(operation: op.Link, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    on.tree.bind(on.t, {on.name(operation.new): on.inode(operation.path)})


@apply.register
def _symlink(operation: op.Symlink, on: Replay, outcome: Outcome) -> None:
    on.made(on.name(operation.new), outcome, "symlink", 0o777).target.set(on.t, operation.target)


@apply.register
def _rename(operation: op.Rename, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    old, new = on.name(operation.path), on.name(operation.new)
    moved, replaced = on.inode(operation.path), on.inode(operation.new)
    if moved == replaced:
        return  # rename(2): two names of one file, nothing happens
    on.tree.bind(on.t, {old: replaced if operation.how == "exchange" else 0, new: moved})


@apply.register(op.Unlink)
@apply.register(op.Remove)
@apply.register(op.Rmdir)
def _unlink(operation: op.Unlink | op.Remove | op.Rmdir, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    on.tree.bind(on.t, {on.name(operation.path): 0})


@apply.register
def _mkdir(operation: op.Mkdir, on: Replay, outcome: Outcome) -> None:
    on.made(on.name(operation.path), outcome, "dir", DIRECTORY_MODE)


@apply.register
def _setxattr(operation: op.SetXattr, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    xattrs = on.file(operation.path).xattrs
    kept = {pair for pair in xattrs.last if pair[0] != operation.name}
    xattrs.set(on.t, frozenset({*kept, (operation.name, operation.value)}))


@apply.register
def _removexattr(operation: op.RemoveXattr, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    xattrs = on.file(operation.path).xattrs
    xattrs.set(on.t, frozenset(pair for pair in xattrs.last if pair[0] != operation.name))


@apply.register
def _chmod(operation: op.Chmod, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    on.file(operation.path).mode.set(on.t, operation.mode)


@apply.register
def _utimens(operation: op.Utimens, on: Replay, outcome: Outcome) -> None:  # noqa: ARG001
    on.file(operation.path).mtime.set(on.t, operation.seconds)


@apply.register
def _tmpfile(operation: op.Tmpfile, on: Replay, outcome: Outcome) -> None:
    file = on.made(on.name(operation.new), outcome, "file", FILE_MODE)
    if outcome.value:
        data = payload(outcome.inode, outcome.n, 0, outcome.value)
        on.changed(file, NOTHING.written(0, data, outcome.size))

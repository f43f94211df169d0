"""Does each operation of a plan, by the system call that it is named after.

What is looked up besides (fstat) changes nothing on the disk: no file is read and no directory listed, so no access
time moves. No symbolic link is followed, neither at the end of a path nor on the way (it is ENOTDIR or ELOOP, an
outcome like others): a plan cannot leave the volume.
"""

import contextlib
import functools
import mmap
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from harness.errors import InternalError
from harness.machine import fileops
from harness.machine.syncing import sync_file_system
from harness.plan import operations as op
from harness.plan.operations import Operation
from harness.plan.payload import payload

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How to open a directory that paths start from: it is neither read nor changed by that."""

_DROP_CACHES = "/proc/sys/vm/drop_caches"

_WRITE_FLAGS = {"direct": os.O_DIRECT, "sync": os.O_SYNC, "dsync": os.O_DSYNC}

_FALLOCATE_FLAGS = {
    "plain": 0,
    "keep-size": fileops.FALLOC_KEEP_SIZE,
    "punch-hole": fileops.FALLOC_PUNCH_HOLE | fileops.FALLOC_KEEP_SIZE,
    "zero-range": fileops.FALLOC_ZERO_RANGE,
    "zero-range-keep-size": fileops.FALLOC_ZERO_RANGE | fileops.FALLOC_KEEP_SIZE,
    "collapse-range": fileops.FALLOC_COLLAPSE_RANGE,
    "insert-range": fileops.FALLOC_INSERT_RANGE,
}

_RENAME_FLAGS = {"plain": 0, "noreplace": fileops.RENAME_NOREPLACE, "exchange": fileops.RENAME_EXCHANGE}


class Done(NamedTuple):
    """What a successful operation tells of itself: see Outcome."""

    value: int = 0
    inode: int = 0
    size: int = 0


class Volume(NamedTuple):
    """The mounted volume, as an operation needs it. `n` is the operation's number, the version that it writes."""

    root: str
    root_fd: int
    n: int

    @contextlib.contextmanager
    def folder_of(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that holds `path`, and the name in it."""
        *folders, name = path.split("/")
        fd = self.root_fd
        try:
            for folder in folders:
                above, fd = fd, os.open(folder, FOLDER, dir_fd=fd)
                if above != self.root_fd:
                    os.close(above)
            yield fd, name
        finally:
            if fd != self.root_fd:
                os.close(fd)

    @contextlib.contextmanager
    def opened(self, path: str, flags: int) -> Iterator[int]:
        """The file or directory itself, open."""
        with self.folder_of(path) as (folder, name):
            fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            yield fd
        finally:
            os.close(fd)

    def content(self, length: int, fill: str, inode: int, offset: int) -> bytes:
        return fill.encode() * length if fill else payload(inode, self.n, offset, length)


@functools.singledispatch
def do(operation: Operation, volume: Volume) -> Done:
    """Do it now. Raises OSError where the kernel refuses."""
    raise InternalError(f"operation {volume.n} ({operation}) has no interpreter", "this is a defect: report it")


@do.register(op.Creat)
def _creat(operation: op.Creat, volume: Volume) -> Done:
    flags = (os.O_EXCL if operation.exclusive else 0) | (os.O_TRUNC if operation.truncate else 0)
    with volume.opened(operation.path, os.O_WRONLY | os.O_CREAT | flags) as fd:
        return _grown(fd)


@do.register(op.Write)
def _write(operation: op.Write, volume: Volume) -> Done:
    if operation.how == "mmap":
        return _store(operation, volume)
    flags = os.O_WRONLY | _WRITE_FLAGS.get(operation.how, 0) | (os.O_APPEND if operation.append else 0)
    with volume.opened(operation.path, flags) as fd:
        found = os.fstat(fd)
        offset = found.st_size if operation.append else operation.offset
        data = volume.content(operation.length, operation.fill, found.st_ino, offset)
        # pwrite(2), BUGS: with O_APPEND Linux appends, whatever the offset is.
        if operation.how == "direct":
            with _aligned(data) as memory:
                return _grown(fd, os.pwrite(fd, memory, offset))
        return _grown(fd, os.pwritev(fd, _three(data) if operation.how == "writev" else [data], offset))


def _store(operation: op.Write, volume: Volume) -> Done:
    """Extend the file where needed, map it, store. No msync."""
    with volume.opened(operation.path, os.O_RDWR | os.O_NOATIME) as fd:
        found = os.fstat(fd)
        offset = found.st_size if operation.append else operation.offset
        data = volume.content(operation.length, operation.fill, found.st_ino, offset)
        end = offset + len(data)
        if end > found.st_size:
            os.ftruncate(fd, end)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(fd, end - start, offset=start) as memory, memoryview(memory)[offset - start :] as place:
            return _grown(fd, _copy_in(data, place))


def _copy_in(data: bytes, place: memoryview) -> int:
    """Let read(2) store the data: where a page cannot be had (no space, I/O error) it says EFAULT, not SIGBUS."""
    source = os.memfd_create("crash-harness:store")
    try:
        os.pwrite(source, data, 0)
        return os.preadv(source, [place], 0)
    finally:
        os.close(source)


@contextlib.contextmanager
def _aligned(data: bytes) -> Iterator[memoryview]:
    """The data in memory that begins on a page, as O_DIRECT asks for (open(2))."""
    with mmap.mmap(-1, len(data)) as memory, memoryview(memory)[: len(data)] as view:
        view[:] = data
        yield view


def _three(data: bytes) -> list[bytes]:
    first, second = len(data) // 5, len(data) // 5 + len(data) // 2
    return [data[:first], data[first:second], data[second:]]


def _grown(fd: int, done: int = 0) -> Done:
    found = os.fstat(fd)
    return Done(done, found.st_ino, found.st_size)


@do.register(op.Truncate)
def _truncate(operation: op.Truncate, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_WRONLY) as fd:
        os.ftruncate(fd, operation.size)
        return _grown(fd)


@do.register(op.Fallocate)
def _fallocate(operation: op.Fallocate, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_WRONLY) as fd:
        fileops.fallocate(fd, _FALLOCATE_FLAGS[operation.mode], operation.offset, operation.length)
        return _grown(fd)


@do.register(op.CopyRange)
def _copy(operation: op.CopyRange, volume: Volume) -> Done:
    with (
        volume.opened(operation.path, os.O_RDONLY | os.O_NOATIME) as source,
        volume.opened(operation.new, os.O_WRONLY) as target,
    ):
        done = os.copy_file_range(source, target, operation.length, operation.offset, operation.new_offset)
        return _grown(target, done)


@do.register(op.Link)
def _link(operation: op.Link, volume: Volume) -> Done:
    with volume.folder_of(operation.path) as (source, old), volume.folder_of(operation.new) as (target, new):
        os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        return _named(target, new)


@do.register(op.Symlink)
def _symlink(operation: op.Symlink, volume: Volume) -> Done:
    with volume.folder_of(operation.new) as (folder, name):
        os.symlink(operation.target, name, dir_fd=folder)
        return _named(folder, name)


@do.register(op.Rename)
def _rename(operation: op.Rename, volume: Volume) -> Done:
    flags = _RENAME_FLAGS[operation.how]
    with volume.folder_of(operation.path) as (source, old), volume.folder_of(operation.new) as (target, new):
        if flags:
            fileops.rename(old, new, flags, old_dir_fd=source, new_dir_fd=target)
        else:
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
        return _named(target, new)


def _named(folder: int, name: str) -> Done:
    return Done(inode=os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino)


@do.register(op.Unlink)
def _unlink(operation: op.Unlink, volume: Volume) -> Done:
    with volume.folder_of(operation.path) as (folder, name):
        os.unlink(name, dir_fd=folder)
    return Done()


@do.register(op.Remove)
def _remove(operation: op.Remove, volume: Volume) -> Done:
    with volume.folder_of(operation.path) as (folder, name):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    return Done()


@do.register(op.Mkdir)
def _mkdir(operation: op.Mkdir, volume: Volume) -> Done:
    with volume.folder_of(operation.path) as (folder, name):
        os.mkdir(name, 0o755, dir_fd=folder)
        return _named(folder, name)


@do.register(op.Rmdir)
def _rmdir(operation: op.Rmdir, volume: Volume) -> Done:
    with volume.folder_of(operation.path) as (folder, name):
        os.rmdir(name, dir_fd=folder)
    return Done()


@do.register(op.SetXattr)
def _setxattr(operation: op.SetXattr, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDONLY) as fd:
        os.setxattr(fd, f"user.{operation.name}", operation.value.encode())
    return Done()


@do.register(op.RemoveXattr)
def _removexattr(operation: op.RemoveXattr, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDONLY) as fd:
        os.removexattr(fd, f"user.{operation.name}")
    return Done()


@do.register(op.Chmod)
def _chmod(operation: op.Chmod, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDONLY) as fd:
        os.fchmod(fd, operation.mode)
    return Done()


@do.register(op.Utimens)
def _utimens(operation: op.Utimens, volume: Volume) -> Done:
    with volume.folder_of(operation.path) as (folder, name):
        os.utime(name, (operation.seconds, operation.seconds), dir_fd=folder, follow_symlinks=False)
    return Done()


@do.register(op.Tmpfile)
def _tmpfile(operation: op.Tmpfile, volume: Volume) -> Done:
    with volume.folder_of(operation.new) as (folder, name):
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            inode = os.fstat(fd).st_ino
            done = os.pwrite(fd, payload(inode, volume.n, 0, operation.length), 0) if operation.length else 0
            os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, dst_dir_fd=folder, follow_symlinks=True)
            return _grown(fd, done)
        finally:
            os.close(fd)


@do.register(op.Fsync)
def _fsync(operation: op.Fsync, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDONLY) as fd:
        os.fsync(fd)
    return Done()


@do.register(op.Fdatasync)
def _fdatasync(operation: op.Fdatasync, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDONLY) as fd:
        os.fdatasync(fd)
    return Done()


@do.register(op.Msync)
def _msync(operation: op.Msync, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDWR | os.O_NOATIME) as fd:
        fileops.msync(fd, operation.offset, operation.length)
    return Done()


@do.register(op.SyncFileRange)
def _sync_file_range(operation: op.SyncFileRange, volume: Volume) -> Done:
    with volume.opened(operation.path, os.O_RDONLY) as fd:
        fileops.sync_file_range(fd, operation.offset, operation.length)
    return Done()


@do.register(op.Syncfs)
@do.register(op.Sync)
def _syncfs(_: op.Syncfs | op.Sync, volume: Volume) -> Done:
    """syncfs(2) "is like sync(), but synchronizes just the filesystem" (sync(2)).

    sync(2) itself would commit the volumes of all other workers too, in the middle of what they are recording.
    """
    sync_file_system(volume.root)
    return Done()


@do.register(op.DropCaches)
def _drop_caches(_: op.DropCaches, __: Volume) -> Done:
    fd = os.open(_DROP_CACHES, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"3")
    finally:
        os.close(fd)
    return Done()

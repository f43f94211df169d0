"""The operations of a plan: frozen records, readable one line each, with JSON both ways.

A path is relative to the volume's root, `.` is the root itself. Each operation opens what it needs and closes it again.
Offsets and lengths are bytes. What an operation may come to (ENOENT, EEXIST, …) is an outcome, never an error of the
harness. Sources: the man page of each call.
"""

from typing import Annotated, Literal

import msgspec

OFFSET_MAX = 1 << 40
LENGTH_MAX = 16 << 20
"""Largest single write: a plan's content is generated in memory."""

_NO_NUL = r"^[^\0]*\Z"

Offset = Annotated[int, msgspec.Meta(ge=0, le=OFFSET_MAX)]
Length = Annotated[int, msgspec.Meta(ge=1, le=LENGTH_MAX)]
Range = Annotated[int, msgspec.Meta(ge=1, le=OFFSET_MAX)]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4095)]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]

How = Literal["write", "writev", "direct", "sync", "dsync", "mmap"]
"""By which door data go in: write(2), writev(2), O_DIRECT, O_SYNC, O_DSYNC, a store to a shared mapping."""

FallocateMode = Literal[
    "plain", "keep-size", "punch-hole", "zero-range", "zero-range-keep-size", "collapse-range", "insert-range"
]


class _Operation(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    """What all operations have in common: the tag `op` in JSON."""


class Creat(_Operation, frozen=True, kw_only=True, tag="creat"):
    """open(2) with O_CREAT, and O_EXCL or O_TRUNC if asked for."""

    path: Path
    exclusive: bool = False
    truncate: bool = False

    def __str__(self) -> str:
        flags = [word for word, on in (("O_EXCL", self.exclusive), ("O_TRUNC", self.truncate)) if on]
        return " ".join(["creat", self.path, *flags])


class Write(_Operation, frozen=True, kw_only=True, tag="write"):
    """`length` bytes at `offset`, or at the end of the file. The file must exist.

    Without `fill` the bytes describe themselves (harness.plan.payload); with it, one byte is repeated.
    """

    path: Path
    offset: Offset = 0
    length: Length
    how: How = "write"
    append: bool = False
    fill: Annotated[str, msgspec.Meta(pattern=r"^[ -~]?\Z")] = ""

    def __str__(self) -> str:
        verb = self.how if self.how in ("write", "writev") else f"{self.how}-write"
        place = f"end+{self.length}" if self.append else f"{self.offset}+{self.length}"
        return f"{verb} {self.path} {place}" + (f" of {self.fill!r}" if self.fill else "")


class Truncate(_Operation, frozen=True, kw_only=True, tag="truncate"):
    """truncate(2): shrink or grow to `size`."""

    path: Path
    size: Offset

    def __str__(self) -> str:
        return f"truncate {self.path} {self.size}"


class Fallocate(_Operation, frozen=True, kw_only=True, tag="fallocate"):
    """fallocate(2). A punched hole always keeps the size."""

    path: Path
    offset: Offset = 0
    length: Range
    mode: FallocateMode = "plain"

    def __str__(self) -> str:
        return f"fallocate {self.path} {self.offset}+{self.length} {self.mode}"


class CopyRange(_Operation, frozen=True, kw_only=True, tag="copy_file_range"):
    """copy_file_range(2) from `path` to `new`, which must exist. The file system may share the blocks."""

    path: Path
    new: Path
    offset: Offset = 0
    new_offset: Offset = 0
    length: Length

    def __str__(self) -> str:
        return f"copy_file_range {self.path} {self.offset}+{self.length} -> {self.new} {self.new_offset}"


class Link(_Operation, frozen=True, kw_only=True, tag="link"):
    """link(2): another name for the file `path`."""

    path: Path
    new: Path

    def __str__(self) -> str:
        return f"link {self.path} -> {self.new}"


class Symlink(_Operation, frozen=True, kw_only=True, tag="symlink"):
    """symlink(2): a symbolic link at `new` that says `target`."""

    target: Annotated[str, msgspec.Meta(min_length=1, max_length=4095, pattern=_NO_NUL)]
    new: Path

    def __str__(self) -> str:
        return f"symlink {self.target} -> {self.new}"


class Rename(_Operation, frozen=True, kw_only=True, tag="rename"):
    """rename(2), or renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE."""

    path: Path
    new: Path
    how: Literal["plain", "noreplace", "exchange"] = "plain"

    def __str__(self) -> str:
        arrow = "<->" if self.how == "exchange" else "->"
        return f"rename {self.path} {arrow} {self.new}" + (" noreplace" if self.how == "noreplace" else "")


class Unlink(_Operation, frozen=True, kw_only=True, tag="unlink"):
    """unlink(2) of a file or symbolic link."""

    path: Path

    def __str__(self) -> str:
        return f"unlink {self.path}"


class Remove(_Operation, frozen=True, kw_only=True, tag="remove"):
    """remove(3): unlink a file, rmdir a directory."""

    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"


class Mkdir(_Operation, frozen=True, kw_only=True, tag="mkdir"):
    """mkdir(2) with mode 0755."""

    path: Path

    def __str__(self) -> str:
        return f"mkdir {self.path}"


class Rmdir(_Operation, frozen=True, kw_only=True, tag="rmdir"):
    """rmdir(2)."""

    path: Path

    def __str__(self) -> str:
        return f"rmdir {self.path}"


class SetXattr(_Operation, frozen=True, kw_only=True, tag="setxattr"):
    """setxattr(2) of `user.` + name."""

    path: Path
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_NO_NUL)] = "attr"
    value: Annotated[str, msgspec.Meta(max_length=2000)] = "value"

    def __str__(self) -> str:
        return f"setxattr {self.path} user.{self.name}={self.value[:40]}"


class RemoveXattr(_Operation, frozen=True, kw_only=True, tag="removexattr"):
    """removexattr(2) of `user.` + name."""

    path: Path
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_NO_NUL)] = "attr"

    def __str__(self) -> str:
        return f"removexattr {self.path} user.{self.name}"


class Chmod(_Operation, frozen=True, kw_only=True, tag="chmod"):
    """chmod(2)."""

    path: Path
    mode: Mode

    def __str__(self) -> str:
        return f"chmod {self.path} {self.mode:04o}"


class Utimens(_Operation, frozen=True, kw_only=True, tag="utimens"):
    """utimensat(2): access and modification time, in whole seconds since 1970."""

    path: Path
    seconds: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

    def __str__(self) -> str:
        return f"utimens {self.path} {self.seconds}"


class Tmpfile(_Operation, frozen=True, kw_only=True, tag="tmpfile"):
    """open(2) with O_TMPFILE in the directory of `new`, `length` bytes written, then linkat(2) to `new`."""

    new: Path
    length: Annotated[int, msgspec.Meta(ge=0, le=LENGTH_MAX)] = 0

    def __str__(self) -> str:
        return f"tmpfile {self.new} of {self.length}"


class Fsync(_Operation, frozen=True, kw_only=True, tag="fsync"):
    """fsync(2) of a file or a directory."""

    path: Path

    def __str__(self) -> str:
        return f"fsync {self.path}"


class Fdatasync(_Operation, frozen=True, kw_only=True, tag="fdatasync"):
    """fdatasync(2) of a file or a directory."""

    path: Path

    def __str__(self) -> str:
        return f"fdatasync {self.path}"


class Msync(_Operation, frozen=True, kw_only=True, tag="msync"):
    """msync(2) with MS_SYNC of a range of a shared mapping of the file; the offset is a multiple of 4096."""

    path: Path
    offset: Annotated[int, msgspec.Meta(ge=0, le=OFFSET_MAX, multiple_of=4096)] = 0
    length: Range

    def __str__(self) -> str:
        return f"msync {self.path} {self.offset}+{self.length}"


class SyncFileRange(_Operation, frozen=True, kw_only=True, tag="sync_file_range"):
    """sync_file_range(2) that writes and waits. It promises nothing: no metadata, no flush of the device's cache."""

    path: Path
    offset: Offset = 0
    length: Range

    def __str__(self) -> str:
        return f"sync_file_range {self.path} {self.offset}+{self.length}"


class Syncfs(_Operation, frozen=True, kw_only=True, tag="syncfs"):
    """syncfs(2) of the volume."""

    def __str__(self) -> str:
        return "syncfs"


class Sync(_Operation, frozen=True, kw_only=True, tag="sync"):
    """sync(2), which on Linux waits for the writes to be done; of this volume alone, for others are none of ours."""

    def __str__(self) -> str:
        return "sync"


class DropCaches(_Operation, frozen=True, kw_only=True, tag="drop_caches"):
    """Drop what is clean in the kernel's page, dentry and inode caches (proc(5), /proc/sys/vm/drop_caches)."""

    def __str__(self) -> str:
        return "drop_caches"


Operation = (
    Creat
    | Write
    | Truncate
    | Fallocate
    | CopyRange
    | Link
    | Symlink
    | Rename
    | Unlink
    | Remove
    | Mkdir
    | Rmdir
    | SetXattr
    | RemoveXattr
    | Chmod
    | Utimens
    | Tmpfile
    | Fsync
    | Fdatasync
    | Msync
    | SyncFileRange
    | Syncfs
    | Sync
    | DropCaches
)


def persists(operation: Operation) -> bool:
    """Whether its success makes something durable, so that the oracle demands more from there on."""
    if isinstance(operation, Write):
        return operation.how in ("sync", "dsync")
    return isinstance(operation, Fsync | Fdatasync | Msync | Syncfs | Sync)


def paths_of(operation: Operation) -> tuple[str, ...]:
    """The paths on the volume that it names (the target of a symbolic link is not one: it is only text)."""
    return tuple(getattr(operation, name) for name in ("path", "new") if hasattr(operation, name))

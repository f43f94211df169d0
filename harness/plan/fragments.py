"""The fragments that plans are drawn from: single changes, persistence calls, and the neighbourhoods of known bugs.

Of each choice the simplest comes first: Hypothesis shrinks towards it. What is listed twice is drawn twice as often.
Names are few, so that they collide. Hypothesis comes with the extra `test`.
"""

import msgspec
from hypothesis import strategies as st

from harness.plan.dependencies import parent_of
from harness.plan.operations import (
    Chmod,
    CopyRange,
    Creat,
    DropCaches,
    Fallocate,
    Fdatasync,
    Fsync,
    How,
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
    Sync,
    SyncFileRange,
    Syncfs,
    Tmpfile,
    Truncate,
    Unlink,
    Utimens,
    Write,
    paths_of,
)

Fragment = tuple[Operation, ...]

PAGE = 4096
OFFSET_MAX = 64 << 10
LENGTH_MAX = 20_000

_RARELY = st.sampled_from((*(False,) * 4, True))

_FILES = st.sampled_from(("foo", "foo", "foo", "bar", "bar", "A/foo", "A/foo", "A/bar", "B/foo", "A/C/foo"))
_FOLDERS = st.sampled_from(("A", "A", "B", "A/C"))
_ANY = st.one_of(_FILES, _FILES, _FOLDERS)
_TWO_FILES = st.sampled_from(
    (
        ("foo", "bar"),
        ("foo", "bar"),
        ("bar", "foo"),
        ("foo", "A/foo"),
        ("A/foo", "foo"),
        ("A/foo", "A/bar"),
        ("A/foo", "B/foo"),
        ("A/bar", "A/foo"),
        ("B/foo", "A/foo"),
        ("A/C/foo", "A/foo"),
    )
)
_TWO_FOLDERS = st.sampled_from((("A", "B"), ("A", "B"), ("B", "A"), ("A/C", "B"), ("B", "A/C")))

_SOME_OFFSETS = st.sampled_from((0, PAGE, 2 * PAGE, 16384, 512, 1, 511, PAGE - 1, PAGE + 1, 5000, OFFSET_MAX - 1))
_OFFSETS = st.one_of(_SOME_OFFSETS, st.integers(0, OFFSET_MAX))
_SOME_LENGTHS = st.sampled_from((1, PAGE, 512, 511, 513, PAGE - 1, PAGE + 1, 5000, 2 * PAGE, 16384, LENGTH_MAX))
_LENGTHS = st.one_of(_SOME_LENGTHS, st.integers(1, LENGTH_MAX))
_PAGES = st.integers(0, OFFSET_MAX // PAGE - 1).map(lambda page: page * PAGE)
_SOME_PAGES = st.integers(1, LENGTH_MAX // PAGE).map(lambda pages: pages * PAGE)

_NAMES = st.sampled_from(("attr", "attr", "other"))
_VALUES = st.sampled_from(("value", "changed", "", "x" * 300))
_SECONDS = st.sampled_from((0, 1, 1_000_000_000, 2**31 - 1))

_BYTE_RANGED = st.sampled_from(("plain", "keep-size", "punch-hole", "zero-range", "zero-range-keep-size"))
_BLOCK_RANGED = st.sampled_from(("collapse-range", "insert-range"))
_RENAMES = st.sampled_from(("plain", "plain", "plain", "noreplace", "exchange"))
_DOORS: tuple[How, ...] = ("mmap", "direct")
_BUFFERED = st.sampled_from((*("write",) * 5, "writev", "sync", "dsync", "mmap"))

_PLAIN_CREATE = st.builds(Creat, path=_FILES)
_CREATE = st.builds(Creat, path=_FILES, exclusive=_RARELY, truncate=_RARELY)
# Of what could be drawn Hypothesis takes the fewest choices for the simplest: so there is one of few.
_PLAIN_WRITE = st.builds(Write, path=_FILES, length=_SOME_LENGTHS)
_WRITE = st.builds(
    Write,
    path=_FILES,
    offset=_OFFSETS,
    length=_LENGTHS,
    how=_BUFFERED,
    append=st.sampled_from((False, False, True)),
    fill=st.sampled_from((*("",) * 19, "x")),
)
_WRITE_DIRECT = st.builds(Write, path=_FILES, offset=_PAGES, length=_SOME_PAGES, how=st.just("direct"))
_RESERVE = st.builds(Fallocate, path=_FILES, offset=_OFFSETS, length=_LENGTHS, mode=_BYTE_RANGED)
_SHIFT = st.builds(Fallocate, path=_FILES, offset=_PAGES, length=_SOME_PAGES, mode=_BLOCK_RANGED)
_SET = st.builds(SetXattr, path=_ANY, name=_NAMES, value=_VALUES)

_CHANGE: st.SearchStrategy[Operation] = st.one_of(
    _PLAIN_CREATE,
    _PLAIN_WRITE,
    _CREATE,
    _WRITE,
    _WRITE,
    _WRITE_DIRECT,
    st.builds(Truncate, path=_FILES, size=_OFFSETS),
    _RESERVE,
    _SHIFT,
    st.builds(
        lambda two, offset, to, length: CopyRange(path=two[0], new=two[1], offset=offset, new_offset=to, length=length),
        _TWO_FILES,
        _OFFSETS,
        _OFFSETS,
        _LENGTHS,
    ),
    _TWO_FILES.map(lambda two: Link(path=two[0], new=two[1])),
    _TWO_FILES.map(lambda two: Symlink(target=two[0], new=two[1])),
    st.builds(lambda two, how: Rename(path=two[0], new=two[1], how=how), _TWO_FILES, _RENAMES),
    st.builds(lambda two, how: Rename(path=two[0], new=two[1], how=how), _TWO_FOLDERS, _RENAMES),
    st.builds(Unlink, path=_FILES),
    st.builds(Remove, path=_ANY),
    st.builds(Mkdir, path=_FOLDERS),
    st.builds(Rmdir, path=_FOLDERS),
    _SET,
    st.builds(RemoveXattr, path=_ANY, name=_NAMES),
    st.builds(Chmod, path=_ANY, mode=st.sampled_from((0o644, 0o600, 0o755, 0o400, 0))),
    st.builds(Utimens, path=_ANY, seconds=_SECONDS),
    st.builds(Tmpfile, new=_FILES, length=st.one_of(st.just(0), _LENGTHS)),
)


def _persistence(kind: str, path: str) -> Fragment:
    """A persistence call for what happened to `path`."""
    match kind:
        case "fsync":
            return (Fsync(path=path),)
        case "fdatasync":
            return (Fdatasync(path=path),)
        case "fsync parent":
            return (Fsync(path=parent_of(path)),)
        case "syncfs":
            return (Syncfs(),)
        case "sync":
            return (Sync(),)
        case _:
            return ()


_AFTER = st.sampled_from(
    ("nothing", "nothing", *("fsync",) * 5, *("fdatasync",) * 2, *("fsync parent",) * 2, "syncfs", "sync")
)
_BETWEEN = st.sampled_from(("nothing", "fsync", "syncfs", "fdatasync", "fsync parent", "nothing"))


def _followed(change: Operation, after: str) -> Fragment:
    return (change, *_persistence(after, paths_of(change)[-1]))


_PERSIST: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Fsync, path=_ANY),
    st.builds(Fsync, path=_FOLDERS | st.just(".")),
    st.builds(Fdatasync, path=_ANY),
    st.builds(Msync, path=_FILES, offset=_PAGES, length=_LENGTHS),
    st.builds(SyncFileRange, path=_FILES, offset=_OFFSETS, length=_LENGTHS),
    st.builds(Syncfs),
    st.builds(Sync),
)


def _link_and_create_again(two: tuple[str, str], between: str, first: bool, after: str) -> Fragment:
    """A name given, taken away and given to another file (btrfs log replay: fstests generic/039, /107)."""
    path, new = two
    gone = path if first else new
    return (
        Link(path=path, new=new),
        *_persistence(between, path),
        Unlink(path=gone),
        Creat(path=gone),
        *_persistence(after, gone),
    )


def _replace(two: tuple[str, str], between: str, length: int, after: str) -> Fragment:
    """The new version renamed over the old one, with and without the fsync between (Ferrite: ARVR)."""
    path, new = two
    return (
        Creat(path=new),
        Write(path=path, length=length),
        *_persistence(between, path),
        Rename(path=path, new=new),
        *_persistence(after, new),
    )


def _rename_folder_and_create_again(two: tuple[str, str], between: str, after: str) -> Fragment:
    """A directory moved away and made anew with a file of the same name (fstests generic/341)."""
    path, new = two
    file = f"{path}/foo"
    return (
        Creat(path=file),
        *_persistence(between, file),
        Rename(path=path, new=new),
        Mkdir(path=path),
        Creat(path=file),
        *_persistence(after, file),
    )


def _reserve_beyond_the_end(path: str, written: int, reserved: int, after: str) -> Fragment:
    """Blocks allocated beyond the end of the file, size kept (fstests generic/468)."""
    return (
        Write(path=path, length=written),
        Fsync(path=path),
        Fallocate(path=path, offset=written, length=reserved, mode="keep-size"),
        *_persistence(after, path),
    )


def _synced_again_and_again(path: str, steps: list[tuple[Operation, str]]) -> Fragment:
    """Several fsyncs of one inode with changes between."""
    return tuple(
        operation
        for change, kind in steps
        for operation in (msgspec.structs.replace(change, path=path), *_persistence(kind, path))
    )


def _changed_range(path: str, change: Operation, between: str, after: str) -> Fragment:
    """A hole, zeroes, or blocks taken out or put in, over data that were written before (fstests generic/059)."""
    return (
        Write(path=path, length=LENGTH_MAX),
        *_persistence(between, path),
        msgspec.structs.replace(change, path=path),
        *_persistence(after, path),
    )


def _appended_by_two_doors(path: str, how: How, pages: int, after: str) -> Fragment:
    """Direct or mapped data at the end of buffered ones that may not be on the disk yet."""
    return (
        Write(path=path, length=pages),
        Write(path=path, offset=pages, length=PAGE, how=how),
        Write(path=path, length=100, append=True),
        *_persistence(after, path),
    )


def _attribute_taken_away(path: str, name: str, value: str, between: str, after: str) -> Fragment:
    """An attribute set, then removed: log replay must not bring it back (fstests generic/066)."""
    return (
        SetXattr(path=path, name=name, value=value),
        *_persistence(between, path),
        RemoveXattr(path=path, name=name),
        *_persistence(after, path),
    )


def _written_by_one_name(two: tuple[str, str], between: str, length: int, after: str) -> Fragment:
    """Written by one hard link, persisted by the other."""
    path, new = two
    return (
        Link(path=path, new=new),
        *_persistence(between, path),
        Write(path=new, length=length),
        *_persistence(after, path),
    )


def _linked_without_a_name_before(new: str, length: int, after: str) -> Fragment:
    """O_TMPFILE and linkat(2), then written to."""
    return (Tmpfile(new=new, length=length), *_persistence(after, new), Write(path=new, offset=length, length=PAGE))


_INODE_CHANGES: st.SearchStrategy[Operation] = st.one_of(
    _PLAIN_WRITE, _WRITE, _WRITE, _WRITE_DIRECT, st.builds(Truncate, path=_FILES, size=_OFFSETS), _RESERVE, _SET
)

SINGLES: st.SearchStrategy[Fragment] = st.builds(_followed, _CHANGE, _AFTER)
PERSISTENCE: st.SearchStrategy[Fragment] = st.tuples(_PERSIST)
DROP_CACHES: st.SearchStrategy[Fragment] = st.tuples(st.builds(DropCaches))
NEIGHBOURHOODS: tuple[st.SearchStrategy[Fragment], ...] = (
    st.builds(_link_and_create_again, _TWO_FILES, _BETWEEN, st.booleans(), _AFTER),
    st.builds(_replace, _TWO_FILES, _BETWEEN, _LENGTHS, _AFTER),
    st.builds(_rename_folder_and_create_again, _TWO_FOLDERS, _BETWEEN, _AFTER),
    st.builds(_reserve_beyond_the_end, _FILES, _LENGTHS, _LENGTHS, st.just("fdatasync") | _AFTER),
    st.builds(_synced_again_and_again, _FILES, st.lists(st.tuples(_INODE_CHANGES, _AFTER), min_size=2, max_size=4)),
    st.builds(_changed_range, _FILES, _RESERVE | _SHIFT, _BETWEEN, _AFTER),
    st.builds(_appended_by_two_doors, _FILES, st.sampled_from(_DOORS), _SOME_PAGES, _AFTER),
    st.builds(_attribute_taken_away, _ANY, _NAMES, _VALUES, _BETWEEN, _AFTER),
    st.builds(_written_by_one_name, _TWO_FILES, _BETWEEN, _LENGTHS, _AFTER),
    st.builds(_linked_without_a_name_before, _FILES, _LENGTHS, _AFTER),
)

"""The catalogue of planted mutants: altered recovered volumes, and wrong expectations. At least one for each rule."""

import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.machine.image import Image
from harness.plan import operations as op
from harness.plan.operations import Operation
from harness.plan.payload import SECTOR, payload
from harness.verdict import FindingKind

FS_IOC_SETFLAGS = 0x40086602
FS_IMMUTABLE_FL = 0x10
"""ioctl_iflags(2)"""

FOO, BAR, A, FSYNC, SYNC = (
    op.Creat(path="foo"),
    op.Creat(path="bar"),
    op.Mkdir(path="A"),
    op.Fsync(path="foo"),
    op.Sync(),
)
ROOT_FSYNC = op.Fsync(path=".")
LINK, RENAME = op.Link(path="foo", new="bar"), op.Rename(path="foo", new="bar")
WRITE = op.Write(path="foo", length=10000)

Damage = Callable[[str], None]


@dataclass(frozen=True)
class Mutant:
    """`operations` are run, then something is wrong that must be found as `kind` under `rule`.

    One of: `damage` alters the mounted volume by system calls, `debugfs` and `image` the unmounted one; `believed` are
    operations that the oracle is told instead of those at the same places.
    """

    name: str
    kind: FindingKind
    rule: str
    operations: Sequence[Operation]
    damage: Damage | None = None
    debugfs: Sequence[str] = ()
    image: Callable[[Image], None] | None = None
    believed: Sequence[Operation] = ()
    setup: Sequence[Operation] = ()
    contract: str = "linux"
    fs: str = "ext4"


def put(path: str, offset: int, data: bytes | Callable[[int], bytes]) -> Damage:
    """Other bytes in a file. Those of a callable are asked for with the file's inode number."""

    def damage(root: str) -> None:
        with open(f"{root}/{path}", "r+b") as file:
            file.seek(offset)
            file.write(data(os.fstat(file.fileno()).st_ino) if callable(data) else data)

    return damage


def torn(inode: int) -> bytes:
    """The first half of a sector of the new version, the second half of the old one."""
    return payload(inode, 2, SECTOR, SECTOR // 2) + payload(inode, 1, SECTOR + SECTOR // 2, SECTOR // 2)


def copy_of(source: str, target: str) -> Damage:
    def damage(root: str) -> None:
        with open(f"{root}/{source}", "rb") as file:
            put(target, 0, file.read())(root)

    return damage


def at(call: Callable[..., None], *arguments: object) -> Damage:
    """A system call on paths of the volume: what begins with / is one."""

    def damage(root: str) -> None:
        call(*(root + each if isinstance(each, str) and each.startswith("/") else each for each in arguments))

    return damage


def several(*damages: Damage) -> Damage:
    def damage(root: str) -> None:
        for each in damages:
            each(root)

    return damage


def swap(root: str) -> None:
    os.rename(f"{root}/foo", f"{root}/other")
    os.rename(f"{root}/bar", f"{root}/foo")
    os.rename(f"{root}/other", f"{root}/bar")


def create(path: str) -> Damage:
    return at(lambda name: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644)), path)


def make_immutable(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL.to_bytes(8, "little"))
    finally:
        os.close(fd)


def rot(image: Image) -> None:
    """Alter a byte of the file's data behind the file system's back: btrfs then finds its checksum wrong."""
    place = image.map.find(b" version 1 at 4096 ")
    image.map[place] ^= 1


LOST, STALE, META, FOREIGN = FindingKind.LOST_ACKED, FindingKind.STALE, FindingKind.META, FindingKind.FOREIGN
ZEROED, TRUNCATED, TORN = FindingKind.ZEROED, FindingKind.TRUNCATED, FindingKind.TORN
UNAVAILABLE = FindingKind.UNAVAILABLE

GONE, OLD_NAME = at(os.unlink, "/foo"), at(os.link, "/foo", "/bar")
IN_A: list[Operation] = [A, op.Creat(path="A/foo"), op.Fsync(path="A/foo")]
TWICE: list[Operation] = [FOO, WRITE, WRITE, FSYNC]
MOVE: list[Operation] = [op.Rename(path="foo", new="A/foo")]
IN_PART: list[Operation] = [FOO, op.Write(path="foo", length=16384)]

MUTANTS = [
    Mutant("setup-lost", LOST, "setup-synced", [op.DropCaches()], GONE, setup=[FOO]),
    Mutant("setup-lost-under-posix", LOST, "setup-synced", [SYNC], GONE, setup=[FOO], contract="posix"),
    Mutant("setup-zeroed", ZEROED, "setup-synced", [op.DropCaches()], put("foo", 512, bytes(512)), setup=[FOO, WRITE]),
    Mutant("synced-name-lost", LOST, "sync-everything", [FOO, SYNC], GONE),
    Mutant("synced-data-zeroed", ZEROED, "sync-everything", [FOO, WRITE, op.Syncfs()], put("foo", 4096, bytes(512))),
    Mutant(
        "synced-mode-lost",
        STALE,
        "sync-everything",
        [FOO, op.Chmod(path="foo", mode=0), SYNC],
        at(os.chmod, "/foo", 0o644),
    ),
    Mutant("old-data", STALE, "fsync-data", TWICE, put("foo", 512, lambda inode: payload(inode, 1, 512, 512))),
    Mutant("zeroed-sector", ZEROED, "fsync-data", TWICE, put("foo", 512, bytes(512))),
    Mutant("truncated", TRUNCATED, "fsync-data", TWICE, at(os.truncate, "/foo", 4096)),
    Mutant("emptied", LOST, "fsync-data", TWICE, at(os.truncate, "/foo", 0)),
    Mutant("truncated-under-posix", TRUNCATED, "fsync-data", TWICE, at(os.truncate, "/foo", 4096), contract="posix"),
    Mutant(
        "old-size",
        STALE,
        "fsync-data",
        [FOO, WRITE, op.Truncate(path="foo", size=100), FSYNC],
        at(os.truncate, "/foo", 10000),
    ),
    Mutant(
        "hole-filled-again",
        STALE,
        "fsync-data",
        [*IN_PART, op.Fallocate(path="foo", length=4096, mode="punch-hole"), FSYNC],
        put("foo", 0, lambda inode: payload(inode, 1, 0, 512)),
    ),
    Mutant(
        "fdatasynced-size-lost",
        TRUNCATED,
        "fsync-data",
        [FOO, WRITE, op.Fdatasync(path="foo")],
        at(os.truncate, "/foo", 8192),
    ),
    Mutant(
        "msynced-page-zeroed",
        ZEROED,
        "fsync-data",
        [*IN_PART, op.Msync(path="foo", offset=4096, length=10)],
        put("foo", 4096, bytes(4096)),
    ),
    Mutant(
        "msynced-size-lost",
        TRUNCATED,
        "fsync-data",
        [*IN_PART, op.Msync(path="foo", offset=4096, length=4096)],
        at(os.truncate, "/foo", 4096),
    ),
    Mutant(
        "dsynced-range-zeroed",
        ZEROED,
        "fsync-data",
        [*IN_PART, op.Write(path="foo", offset=8192, length=4096, how="dsync")],
        put("foo", 8192, bytes(4096)),
    ),
    Mutant(
        "mode-lost",
        STALE,
        "fsync-attributes",
        [FOO, op.Chmod(path="foo", mode=0o600), FSYNC],
        at(os.chmod, "/foo", 0o644),
    ),
    Mutant(
        "xattr-lost",
        LOST,
        "fsync-attributes",
        [FOO, op.SetXattr(path="foo"), FSYNC],
        at(os.removexattr, "/foo", "user.attr"),
    ),
    Mutant(
        "xattr-back",
        STALE,
        "fsync-attributes",
        [FOO, op.SetXattr(path="foo"), op.RemoveXattr(path="foo"), FSYNC],
        at(os.setxattr, "/foo", "user.attr", b"value"),
    ),
    Mutant(
        "time-lost",
        STALE,
        "fsync-attributes",
        [FOO, op.Utimens(path="foo", seconds=5), FSYNC],
        at(os.utime, "/foo", (6, 6)),
    ),
    Mutant(
        "mode-of-root-lost",
        STALE,
        "fsync-attributes",
        [op.Chmod(path=".", mode=0o700), ROOT_FSYNC],
        at(os.chmod, "/", 0o755),
    ),
    Mutant("entry-lost", LOST, "fsync-directory", [FOO, ROOT_FSYNC], GONE),
    Mutant("entry-lost-under-posix", LOST, "fsync-directory", [FOO, ROOT_FSYNC], GONE, contract="posix"),
    Mutant("entry-back", STALE, "fsync-directory", [FOO, LINK, op.Unlink(path="bar"), ROOT_FSYNC], OLD_NAME),
    Mutant("name-lost", LOST, "fsync-names", [FOO, FSYNC], GONE),
    Mutant("name-back", STALE, "fsync-names", [FOO, LINK, op.Unlink(path="bar"), FSYNC], OLD_NAME),
    Mutant("rename-undone", LOST, "fsync-names", [FOO, RENAME, op.Fsync(path="bar")], at(os.rename, "/bar", "/foo")),
    Mutant("one-of-two-links-lost", LOST, "fsync-names", [FOO, LINK, FSYNC], at(os.unlink, "/bar")),
    Mutant("directory-above-lost", LOST, "fsync-names", IN_A, several(at(os.unlink, "/A/foo"), at(os.rmdir, "/A"))),
    Mutant("two-places", META, "atomic-names", [RENAME], at(os.link, "/bar", "/foo"), setup=[FOO]),
    Mutant(
        "two-places-after-fsync", META, "atomic-names", [FOO, RENAME, op.Fsync(path="bar")], at(os.link, "/bar", "/foo")
    ),
    Mutant(
        "two-places-on-btrfs", META, "atomic-names", MOVE, at(os.link, "/A/foo", "/foo"), setup=[FOO, A], fs="btrfs"
    ),
    Mutant("nowhere-on-btrfs", LOST, "atomic-names", MOVE, at(os.unlink, "/A/foo"), setup=[FOO, A], fs="btrfs"),
    Mutant("nowhere", LOST, "atomic-names", [RENAME], at(os.unlink, "/bar"), setup=[FOO]),
    Mutant(
        "exchange-half-done",
        LOST,
        "setup-synced",
        [op.Rename(path="foo", new="bar", how="exchange")],
        GONE,
        setup=[FOO, BAR],
    ),
    Mutant("stranger", FOREIGN, "possible-name", [FOO], create("/stranger")),
    Mutant("stranger-in-a-directory", FOREIGN, "possible-name", IN_A, create("/A/stranger")),
    Mutant("names-swapped", FOREIGN, "possible-name", [FOO, BAR], swap),
    Mutant("another-file-in-its-place", FOREIGN, "possible-name", [FOO, BAR, SYNC], at(os.rename, "/bar", "/foo")),
    Mutant(
        "another-files-bytes",
        FOREIGN,
        "old-or-new",
        [BAR, op.Write(path="bar", length=4096), FOO, WRITE],
        copy_of("bar", "foo"),
    ),
    Mutant("garbage", FOREIGN, "old-or-new", [FOO, WRITE], put("foo", 700, b"garbage")),
    Mutant("garbage-under-posix", FOREIGN, "old-or-new", [FOO, WRITE], put("foo", 700, b"garbage"), contract="posix"),
    Mutant("torn-sector", TORN, "old-or-new", TWICE, put("foo", SECTOR, torn)),
    Mutant(
        "torn-fill",
        TORN,
        "old-or-new",
        [FOO, op.Write(path="foo", length=512, fill="a"), op.Write(path="foo", length=512, fill="b")],
        put("foo", 100, b"a" * 412),
    ),
    Mutant("garbage-behind-the-end", FOREIGN, "possible-size", TWICE, put("foo", 10240, b"garbage")),
    Mutant("zeros-behind-the-end", META, "possible-size", TWICE, at(os.truncate, "/foo", 12288)),
    Mutant("a-size-that-never-was", TRUNCATED, "possible-size", [FOO, WRITE], at(os.truncate, "/foo", 5000)),
    Mutant(
        "a-mode-that-never-was",
        META,
        "possible-attributes",
        [FOO, op.Chmod(path="foo", mode=0o600)],
        at(os.chmod, "/foo", 0o7777),
    ),
    Mutant(
        "an-xattr-that-never-was",
        META,
        "possible-attributes",
        [FOO, op.SetXattr(path="foo")],
        at(os.setxattr, "/foo", "user.attr", b"other"),
    ),
    Mutant("dangling-name", META, "reachable", [FOO, SYNC], debugfs=["sif foo mode 0", "sif foo links_count 0"]),
    Mutant(
        "dangling-name-in-a-directory", META, "reachable", IN_A, debugfs=["sif A/foo mode 0", "sif A/foo links_count 0"]
    ),
    Mutant("rotten-data", UNAVAILABLE, "reachable", [FOO, WRITE, SYNC], image=rot, fs="btrfs"),
    Mutant("link-count", META, "link-count", [FOO, FSYNC], debugfs=["sif foo links_count 2"]),
    Mutant("link-count-of-two-names", META, "link-count", [FOO, LINK, FSYNC], debugfs=["sif foo links_count 1"]),
    Mutant("link-count-of-a-directory", META, "link-count", IN_A, debugfs=["sif A links_count 3"]),
    Mutant("link-count-of-the-root", META, "link-count", [A], debugfs=["sif / links_count 3"]),
    Mutant(
        "symlink-to-elsewhere",
        FOREIGN,
        "symlink-whole",
        [op.Symlink(target="foo", new="bar")],
        debugfs=["sif bar block[0] 0x6c6c6c"],
    ),
    Mutant("directory-that-takes-nothing", META, "usable", IN_A, at(make_immutable, "/A")),
    Mutant("file-that-cannot-be-removed", META, "usable", IN_A, at(make_immutable, "/A/foo")),
    Mutant(
        "other-bytes-expected",
        FOREIGN,
        "old-or-new",
        [FOO, op.Write(path="foo", length=600, fill="a")],
        believed=[FOO, op.Write(path="foo", length=600, fill="b")],
    ),
    Mutant(
        "other-mode-expected",
        META,
        "possible-attributes",
        [FOO, op.Chmod(path="foo", mode=0o600)],
        believed=[FOO, op.Chmod(path="foo", mode=0o640)],
    ),
    Mutant(
        "other-target-expected",
        FOREIGN,
        "symlink-whole",
        [op.Symlink(target="foo", new="bar")],
        believed=[op.Symlink(target="bar", new="bar")],
    ),
    Mutant("other-name-expected", LOST, "fsync-directory", [FOO, ROOT_FSYNC], believed=[BAR, ROOT_FSYNC]),
    Mutant(
        "a-removal-expected",
        STALE,
        "sync-everything",
        [FOO, op.DropCaches(), SYNC],
        believed=[FOO, op.Unlink(path="foo"), SYNC],
    ),
]

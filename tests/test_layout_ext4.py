"""Blocks of ext4, ext3 and ext2 are called what debugfs calls them, at the time of the write."""

import contextlib
import mmap
import os
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from layout_support import AT_REST, REUSED, Tally, compare, named, pieces, recorded
from layout_truth import Before, Truth, apply

from harness.blocklog.writer import LogWriter
from harness.layout.kinds import BlockKind, Named
from harness.layout.naming import name_writes
from harness.machine import mounts
from harness.machine.filesystems import make_image
from harness.machine.syncing import sync_file_system
from harness.plan.interpreter import Writer
from harness.plan.plan import Plan
from harness.plan.strategies import plans
from harness.settings import Settings
from harness.trial.plans import record_on
from harness.trial.recording import Recording
from harness.volume import VolumeSpec, make_base

PLANS = int(os.environ.get("HARNESS_LAYOUT_PLANS", "200"))
SMALL = Settings(size=16 << 20, fsck=False, timeout=20.0)
JOURNALED = {
    BlockKind.JOURNAL_SUPERBLOCK,
    BlockKind.JOURNAL_DESCRIPTOR,
    BlockKind.JOURNAL_COMMIT,
    BlockKind.JOURNAL_BLOCK,
}
ALWAYS = {
    BlockKind.SUPERBLOCK,
    BlockKind.GROUP_DESCRIPTOR,
    BlockKind.BLOCK_BITMAP,
    BlockKind.INODE_BITMAP,
    BlockKind.INODE_TABLE,
    BlockKind.DIRECTORY,
    BlockKind.DATA,
}


def write(path: str, content: bytes, at: int = 0, *, fsync: bool = True) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.pwrite(fd, content, at)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def fsync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def busy(root: str) -> None:
    """A life with something of everything: renames, links, deletions, holes, long links, attributes, a full folder."""
    os.mkdir(f"{root}/d")
    write(f"{root}/d/a", b"a" * 9000)
    write(f"{root}/d/new", b"b" * 5000)
    os.rename(f"{root}/d/new", f"{root}/d/a")
    fsync_folder(f"{root}/d")
    os.symlink("t" * 200, f"{root}/link")
    os.setxattr(f"{root}/d/a", "user.large", b"x" * 700)
    for piece in range(12):
        write(f"{root}/holes", b"h" * 4096, piece * 5 * 4096, fsync=piece % 4 == 3)
    os.link(f"{root}/holes", f"{root}/d/holes too")
    sync_file_system(root)
    os.unlink(f"{root}/d/a")
    os.mkdir(f"{root}/e")
    for number in range(20):
        write(f"{root}/e/{'n' * 180}{number}", b"", fsync=False)
    fsync_folder(f"{root}/e")
    write(f"{root}/last", b"l" * 20000)


def draw(handle: Callable[[Plan], None], count: int) -> None:
    """The same so many plans in each run."""

    @seed(5)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plan=plans(operations=(3, 12)))
    def each(plan: Plan) -> None:
        handle(plan)

    each()


@pytest.mark.root
def test_every_block_of_random_plans_is_called_what_debugfs_calls_it() -> None:
    spec = VolumeSpec.of(SMALL)
    total = Tally()
    taken = []
    with make_base(spec) as base, contextlib.closing(Writer(mounts.enter_private_mounts().volume)) as writer:
        before = Before(base)

        def judge(plan: Plan) -> None:
            recording = record_on(spec, base, SMALL, plan, writer)
            tally = compare(recording, named(recording), Truth(recording, before))
            assert not tally.wrong, (plan, tally.wrong[:5])
            total.add(tally)
            taken.append(plan)

        draw(judge, PLANS)
    print(f"{len(taken)} plans, {total.compared.total()} blocks compared: {dict(total.compared)}, {total.excused}")
    assert len(taken) >= PLANS
    assert set(total.compared) >= ALWAYS | JOURNALED | {BlockKind.JOURNAL_REVOKE}
    assert not total.excused


@pytest.mark.root
@pytest.mark.parametrize(
    ("changes", "kinds", "excused"),
    [
        pytest.param({}, ALWAYS | JOURNALED | {BlockKind.EXTENT_TREE, BlockKind.XATTR}, (), id="ext4"),
        pytest.param({"mkfs_options": "-b 1024"}, ALWAYS | JOURNALED | {BlockKind.EXTENT_TREE}, (), id="1-KiB"),
        pytest.param({"mount_options": "data=journal"}, ALWAYS | JOURNALED, (), id="data-journal"),
        pytest.param({"mount_options": "discard"}, ALWAYS | JOURNALED | {BlockKind.FREE}, (), id="discard"),
        pytest.param(
            {"mkfs_options": "-O ^extents,^64bit"}, ALWAYS | JOURNALED | {BlockKind.METADATA}, (), id="no-extents"
        ),
        pytest.param({"mkfs_options": "-I 128 -O ^metadata_csum,^64bit"}, ALWAYS | JOURNALED, (), id="old-inodes"),
        pytest.param({"mkfs_options": "-O inline_data"}, ALWAYS | JOURNALED, (), id="inline-data"),
        pytest.param({"mkfs_options": "-O meta_bg,^resize_inode"}, ALWAYS | JOURNALED, (), id="meta-bg"),
        pytest.param({"fs": "ext3"}, ALWAYS | JOURNALED | {BlockKind.METADATA}, (), id="ext3"),
        pytest.param({"fs": "ext3", "mkfs_options": "-b 1024"}, ALWAYS | JOURNALED, (), id="ext3-1-KiB"),
        pytest.param({"fs": "ext2"}, ALWAYS | {BlockKind.METADATA}, (AT_REST, REUSED), id="ext2"),
        pytest.param({"mkfs_options": "-O ^has_journal"}, ALWAYS, (AT_REST, REUSED), id="no-journal"),
    ],
)
def test_every_block_of_other_volumes_too(
    changes: dict[str, str], kinds: set[BlockKind], excused: tuple[str, ...]
) -> None:
    sector = 512 if "1024" in changes.get("mkfs_options", "") else 4096
    recording = recorded(busy, msgspec.structs.replace(SMALL, sector_size=sector, **changes))
    with recording.base:
        tally = compare(recording, named(recording))
    assert not tally.wrong, tally.wrong[:5]
    assert set(tally.compared) >= kinds
    assert set(tally.excused) <= {*excused}
    assert tally.excused.total() * 2 <= tally.compared.total()


@pytest.mark.root
def test_a_file_is_called_by_its_name_at_that_time_and_by_its_later_one() -> None:
    def replace(root: str) -> None:
        write(f"{root}/config", b"old" * 2000)
        write(f"{root}/config.new", b"new" * 2000)
        os.rename(f"{root}/config.new", f"{root}/config")
        fsync_folder(root)
        write(f"{root}/config", b"third")

    with (recording := recorded(replace, SMALL)).base:
        data = [(piece.path, piece.text) for piece in pieces(recording) if piece.kind is BlockKind.DATA]
    assert data == [
        ("/config", "data blocks 0 to 1 of /config (later deleted)"),
        ("/config.new", "data blocks 0 to 1 of /config.new (later /config)"),
        ("/config", "data block 0 of /config"),
    ]


def compare_all(recording: Recording) -> Tally:
    tally = compare(recording, named(recording))
    assert not tally.wrong, tally.wrong[:5]
    return tally


@pytest.mark.root
@pytest.mark.parametrize("fs", ["ext4", "ext3"])
def test_a_revoked_directory_block_and_its_inode_are_another_files_later(fs: str) -> None:
    def reuse(root: str) -> None:
        os.mkdir(f"{root}/gone")
        fsync_folder(f"{root}/gone")
        os.rmdir(f"{root}/gone")
        fsync_folder(root)
        # Nearly all that is free is written, the freed block with it.
        space = os.statvfs(root)
        write(f"{root}/fills", b"f" * (space.f_bavail - 20) * space.f_frsize)

    with (recording := recorded(reuse, msgspec.structs.replace(SMALL, fs=fs))).base:
        tally = compare_all(recording)
        found = pieces(recording)
    assert tally.compared[BlockKind.JOURNAL_REVOKE] >= 1
    folder = next(piece for piece in found if "copy of directory block 0 of /gone (later deleted)" in piece.text)
    revoked = next(piece.text for piece in found if piece.kind is BlockKind.JOURNAL_REVOKE)
    block = int(revoked.rpartition(" ")[2]) * 4096
    new = next(piece for piece in found if piece.offset <= block < piece.offset + piece.length)
    assert new.kind is BlockKind.DATA or (fs == "ext3" and new.text.startswith("indirect block"))
    assert new.path == "/fills"
    assert new.inode == folder.inode and new.generation != folder.generation
    assert any(f"inode {new.inode} (deleted, was /gone)" in piece.text for piece in found)


@pytest.mark.root
@pytest.mark.parametrize("mkfs_options", ["", "-O ^has_journal"], ids=["journal", "no-journal"])
def test_an_inode_number_that_is_used_again_at_once_is_another_file(mkfs_options: str) -> None:
    def reuse(root: str) -> None:
        write(f"{root}/first", b"1" * 4096)
        os.unlink(f"{root}/first")
        write(f"{root}/second", b"2" * 4096)

    with (recording := recorded(reuse, msgspec.structs.replace(SMALL, mkfs_options=mkfs_options))).base:
        compare_all(recording)
        first, second = (piece for piece in pieces(recording) if piece.kind is BlockKind.DATA)
    assert (first.path, second.path) == ("/first", "/second")
    assert first.inode == second.inode and first.generation != second.generation


@pytest.mark.root
@pytest.mark.parametrize("commits", [1, 3])
def test_data_of_a_file_that_was_never_committed_are_not_called_the_next_ones(commits: int) -> None:
    def uncommitted(root: str) -> None:
        fd = os.open(f"{root}/brief", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as page:
            page[:] = b"brief..." * 512
            os.write(fd, page)
        os.close(fd)
        os.unlink(f"{root}/brief")
        for _ in range(commits):
            os.utime(root)
            fsync_folder(root)
        space = os.statvfs(root)
        write(f"{root}/fills", b"f" * (space.f_bavail - 20) * space.f_frsize)

    with (recording := recorded(uncommitted, SMALL)).base:
        compare_all(recording)
        names, log = named(recording), recording.log
        at = next(n for n in names if bytes(log.data(log.events[n])).startswith(b"brief..."))
        again = [n for n in names if n > at and log.events[n].offset <= log.events[at].offset < sum(log.events[n][1:3])]
    assert names[at][0].kind is BlockKind.FREE
    assert again, "the block was written for another file"


@pytest.mark.root
def test_the_blocks_of_a_hashed_directory_are_told() -> None:
    def fill(root: str) -> None:
        os.mkdir(f"{root}/many")
        for number in range(30):
            write(f"{root}/many/{'m' * 200}{number}", b"", fsync=False)
            if number % 10 == 9:
                fsync_folder(f"{root}/many")

    spec = msgspec.structs.replace(SMALL, mkfs_options="-b 1024", sector_size=512)
    with (recording := recorded(fill, spec)).base:
        tally = compare_all(recording)
        texts = {piece.text for piece in pieces(recording)}
    assert tally.compared[BlockKind.DIRECTORY] > 4
    assert "directory block 0 of /many, htree root" in texts
    assert any(text.startswith("directory block 3 of /many") or "to 3 of /many" in text for text in texts)


@pytest.mark.root
def test_what_is_written_in_part_of_a_block_is_named_too() -> None:
    def direct(root: str) -> None:
        write(f"{root}/file", b"x" * 8192)
        fd = os.open(f"{root}/file", os.O_WRONLY | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as page:
            os.pwritev(fd, [memoryview(page)[:1024]], 4096 + 512)
        os.close(fd)

    with (recording := recorded(direct, msgspec.structs.replace(SMALL, sector_size=512))).base:
        compare_all(recording)
        part = [piece for piece in pieces(recording) if piece.length == 1024]
    assert [piece.text for piece in part] == ["data block 1 of /file"]


@pytest.mark.root
def test_a_log_that_is_cut_off_names_what_is_known_by_then() -> None:
    with (recording := recorded(busy, SMALL)).base:
        whole, log = named(recording), recording.log
        for end in range(0, len(log.events), 3):
            names = named(recording, end)
            assert set(names) == {number for number in whole if number < end}
        first = next(number for number, found in whole.items() if found[0].kind is BlockKind.DATA)
        assert whole[first][0].path == "/d/a"
        (alone,) = named(recording, first + 1)[first]
    assert alone.kind is BlockKind.FREE and not alone.path, "who would own it is not on the disk yet"


@pytest.mark.root
def test_recovery_of_a_disk_that_lost_power_is_named_too() -> None:
    with (recording := recorded(busy, SMALL)).base as base, base.copy("lost power") as disk:
        commits = [n for n, found in named(recording).items() if found[-1].kind is BlockKind.JOURNAL_COMMIT]
        apply(recording.log, recording.log.events[: commits[-2] + 1], disk)
        second = recorded(lambda root: write(f"{root}/after", b"a" * 5000), SMALL, disk)
        tally = compare_all(second)
    assert {BlockKind.INODE_TABLE, BlockKind.DIRECTORY, BlockKind.DATA} <= set(tally.compared)


_IN_FILE = (BlockKind.DATA, BlockKind.DIRECTORY)
MUTANTS: dict[str, Callable[[Named], dict[str, object]]] = {
    "kind": lambda it: {"kind": BlockKind.SYMLINK if it.kind is BlockKind.DATA else BlockKind.DATA},
    "free": lambda _: {"kind": BlockKind.FREE},
    "inode": lambda it: {"inode": it.inode + (it.kind in _IN_FILE)},
    "path": lambda it: {"path": it.path + "x" * (it.kind in _IN_FILE)},
    "block": lambda it: {"block": it.block + (it.block >= 0)},
    "generation": lambda it: {"generation": it.generation + (it.kind in _IN_FILE)},
    "transaction": lambda it: {"transaction": it.transaction + (it.transaction > 0)},
    "copy": lambda it: {"text": it.text.replace("copy of inode bitmap", "copy of data block")},
    "table": lambda it: {"text": it.text.replace("inode 12 ", "inode 13 ")},
    "name": lambda it: {"text": it.text.replace("inode 12 (/d)", "inode 12 (/x)")},
    "deleted": lambda it: {"text": it.text.replace("(deleted, was /d/a)", "(/d/a)")},
    "later": lambda it: {"text": it.text.replace(" (later deleted)", "")},
    "length": lambda it: {"length": it.length - 512},
    "offset": lambda it: {"offset": it.offset + 512},
}


@pytest.mark.root
def test_a_planted_wrong_name_is_found() -> None:
    """One name is changed at a time; the first ten of each kind of change."""
    with (recording := recorded(busy, SMALL)).base:
        names, truth = named(recording), Truth(recording)
        assert not compare(recording, names, truth).wrong
        for what, mutate in MUTANTS.items():
            changed = 0
            for number, at, piece in ((n, at, piece) for n, found in names.items() for at, piece in enumerate(found)):
                wrong = msgspec.structs.replace(piece, **mutate(piece))
                if wrong != piece and changed < 10:
                    changed += 1
                    planted = (*names[number][:at], wrong, *names[number][at + 1 :])
                    assert compare(recording, {**names, number: planted}, truth).wrong, (what, piece)
            assert changed, what


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param("-O bigalloc", "bigalloc", id="bigalloc"),
        pytest.param("-O encrypt", "encrypt", id="encrypt"),
    ],
)
def test_a_volume_that_is_not_understood_is_not_named(options: str, said: str) -> None:
    with make_image("ext4", 16 << 20, options) as base:
        assert_unknown("ext4", base.map, said)


def test_what_is_no_file_system_is_not_named() -> None:
    assert_unknown("ext4", bytes(1 << 20), "without an ext2, ext3 or ext4 superblock")
    assert_unknown("ext4", bytes(1024), "too small")
    assert_unknown("minix", bytes(1 << 20), "minix")
    with make_image("ext4", 16 << 20) as base:
        damaged = bytearray(base.map[:])
        damaged[1024 + 0xE4 : 1024 + 0xE8] = b"\1\0\0\0"
        assert_unknown("ext4", damaged, "journal is on another device")


def assert_unknown(fs: str, base: bytes | bytearray | mmap.mmap, said: str) -> None:
    """Every write and discard is answered for, with the reason."""
    writer = LogWriter(bytearray(1 << 16))
    writer.write(4096, bytes(4096))
    writer.flush()
    writer.discard(8192, 4096)
    names = name_writes(fs, base, writer.parsed(), len(base))
    assert [(found[0].offset, found[0].kind) for found in names.values()] == [
        (4096, BlockKind.UNKNOWN),
        (8192, BlockKind.UNKNOWN),
    ]
    assert list(names) == [0, 2] and all(said in found[0].text for found in names.values())


@pytest.mark.parametrize("damage", range(20))
def test_damaged_metadata_are_named_without_an_error(damage: int) -> None:
    """Random bytes in the superblock, descriptors, inode table and journal: each event has an answer, whichever."""
    chance = random.Random(damage)
    with make_image("ext4", 16 << 20) as image:
        base = bytearray(image.map[:])
    for start, length in ((1024, 1024), (4096, 4096), (35 * 4096, 4096), (9 * 4096, 4096)):
        for _ in range(chance.randrange(1, 12)):
            base[start + chance.randrange(length)] = chance.randrange(256)
    writer = LogWriter(bytearray(1 << 21))
    for _ in range(60):
        block = chance.choice([0, 1, 4, 9, 10, 11, 12, 13, 35, 36, 1291])
        content = chance.randbytes(4096) if chance.random() < 0.5 else bytes(base[block * 4096 : block * 4096 + 4096])
        head = b"\xc0\x3b\x39\x98\0\0\0" + bytes([chance.randrange(1, 6)])
        writer.write(block * 4096, (head + content[8:]) if chance.random() < 0.5 else content)
    names = name_writes("ext4", base, writer.parsed(), len(base))
    assert set(names) == set(range(60))

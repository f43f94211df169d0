"""Names of the blocks that xfs and btrfs write, held against what xfs_db and dump-tree say of the disk that results."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as profile

from harness.blocklog import BlockLog, Kind
from harness.layout import btrfs, btrfs_format, xfs, xfs_format
from harness.layout.btrfs_state import State
from harness.layout.kinds import BlockKind, Named
from harness.machine import mounts, process
from harness.machine.image import Image
from harness.plan.interpreter import Writer
from harness.plan.plan import Plan
from harness.plan.strategies import plans
from harness.settings import Settings
from harness.trial.plans import record_on
from harness.volume import RecordedVolume, VolumeSpec, make_base

pytestmark = pytest.mark.root

PLANS = 36
LOG_MAX = 64 << 20
BLOCK = 4096


class Case(NamedTuple):
    """One recording: the volume before, and its log up to the clean unmount."""

    base: Image
    log: BlockLog

    def names(self, fs: str) -> dict[int, tuple[Named, ...]]:
        return name_writes(fs, self)

    @contextlib.contextmanager
    def final(self) -> Iterator[Image]:
        """The disk with every write on it."""
        with self.base.copy() as image:
            for event in self.log.events:
                if event.kind is Kind.WRITE:
                    os.pwrite(image.fd, self.log.data(event), event.offset)
            yield image

    def last(self, fs: str) -> dict[int, Named]:
        """By block of the device: how the last write to it was named."""
        found = {}
        for named in (each for its in self.names(fs).values() for each in its):
            for block in range(named.offset // BLOCK, -(-(named.offset + named.length) // BLOCK)):
                found[block] = named
        return found


def name_writes(fs: str, case: Case, end: int | None = None) -> dict[int, tuple[Named, ...]]:
    namer = xfs.name_writes if fs == "xfs" else btrfs.name_writes
    return namer(case.base.map, case.log, case.base.size, end=end)


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def fs(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def spec(fs: str) -> VolumeSpec:
    return VolumeSpec.of(Settings(fs=fs))


@pytest.fixture(scope="module")
def base(spec: VolumeSpec) -> Iterator[Image]:
    with make_base(spec) as image:
        yield image


@pytest.fixture(scope="module")
def cases(fs: str, spec: VolumeSpec, base: Image) -> list[Case]:
    """A few dozen random plans, and one workload that leaves the shapes that small plans never reach."""
    made: list[Case] = []
    with Writer(mounts.enter_private_mounts().volume) as writer:

        @seed(20)
        @profile(
            max_examples=PLANS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(plan=plans(operations=(2, 12)))
        def draw(plan: Plan) -> None:
            made.append(Case(base, record_on(spec, base, Settings(fs=fs), plan, writer).log))

        draw()
    return [*made, Case(base, worked(spec, base, many_shapes))]


def worked(spec: VolumeSpec, base: Image, work: Callable[[str], None]) -> BlockLog:
    """The log of a Python function that works on the volume."""
    with RecordedVolume(spec, base, log_max=LOG_MAX) as volume:
        work(volume.path)
        log = volume.finish()
    assert volume.error is None
    return log


def many_shapes(path: str) -> None:
    """Directories of several blocks, a file in many extents, attributes and links that need blocks of their own."""
    os.mkdir(f"{path}/many")
    for n in range(300):
        with open(f"{path}/many/file-with-a-long-name-{n:04}", "wb") as file:
            file.write(b"%d" % n * 30)
    with open(f"{path}/holes", "wb") as file:
        for n in range(120):
            file.seek(n * 3 * BLOCK)
            file.write(b"block %d" % n)
            os.fsync(file.fileno())
    os.setxattr(f"{path}/holes", "user.large", b"a" * 3000)
    os.symlink("t" * 900, f"{path}/link")
    put(f"{path}/config", b"old" * 9000)
    put(f"{path}/config.new", b"new" * 9000)
    os.rename(f"{path}/config.new", f"{path}/config")
    for n in range(0, 300, 2):
        os.unlink(f"{path}/many/file-with-a-long-name-{n:04}")
    os.sync()
    put(f"{path}/again", b"blocks that others had" * 5000)


def put(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def test_the_names_of_a_write_cover_it(fs: str, cases: list[Case]) -> None:
    for case in cases:
        names = case.names(fs)
        asked = [n for n, event in enumerate(case.log.events) if event.kind in (Kind.WRITE, Kind.DISCARD)]
        assert list(names) == asked
        for n in asked:
            event = case.log.events[n]
            at = event.offset
            for named in names[n]:
                assert (named.offset, named.length > 0, bool(named.text)) == (at, True, True)
                at += named.length
            assert at == event.offset + event.length
        half = len(case.log.events) // 2
        some = name_writes(fs, case, end=half)
        assert some == {n: its for n, its in names.items() if n < half}


def test_nearly_all_blocks_have_a_name(fs: str, cases: list[Case]) -> None:
    kinds = [named.kind for case in cases for its in case.names(fs).values() for named in its]
    assert kinds.count(BlockKind.UNKNOWN) < len(kinds) / 50
    assert kinds.count(BlockKind.DATA) > 20


XFS_TYPES = {
    "superblock": "sb",
    "AGF": "agf",
    "AGI": "agi",
    "AGFL": "agfl",
    "free space btree by block": "btbno",
    "free space btree by size": "btcnt",
    "inode btree": "btino",
    "free inode btree": "btfino",
    "inodes": "inode",
    "extent btree block": "data",  # xfs_db counts them with what they map
    "directory": "dir",
    "extended": "attr",
    "symbolic link": "symlink",
    "data": "data",
    "log": "log",
}
"""How names begin, and what blockuse of xfs_db(8) calls such a block."""
SAID = re.compile(r"^block \d+ \(\d+/\d+\) type (\S+)(?: inode (\d+))?", re.MULTILINE)


RECORD = re.compile(r"(\d+)\tversion: \d+\s+lsn: \d+,(\d+)")
"""How xfs_logprint(8) begins a record, behind `cycle: `: cycle and block."""


def xfs_db(image: Image, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    return process.run(["xfs_db", "-r", *words, image.path], timeout=60).output.decode()


@pytest.mark.parametrize("fs", ["xfs"], indirect=True)
def test_xfs_db_agrees(cases: list[Case]) -> None:
    compared = 0
    for case in cases:
        geo = xfs_format.geometry(case.base.map, case.base.size)
        assert geo is not None
        last = case.last("xfs")
        at = [divmod(block, geo.ag_blocks) for block in last]
        asked = [each for ag, n in at for each in (f"fsblock {ag << geo.ag_shift | n}", "blockuse")]
        with case.final() as image:
            said = SAID.findall(xfs_db(image, "blockget", *asked))
        assert len(said) == len(last)
        for named, (kind, inode) in zip(last.values(), said, strict=True):
            if kind.startswith("free") or named.kind is BlockKind.UNKNOWN:
                continue
            begins = next(text for text in sorted(XFS_TYPES, key=len, reverse=True) if named.text.startswith(text))
            assert XFS_TYPES[begins] == kind, named
            if inode and named.kind is not BlockKind.INODE_TABLE:
                assert named.inode == int(inode), named
            compared += 1
    assert compared > 1000


@pytest.mark.parametrize("fs", ["xfs"], indirect=True)
def test_xfs_data_is_named_by_its_place_in_the_file(cases: list[Case]) -> None:
    compared = 0
    for case in cases:
        geo = xfs_format.geometry(case.base.map, case.base.size)
        assert geo is not None
        data = {block: named for block, named in case.last("xfs").items() if named.kind is BlockKind.DATA}
        inodes = sorted({named.inode for named in data.values()})
        with case.final() as image:
            said = xfs_db(image, *(word for n in inodes for word in (f"echo inode {n}", f"inode {n}", "bmap")))
        for part in said.split("inode ")[1:]:
            inode, _, lines = part.partition("\n")
            for offset, _, ag, start, count in BMAP.findall(lines):
                for n in range(int(count)):
                    block = int(ag) * geo.ag_blocks + int(start) + n
                    if (named := data.get(block)) and named.inode == int(inode):
                        compared += 1
                        assert named.block + block - named.offset // BLOCK == int(offset) + n, named
    assert compared > 200


BMAP = re.compile(r"data offset (\d+) startblock (\d+) \((\d+)/(\d+)\) count (\d+)")


@pytest.mark.parametrize("fs", ["xfs"], indirect=True)
def test_xfs_paths_are_those_of_the_disk(cases: list[Case]) -> None:
    """Inodes as they are written last: their names are the ones that xfs_db finds in the directories."""
    compared = 0
    for case in cases:
        told: dict[str, str] = {}
        for named in (each for its in case.names("xfs").values() for each in its):
            if named.kind is BlockKind.INODE_TABLE:
                told |= dict(re.findall(r"(\d+) \((/[^)]*)\)", named.text))
        with case.final() as image:
            lines = xfs_db(image, "blockget -n", "ncheck").splitlines()
        paths: dict[str, set[str]] = {}
        for number, path in (line.split(maxsplit=1) for line in lines):
            paths.setdefault(number, set()).add("/" + path.removesuffix("/."))
        for number in told.keys() & paths.keys():
            compared += 1
            assert told[number] in paths[number] or told[number] == "/", (told, paths)
    assert compared > 50


@pytest.mark.parametrize("fs", ["xfs"], indirect=True)
def test_xfs_logprint_agrees(cases: list[Case]) -> None:
    """Each record of the log, and the inodes that its transactions change."""
    compared = 0
    for case in cases[::3]:
        ours = {}
        for named in (each for its in case.names("xfs").values() for each in its):
            if found := re.match(r"log record \(cycle (\d+), block (\d+)\)", named.text):
                ours[found.groups()] = named
        with case.final() as image:
            text = process.run(["xfs_logprint", image.path], ok=range(256)).output.decode(errors="replace")
        for body in text.split("\ncycle: ")[1:]:
            place = RECORD.match(body)
            assert place
            if place.groups() not in ours:
                assert place[2] == "0"  # mkfs wrote it
                continue
            named = ours[place.groups()]
            commits = "flags: COMMIT" in body or "flags: UNMOUNT" in body
            assert (named.kind is BlockKind.JOURNAL_COMMIT) == commits, named
            if body.count("flags: START") == body.count("flags: COMMIT") == 1 and " more" not in named.text:
                compared += 1
                inodes = {int(each, 16) for each in re.findall(r"INODE: .*?ino: (0x[0-9a-f]+)", body)}
                assert inodes == {int(each) for each in re.findall(r"inode (\d+)", named.text)}, body
    assert compared > 30


def dump_tree(image: Image) -> str:
    words = ["btrfs", "inspect-internal", "dump-tree", image.path]
    return process.run(words, timeout=60).output.decode(errors="replace")


LEAF = re.compile(r"^(leaf|node) (\d+) .*?generation (\d+) owner (\S+)", re.MULTILINE)
EXTENT = re.compile(
    r"key \((\d+) EXTENT_DATA (\d+)\)[^\n]*\n\s*generation \d+ type ([12]) [^\n]*\n"
    r"[^\n]*disk byte (\d+) nr (\d+)\n[^\n]*data offset (\d+) nr (\d+)"
)
TREES = {"ROOT_TREE": "root", "EXTENT_TREE": "extent", "CHUNK_TREE": "chunk", "DEV_TREE": "device", "FS_TREE": "fs"}


def physical(case: Case) -> Callable[[int], list[int]]:
    """Where a logical address is, by the superblock and chunk tree of mkfs.btrfs: both are in the base."""
    first = btrfs_format.superblock(bytes(case.base.map[65536:69632]))
    assert first is not None
    state = State(case.base.map, first)
    return lambda logical: [
        s.physical + logical - s.logical for s in state._stripes if s.logical <= logical < s.logical + s.length
    ]


@pytest.mark.parametrize("fs", ["btrfs"], indirect=True)
def test_dump_tree_agrees(cases: list[Case]) -> None:
    blocks = extents = 0
    for case in cases:
        last, where = case.last("btrfs"), physical(case)
        with case.final() as image:
            text = dump_tree(image)
        for what, logical, generation, owner in LEAF.findall(text):
            for place in where(int(logical)):
                named = last.get(place // BLOCK)
                if named:
                    blocks += 1
                    begins = f"btree {what}"
                    assert named.text.startswith(begins), (named, logical)
                    assert f"generation {generation}" in named.text
                    assert owner not in TREES or f"of the {TREES[owner]} tree" in named.text
        fs_tree = text.partition("fs tree key")[2].partition("checksum tree key")[0]
        for inode, offset, kind, disk, _, shift, length in EXTENT.findall(fs_tree):
            for n in range(0, int(length), BLOCK):
                for place in where(int(disk) + int(shift) + n):
                    named = last.get(place // BLOCK)
                    if named and named.kind is BlockKind.DATA and (kind == "1" or named.inode):
                        extents += 1
                        assert named.inode == int(inode), named
                        within = (place - named.offset) // BLOCK
                        assert named.block + within == (int(offset) + n) // BLOCK, named
                    elif kind == "1" and named:
                        assert named.kind is BlockKind.UNKNOWN, named
    assert blocks > 300 and extents > 30


def test_a_log_of_another_file_system_has_no_wrong_names(fs: str) -> None:
    with Image.create(1 << 20, "zeros") as base:
        log = BlockLog.parse(_log_of_one_write())
        named = name_writes(fs, Case(base, log))
        assert [each.kind for its in named.values() for each in its] == [BlockKind.UNKNOWN]


def _log_of_one_write() -> bytes:
    from harness.blocklog.format import ENTRY, MAGIC, SUPER, VERSION

    head = SUPER.pack(MAGIC, VERSION, 1, 512).ljust(512, b"\0")
    return head + ENTRY.pack(8, 8, 0, 0).ljust(512, b"\0") + b"x" * 4096


def test_data_that_looks_like_metadata_is_data(fs: str, spec: VolumeSpec, base: Image) -> None:
    """A file that holds copies of the volume's own metadata blocks: they are not at their own address."""
    source = bytes(base.map[:65536]) if fs == "xfs" else bytes(base.map[22020096 : 22020096 + 65536])

    def work(path: str) -> None:
        put(f"{path}/image", source * 4)

    log = worked(spec, base, work)
    names = name_writes(fs, Case(base, log))
    of_file = [each for its in names.values() for each in its if each.path == "/image" and each.kind is BlockKind.DATA]
    assert sum(each.length for each in of_file) == 4 * len(source)

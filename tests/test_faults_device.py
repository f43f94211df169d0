"""Where faults strike and when, to the request."""

import contextlib
import os
import re
import threading

import pytest
from faults_support import BLOCK, SECONDS, Hand, Rig, apart, base_of, durable, fsync, overwrite

from harness.blocklog import BlockLog, Kind
from harness.errors import Misuse
from harness.faults import (
    Journal,
    Superblock,
    Target,
    parse_fault,
)
from harness.faults.places import extents_of
from harness.machine import process
from harness.machine.fiemap import Flag, file_extents
from harness.machine.fileops import fallocate
from harness.volume.disks import PlainDisk, ServedDisk

pytestmark = pytest.mark.root

_MIB = 1 << 20


def _plain(fs: str, mkfs_options: str = "") -> Target:
    """Not attached: for what is asked of the image alone."""
    spec, base = base_of(fs, mkfs_options)
    return Target(disk=PlainDisk(spec, base, "plain"))


@pytest.mark.parametrize("fs", ["ext3", "ext4"])
def test_the_journal_of_ext4_is_where_its_own_tool_says(fs: str) -> None:
    target = _plain(fs)
    assert isinstance(target.disk, PlainDisk)
    image = target.disk.image
    said = process.run(["debugfs", "-R", "stat <8>", image.path]).output.decode()
    blocks = int(re.findall(r"Size: (\d+)", said)[0]) // BLOCK
    found = extents_of(Journal(), target)
    indirect = len(re.findall(r"IND\):", said))
    assert sum(length for _, length in found) == (blocks + indirect) * BLOCK
    magic = bytes.fromhex("c03b3998")  # of the journal's superblock: JBD2_MAGIC_NUMBER
    assert any(image.read(offset, 4) == magic for offset, _ in found)


def test_the_log_of_xfs_is_where_its_own_tool_says() -> None:
    target = _plain("xfs")
    assert isinstance(target.disk, PlainDisk)
    path = target.disk.image.path
    said = process.run(["xfs_db", "-r", "-c", "sb 0", "-c", "print logstart logblocks", path]).output.decode()
    start, blocks = (int(number) for number in re.findall(r"= (\d+)", said))
    at = process.run(["xfs_db", "-r", "-c", f"convert fsblock {start} byte", path]).output.decode()
    assert extents_of(Journal(), target) == ((int(re.findall(r"\((\d+)\)", at)[0]), blocks * BLOCK),)


@pytest.mark.parametrize(
    ("fs", "at", "magic"), [("ext4", 56, b"\x53\xef"), ("xfs", 0, b"XFSB"), ("btrfs", 64, b"_BHRfS_M")]
)
def test_the_superblock_is_where_the_kernel_looks_for_it(fs: str, at: int, magic: bytes) -> None:
    target = _plain(fs)
    assert isinstance(target.disk, PlainDisk)
    ((offset, length),) = extents_of(Superblock(), target)
    assert target.disk.image.read(offset, length)[at:].startswith(magic)


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_a_write_to_the_journal_is_told_from_one_to_the_superblock(fs: str) -> None:
    """A new file goes to the journal with its fsync; the superblock is written with the unmount."""

    def body() -> list[int]:
        with Rig(*base_of(fs)) as rig:
            told = []
            for text in ("eio@journal", "eio@superblock"):
                fault = parse_fault(text.replace("eio", "drop"))
                fault.inject(rig.target)
                rig.do(durable(f"new {text}"))
                told.append(fault.hits(rig.target))
                if text.endswith("superblock"):
                    rig.unmount()
                    told.append(fault.hits(rig.target))
                fault.heal(rig.target)
            return told

    assert apart(body) == [1, 0, 1]


def test_a_files_blocks_are_those_that_it_has_now_and_its_dirty_pages_get_some_first() -> None:
    def body() -> list[object]:
        with Rig(*base_of("ext4")) as rig:
            fault = parse_fault("drop@file:new,count=0")
            with pytest.raises(Misuse, match="new, which is not on the volume"):
                fault.inject(rig.target)
            rig.do(lambda hand: hand.open("new"))
            with pytest.raises(Misuse, match="no blocks of its own"):
                fault.inject(rig.target)
            rig.do(overwrite("new", b"a", 2))  # delayed allocation: FIEMAP alone would show no place
            fault.inject(rig.target)
            rig.do(durable("new", b"b", 2))
            hits = fault.hits(rig.target)
            rig.do(lambda hand: os.pwrite(hand.open("new"), b"c" * 4 * BLOCK, 2 * BLOCK) and fsync("new")(hand))
            told = [hits, fault.hits(rig.target)]
            fault.heal(rig.target)
            return [*told, rig.recovered()["new"]]

    assert apart(body) == [1, 1, "aacccc"]


def test_an_append_can_be_addressed_by_file_once_its_blocks_are_reserved() -> None:
    def reserve(hand: Hand) -> None:
        fallocate(hand.open("log"), 1, 0, 8 * BLOCK)  # FALLOC_FL_KEEP_SIZE

    def body() -> tuple[int, Flag]:
        with Rig(*base_of("ext4")) as rig:
            rig.do(reserve)
            with open(f"{rig.root}/log", "rb") as file:
                (extent,) = file_extents(file.fileno())
            fault = parse_fault("eio@file:log")
            fault.inject(rig.target)
            with pytest.raises(OSError):
                rig.do(durable("log"))
            return fault.hits(rig.target), extent.flags & Flag.UNWRITTEN

    assert apart(body) == (1, Flag.UNWRITTEN)


def test_fiemap_finds_more_extents_than_fit_in_one_answer() -> None:
    pieces = 600

    def scatter(hand: Hand) -> None:
        fd = hand.open("holes")
        for piece in range(pieces):
            os.pwrite(fd, b"x" * BLOCK, 2 * piece * BLOCK)
        os.fsync(fd)

    def body() -> tuple[int, bool]:
        with Rig(*base_of("ext4")) as rig:
            rig.do(scatter)
            with open(f"{rig.root}/holes", "rb") as file:
                found = file_extents(file.fileno())
            rig.unmount()
            medium = rig.disk.medium()
            right = all(medium.read(extent.physical, BLOCK) == b"x" * BLOCK for extent in found if extent.placed)
            return len({extent.logical for extent in found}), right

    assert apart(body) == (pieces, True)


def _nothing(_: Hand) -> None:
    """A step that is its mark alone."""


class _Raw:
    """Four threads write block after block to a served disk without a file system, until it fails them."""

    def __init__(self, disk: ServedDisk) -> None:
        fd = os.open(disk.attached.path, os.O_RDWR | os.O_DSYNC)
        errors: list[int] = []

        def write(number: int) -> None:
            try:
                for block in range(number, 400, 4):
                    os.pwrite(fd, bytes([number + 1]) * BLOCK, block * BLOCK)
            except OSError as error:
                errors.append(error.errno or 0)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(fd)
        self.errors = errors


@pytest.mark.parametrize(
    ("fault", "writes"),
    [
        ("remove@write:10", 9),
        ("capacity@write:10", 9),
        ("engine-kill@write:10", 9),
        ("engine-kill@write:10,done=yes", 10),
        ("remove", 0),
        ("read-only", 0),
        ("eio@write:10,count=0", 9),
    ],
)
def test_nothing_is_on_the_medium_from_that_very_write_on(fault: str, writes: int) -> None:
    def body() -> tuple[int, int, int]:
        spec, base = base_of("ext4")
        with ServedDisk(spec, base, label="raw") as disk:
            disk.attach()
            target = Target(disk=disk)
            wanted = parse_fault(fault)
            wanted.inject(target)
            raw = _Raw(disk)
            assert wanted.await_hit(target, SECONDS)
            wanted.heal(target)
            return _changes(disk.log(), 0), len(raw.errors), wanted.hits(target) > 0

    assert apart(body) == (writes, 4, True)


@pytest.mark.parametrize("fault", ["remove@op:3", "capacity@op:3", "force-detach@op:3"])
def test_nothing_is_written_from_the_operation_on_at_which_the_device_goes(fault: str) -> None:
    """Another thread writes all the time; the operation itself goes on when the deed is done."""

    def body() -> tuple[int, bool]:
        with Rig(*base_of("ext4")) as rig, rig.writer([_nothing] * 4) as writer:
            wanted = parse_fault(fault)
            wanted.inject(rig.target)
            fd = os.open(f"{rig.root}/data.bin", os.O_RDWR)
            busy = threading.Thread(target=_write_until_it_fails, args=(fd,))
            busy.start()
            writer.go()
            assert wanted.await_hit(rig.target, SECONDS)
            assert writer.wait()
            busy.join()
            os.close(fd)
            log = rig.engine.parsed()
            wanted.heal(rig.target)
            due, begun = log.find(b"fault: 0 is due"), log.find(b"op:begin 3")
            assert due is not None and begun is not None
            return _changes(log, due), due <= begun

    assert apart(body) == (0, True)


def _changes(log: BlockLog, since: int) -> int:
    """Writes and discards among the events from that one on."""
    return sum(event.kind in (Kind.WRITE, Kind.DISCARD) for event in log.events[since:])


def _write_until_it_fails(fd: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            os.pwrite(fd, b"n" * BLOCK, 0)
            os.fsync(fd)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("eio@range:63M+1M", ""),
        ("eio@range:64M+4K", "past the end of the device"),
        ("remove@range:63M+2M", "past the end of the device"),
        ("misdirect@write:1,shift=32M", "past the end of the device"),
        ("misdirect@write:1,shift=1", "cannot go 1 bytes astray"),
        ("capacity,size=65M", "past the end of the device"),
    ],
)
def test_an_address_past_the_end_is_misuse_when_it_is_armed(fault: str, why: str) -> None:
    def body() -> str:
        with Rig(*base_of("ext4")) as rig:
            try:
                parse_fault(fault).inject(rig.target)
            except Misuse as refused:
                return refused.cause
            return ""

    assert why in apart(body) if why else apart(body) == ""

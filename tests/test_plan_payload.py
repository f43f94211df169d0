"""What a plan writes says of itself which file, version and place it is, and the reader believes nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.payload import SECTOR, Identity, Kind, identify, payload

inodes = st.integers(1, 2**64 - 1)
versions = st.integers(0, 10**6)
offsets = st.integers(0, 1 << 40)


@given(inodes, versions, offsets, st.integers(1, 5000), st.data())
def test_any_write_is_a_slice_of_one_stream(
    inode: int, version: int, offset: int, length: int, data: st.DataObject
) -> None:
    whole = payload(inode, version, offset, length)
    cut = data.draw(st.integers(0, length))
    parts = payload(inode, version, offset, cut), payload(inode, version, offset + cut, length - cut)
    assert len(whole) == length and b"".join(parts) == whole
    assert b"\0" not in whole and whole.isascii()


@given(inodes, versions, st.integers(0, 1 << 31).map(lambda number: number * SECTOR))
def test_a_sector_names_its_file_version_and_place(inode: int, version: int, offset: int) -> None:
    found = identify(payload(inode, version, offset, SECTOR))
    assert found == Identity(Kind.WHOLE, inode, version, offset)
    assert found.phrase == f"version {version} of file {inode} at byte {offset}"


def test_a_record_is_readable_and_pinned() -> None:
    lines = payload(12, 3, 4096, SECTOR).decode().splitlines()
    assert lines[:-1] == ["file 12 version 3 at 4096 ".ljust(63, ".")] * 7
    assert lines[-1] == "file 12 version 3 at 4096 .....................e78038fa876dfc32"


@given(st.integers(1, SECTOR - 1))
def test_the_short_end_of_a_file_is_identified_as_far_as_it_goes(length: int) -> None:
    text = payload(12, 3, 4096, length)
    found = identify(text)
    if length >= len("file 12 version 3 at 4096 "):
        assert found[:4] == (Kind.WHOLE, 12, 3, 4096)
    else:
        assert found.kind is Kind.TORN
        assert found.phrase == f"torn: a record, cut off: {text.decode()!r} ({length} bytes)"


@given(st.integers(0, SECTOR - 1), st.integers(0, 255))
def test_no_byte_can_change_unnoticed(at: int, byte: int) -> None:
    sector = bytearray(payload(12, 3, 4096, SECTOR))
    changed = sector[at] != byte
    sector[at] = byte
    assert (identify(bytes(sector)).kind is Kind.WHOLE) is not changed


@given(st.integers(0, SECTOR))
def test_zeros_are_zeros_however_many(length: int) -> None:
    assert identify(bytes(length)).phrase == "zeros"


@given(st.integers(30, SECTOR - 80))
def test_a_torn_sector_names_both_its_parts(cut: int) -> None:
    found = identify(payload(12, 3, 4096, cut) + payload(7, 5, 512 + cut, SECTOR - cut))
    assert found[:4] == (Kind.TORN, 12, 3, 4096)
    assert [part.phrase for part in found.parts] == [
        "version 3 of file 12 at byte 4096",
        "version 5 of file 7 at byte 512",
    ]
    # Where the records agree on the bytes beside the cut, the first is given them.
    assert found.parts[0].length >= cut and sum(part.length for part in found.parts) == SECTOR


@pytest.mark.parametrize(
    ("sector", "kind", "phrase"),
    [
        (bytes(100) + payload(1, 2, 100, 412), Kind.TORN, "torn: zeros (100 bytes), then version 2 of file 1 at"),
        (
            payload(1, 2, 0, 100) + bytes(412),
            Kind.TORN,
            "version 2 of file 1 at byte 0 (100 bytes), then zeros (412 bytes)",
        ),
        (payload(1, 2, 0, 100) + b"a" * 412, Kind.TORN, "at byte 0 (100 bytes), then 'a' repeated (412 bytes)"),
        (
            payload(1, 2, 0, 200) + b"!?" * 50 + payload(1, 3, 300, 212),
            Kind.TORN,
            "then bytes that no plan describes: '!?!?",
        ),
        (b"file 12\0\0\0", Kind.TORN, "torn: a record, cut off: 'file 12' (7 bytes), then zeros (3 bytes)"),
        (b"a" * SECTOR, Kind.GARBAGE, "'a' repeated"),
        (b"\x01\x02" * 256, Kind.GARBAGE, r"bytes that no plan describes: '\x01\x02"),
        (b"file 1 version 2 at 0 but not one of ours".ljust(SECTOR, b"!"), Kind.TORN, "version 2 of file 1 at byte 0"),
        (b"file 01 version 2 at 0 ".ljust(SECTOR, b"?"), Kind.GARBAGE, "bytes that no plan describes"),
        (bytes(511) + b"x", Kind.GARBAGE, "bytes that no plan describes"),
    ],
)
def test_mixtures_are_told_apart(sector: bytes, kind: Kind, phrase: str) -> None:
    found = identify(sector)
    assert found.kind is kind
    assert phrase in found.phrase


@given(st.binary(max_size=SECTOR))
def test_any_bytes_get_a_phrase(sector: bytes) -> None:
    found = identify(sector)
    assert found.phrase
    assert sum(part.length for part in found.parts) in (0, len(sector))

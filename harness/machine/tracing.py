"""Which blocks of a device were written, told by the kernel's own tracepoint `block:block_bio_queue`.

Judging restores a scratch device after each state. Only the kernel knows which blocks the recovery, the check and the
unmount wrote; with this trace the next restore writes those back and no others. The events belong to a perf descriptor,
so nothing is left in tracefs when the process dies. Sources: perf_event_open(2), include/trace/events/block.h.
"""

import ctypes
import mmap
import os
import re
import struct
from typing import NamedTuple

from harness.machine import syscalls
from harness.machine.mounts import Workspace

_SYS_BY_MACHINE = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_PERF_TYPE_TRACEPOINT = 2
_PERF_SAMPLE_RAW = 1 << 10
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_SET_FILTER = 0x40082406
_PERF_RECORD_SAMPLE = 9
_ATTR_SIZE = 112

_PAGE = 4096
_DATA_BYTES = 64 * _PAGE
_HEAD_AT = 1024  # offsets of data_head and data_tail in struct perf_event_mmap_page
_TAIL_AT = 1032
_RECORD = struct.Struct("<IHH")
_RAW_AT = 8 + 4  # record header, then the u32 size of the raw data
_U64 = struct.Struct("<Q")

_TRACEFS_HOMES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_EVENT = "events/block/block_bio_queue"


class Tracepoint(NamedTuple):
    """Where `block_bio_queue` lives in this kernel: its id and the offsets of the fields that we read."""

    id: int
    sector_at: int
    length_at: int


def find_tracepoint(workspace: Workspace) -> Tracepoint | None:
    """Look the tracepoint up, mounting tracefs privately where the host has not. None where the kernel lacks it."""
    for home in (*_TRACEFS_HOMES, _mount_tracefs(workspace)):
        if home and os.path.exists(f"{home}/{_EVENT}/format"):
            with open(f"{home}/{_EVENT}/format") as file:
                return _parse_format(file.read())
    return None


def _mount_tracefs(workspace: Workspace) -> str:
    target = workspace.path("tracing")
    try:
        os.makedirs(target, exist_ok=True)
        if not os.path.ismount(target):
            syscalls.mount("none", target, "tracefs")
    except OSError:
        return ""
    return target


def _parse_format(text: str) -> Tracepoint | None:
    number = re.search(r"^ID: (\d+)", text, re.M)
    sector = re.search(r"\bsector;\s+offset:(\d+);\s+size:8", text)
    length = re.search(r"\bnr_sector;\s+offset:(\d+);\s+size:4", text)
    if not (number and sector and length):
        return None
    return Tracepoint(int(number[1]), int(sector[1]), int(length[1]))


class WriteTrace:
    """Records every write, discard and zeroing that reaches one block device, from any process of this machine."""

    def __init__(self, point: Tracepoint, device: int) -> None:
        """`device` is st_rdev. Raises OSError where perf events are refused (perf_event_paranoid, a container)."""
        self._point = point
        self._rings: list[tuple[int, mmap.mmap]] = []
        try:
            for cpu in _online_cpus():
                self._rings.append(_open_ring(point, device, cpu))
        except OSError:
            self.close()
            raise

    def drain(self) -> list[tuple[int, int]] | None:
        """(offset, length) in bytes of all that was written since the last call; None if events may be lost."""
        written: list[tuple[int, int]] | None = []
        for _, ring in self._rings:
            part = self._drain_ring(ring)
            written = None if part is None or written is None else written + part
        return written

    def _drain_ring(self, ring: mmap.mmap) -> list[tuple[int, int]] | None:
        head = _U64.unpack_from(ring, _HEAD_AT)[0]
        tail = _U64.unpack_from(ring, _TAIL_AT)[0]
        if head == tail:
            return []
        data = _ring_bytes(ring, tail, head)
        _U64.pack_into(ring, _TAIL_AT, head)
        # The kernel drops a record only when the ring has no room for it, and says so only with the next one.
        return None if len(data) > _DATA_BYTES - _PAGE else self._parse(data)

    def _parse(self, data: bytes) -> list[tuple[int, int]] | None:
        written = []
        at = 0
        while at < len(data):
            kind, _, size = _RECORD.unpack_from(data, at)
            if kind != _PERF_RECORD_SAMPLE:
                return None
            raw = at + _RAW_AT
            sector = int.from_bytes(data[raw + self._point.sector_at : raw + self._point.sector_at + 8], "little")
            count = int.from_bytes(data[raw + self._point.length_at : raw + self._point.length_at + 4], "little")
            if count:
                written.append((sector * 512, count * 512))
            at += size
        return written

    def close(self) -> None:
        for fd, ring in self._rings:
            ring.close()
            os.close(fd)
        self._rings.clear()


def _ring_bytes(ring: mmap.mmap, tail: int, head: int) -> bytes:
    length = head - tail
    start = tail % _DATA_BYTES
    first = ring[_PAGE + start : _PAGE + min(start + length, _DATA_BYTES)]
    return first if len(first) == length else first + ring[_PAGE : _PAGE + length - len(first)]


def _open_ring(point: Tracepoint, device: int, cpu: int) -> tuple[int, mmap.mmap]:
    attributes = struct.pack("<IIQQQQ", _PERF_TYPE_TRACEPOINT, _ATTR_SIZE, point.id, 1, _PERF_SAMPLE_RAW, 0)
    buffer = ctypes.create_string_buffer(attributes.ljust(_ATTR_SIZE, b"\0"), _ATTR_SIZE)
    fd = syscalls.call(_perf_number(), buffer, -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    try:
        # Inside the kernel a device number is major << 20 | minor, which is what the event holds.
        number = os.major(device) << 20 | os.minor(device)
        expression = ctypes.create_string_buffer(f'dev == {number} && !(rwbs ~ "R*")'.encode())
        syscalls.ioctl_pointer(fd, _PERF_EVENT_IOC_SET_FILTER, expression)
        return fd, mmap.mmap(fd, _PAGE + _DATA_BYTES)
    except OSError:
        os.close(fd)
        raise


def _perf_number() -> int:
    try:
        return _SYS_BY_MACHINE[os.uname().machine]
    except KeyError:
        raise OSError(38, "perf_event_open(2) has no known number on this kind of machine") from None


def _online_cpus() -> list[int]:
    with open("/sys/devices/system/cpu/online") as file:
        cpus: list[int] = []
        for part in file.read().strip().split(","):
            first, _, last = part.partition("-")
            cpus += range(int(first), int(last or first) + 1)
        return cpus

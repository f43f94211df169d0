"""System calls of a program, seen before the kernel runs them: let go on, or answered in the kernel's place.

A seccomp filter picks the calls that change or sync files; for these the kernel makes the program wait until a
supervisor has answered (SECCOMP_RET_USER_NOTIF). The program, its children and its threads are all seen; nothing of
them is changed. What is not seen: stores into a shared mapping, and what io_uring does for the program.

The filter belongs to a *thread* and is inherited by what that thread starts. So pid 1 installs it in a short-lived
thread of its own that then spawns the program: pid 1 itself stays free, and holds the listener without any hand-over.

Sources: seccomp(2), seccomp_unotify(2), include/uapi/linux/seccomp.h, include/uapi/linux/audit.h, bpf(4)-style filters
as in Documentation/userspace-api/seccomp_filter.rst. Numbers of calls: the kernel's unistd tables.
"""

import ctypes
import errno
import fcntl
import os
import select
import struct
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from harness.closing import Closing
from harness.errors import Missing, RequirementMissing
from harness.machine import syscalls


class Machine(NamedTuple):
    """What a kind of processor calls itself in seccomp_data, and how it numbers the calls that are watched."""

    audit_arch: int
    seccomp: int
    numbers: Mapping[str, int]


_X86_64 = {
    "write": 1, "open": 2, "mmap": 9, "pwrite64": 18, "writev": 20, "msync": 26, "sendfile": 40, "exit": 60,
    "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "mknod": 133, "sync": 162, "exit_group": 231,
    "openat": 257, "mkdirat": 258, "mknodat": 259, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266,
    "splice": 275, "sync_file_range": 277, "fallocate": 285, "pwritev": 296, "syncfs": 306, "renameat2": 316,
    "copy_file_range": 326, "pwritev2": 328, "io_uring_setup": 425, "openat2": 437,
}  # fmt: skip
_AARCH64 = {
    "mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38, "truncate": 45,
    "ftruncate": 46, "fallocate": 47, "openat": 56, "write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70,
    "sendfile": 71, "splice": 76, "sync": 81, "fsync": 82, "fdatasync": 83, "sync_file_range": 84, "exit": 93,
    "exit_group": 94, "mmap": 222, "msync": 227, "syncfs": 267, "renameat2": 276, "copy_file_range": 285,
    "pwritev2": 287, "io_uring_setup": 425, "openat2": 437,
}  # fmt: skip
_MACHINES = {
    "x86_64": Machine(0xC000003E, 317, _X86_64),
    "aarch64": Machine(0xC00000B7, 277, _AARCH64),
}

_X32_BIT = 0x40000000
"""Calls of the x32 ABI have it in their number: another architecture in all but name."""

# BPF instructions, and where struct seccomp_data keeps what they load (all little endian here).
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000

_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5
_CONTINUE = 1

_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_ID_VALID = 0x40082102
_SET_FLAGS = 0x40082104
_SYNC_WAKE_UP = 1

_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_RESPONSE = struct.Struct("<QqiI")
FOREIGN = "foreign"


class Notification(NamedTuple):
    """A call that waits for its answer. `thread` as our PID namespace numbers it; `name` is `foreign` for another ABI.

    `arguments` are the six registers, unsigned.
    """

    id: int
    thread: int
    number: int
    name: str
    arguments: tuple[int, ...]


Answer = int | None
"""None: the kernel goes on with the call. Else what the call returns, without having been made."""

Handler = Callable[[Notification], Answer]


def machine() -> Machine:
    """The processor that we run on. Raises RequirementMissing where its calls have no known numbers."""
    name = os.uname().machine
    if name not in _MACHINES:
        known = " and ".join(_MACHINES)
        why = f"a program's calls are seen by their numbers, known here for {known}, not for {name}"
        raise RequirementMissing([Missing("system call numbers", why, f"run it on {known}")])
    return _MACHINES[name]


def signed(argument: int) -> int:
    """A register as the C int that the call takes: a descriptor, AT_FDCWD."""
    return (argument & 0xFFFFFFFF) - ((argument & 0x80000000) << 1)


def _filter(known: Machine) -> bytes:
    """The filter: only what changes or syncs files is handed to the supervisor, so all else keeps its speed."""
    program = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 1, 0, known.audit_arch),
        (_RETURN, 0, 0, _NOTIFY),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _NOTIFY),
    ]
    for name, number in known.numbers.items():
        tests = _tests(name)
        program.append((_JUMP_EQUAL, 0, 2 * len(tests) + (2 if tests else 1), number))
        for left, (argument, mask) in zip(range(len(tests) - 1, -1, -1), tests, strict=True):
            program.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument))
            program.append((_JUMP_SET, 0, 2 * left + 1, mask))
        program.append((_RETURN, 0, 0, _NOTIFY))
        if tests:
            program.append((_RETURN, 0, 0, _ALLOW))
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *step) for step in program)


def _tests(name: str) -> tuple[tuple[int, int], ...]:
    """(argument, bits of which one must be set): for calls that are made often and matter seldom."""
    makes = os.O_CREAT | os.O_TRUNC
    shared, writable = 1, 2  # MAP_SHARED and MAP_SHARED_VALIDATE have bit 0; PROT_WRITE
    return {"open": ((1, makes),), "openat": ((2, makes),), "mmap": ((2, writable), (3, shared))}.get(name, ())


def _install(known: Machine) -> int:
    """Put the filter on the calling thread; returns the listener's descriptor. Raises OSError as seccomp(2)."""
    code = _filter(known)
    steps = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(steps)))
    try:
        # The program's own signals must not take a call back that we have begun to answer (since Linux 5.19).
        return syscalls.call(known.seccomp, _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, program)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return syscalls.call(known.seccomp, _SET_MODE_FILTER, _NEW_LISTENER, program)


class Supervisor(Closing):
    """Runs programs whose calls are put to `handler` first, in a thread of this process; only for pid 1 of a namespace.

    `spawn` is posix_spawn(3) with the filter on. `trouble` keeps the traceback of the first exception of the handler:
    the call that it failed on goes on as if nobody had looked. Close it when the programs are gone.
    """

    def __init__(self, handler: Handler) -> None:
        self.trouble = ""
        self._handler = handler
        self._machine = machine()
        self._names = {number: name for name, number in self._machine.numbers.items()}
        self._listener = -1
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._serving: threading.Thread | None = None

    @property
    def watching(self) -> bool:
        """Whether the filter could be installed."""
        return self._listener >= 0

    def spawn(self, path: str, argv: Any, env: Any, **how: Any) -> int:
        """As os.posix_spawn. Raises OSError as that or seccomp(2): EBUSY where someone else supervises us already."""
        result: list[int | BaseException] = []

        def life() -> None:
            try:
                self._listener = _install(self._machine)
                with_listener.set()
                result.append(os.posix_spawn(path, argv, env, **how))
            except BaseException as error:
                result.append(error)
            finally:
                with_listener.set()

        with_listener = threading.Event()
        spawner = threading.Thread(target=life, name="spawner")
        spawner.start()
        with_listener.wait()
        if self._listener >= 0:
            self._serving = threading.Thread(target=self._serve, name="supervisor")
            self._serving.start()
        spawner.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def close(self) -> None:
        """Stop answering. A program that is still there gets ENOSYS for every call that would have been put to us."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        if self._serving:
            self._serving.join()
        if self._listener >= 0:
            os.close(self._listener)
        os.close(self._stop)
        self._listener = self._stop = -1

    def _serve(self) -> None:
        request = bytearray(_NOTIFICATION.size)
        empty = bytes(_NOTIFICATION.size)
        # One processor for both sides: the program sleeps while we work (since Linux 6.6).
        _try_ioctl(self._listener, _SET_FLAGS, _SYNC_WAKE_UP)
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        while True:
            for fd, event in poller.poll():
                # POLLHUP: nobody is left who has the filter.
                if fd == self._stop or not event & select.POLLIN:
                    return
            request[:] = empty
            try:
                fcntl.ioctl(self._listener, _RECEIVE, request, True)
            except OSError:  # ENOENT: the caller was killed meanwhile
                continue
            self._respond(request)

    def _respond(self, request: bytearray) -> None:
        identity, thread, _, number, arch, _, *arguments = _NOTIFICATION.unpack(request)
        native = arch == self._machine.audit_arch
        name = self._names.get(number, FOREIGN) if native else FOREIGN
        answer: Answer = None
        try:
            answer = self._handler(Notification(identity, thread, number, name, tuple(arguments)))
        except Exception:
            self.trouble = self.trouble or traceback.format_exc()
        response = _RESPONSE.pack(identity, answer or 0, 0, _CONTINUE if answer is None else 0)
        try:
            fcntl.ioctl(self._listener, _SEND, response)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.trouble = self.trouble or traceback.format_exc()

    def waits(self, notification: Notification) -> bool:
        """Whether the caller still waits, so that what was read of its memory is its own (NOTIF_ID_VALID)."""
        return _try_ioctl(self._listener, _ID_VALID, notification.id, by_pointer=True)


def _try_ioctl(fd: int, request: int, argument: int, *, by_pointer: bool = False) -> bool:
    try:
        fcntl.ioctl(fd, request, struct.pack("<Q", argument) if by_pointer else argument)
        return True
    except OSError:
        return False

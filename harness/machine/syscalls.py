"""System calls that Python 3.11 has no function for. Each raises OSError with the kernel's errno, as os functions do.

Sources: mount(2), umount2(2), unshare(2), setns(2), prctl(2), close_range(2), linkat(2), perf_event_open(2).
"""

import ctypes
import os
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19

MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _checked(result: int, *about: str | None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *about[:1])
    return result


def mount(source: str, target: str, fs_type: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2). `options` are the file system's own (data=journal), never the generic flags (noatime)."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fs_type.encode() if fs_type else None,
        flags,
        options.encode() if options else None,
    )
    _checked(result, target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). EBUSY while something in this mount namespace still holds the mount."""
    _checked(_libc.umount2(os.fsencode(target), flags), target)


def unshare(flags: int) -> None:
    """unshare(2): move this process (CLONE_NEWNS) or its future children (CLONE_NEWPID) to new namespaces."""
    _checked(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """setns(2): enter the namespace that `fd` (from /proc/PID/ns) refers to."""
    _checked(_libc.setns(fd, kind))


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """PR_SET_PDEATHSIG: the kernel sends `sig` to this process when the thread that forked it ends.

    A parent that was gone before the call is not noticed by the kernel, so compare getppid() afterwards.
    """
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0))


def set_process_name(name: str) -> None:
    """PR_SET_NAME: what ps and the kernel log call this thread; at most 15 bytes are kept."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _checked(_libc.prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0))


def close_all_except(keep: set[int]) -> None:
    """Close every descriptor but `keep`, by close_range(2) over the gaps (through os.closerange)."""
    start = 0
    for fd in sorted(keep):
        if start < fd:  # os.closerange of an empty range from 0 would close everything
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def call(number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    """syscall(2) by number, for the few that libc has no name for."""
    return _checked(_libc.syscall(number, *arguments))


def ioctl_pointer(fd: int, request: int, argument: ctypes.Array[ctypes.c_char]) -> int:
    """ioctl(2) with a pointer to memory of any length; fcntl.ioctl copies at most 1 KiB."""
    return _checked(_libc.ioctl(fd, ctypes.c_ulong(request), argument))

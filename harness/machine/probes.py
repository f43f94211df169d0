"""Small questions to this machine. Each does the thing itself, and answers None, or what is wrong in a few plain words.

Without CAP_SYS_ADMIN most of them could only answer "permission denied", so they say nothing of what they cannot see:
the want of that capability is reported once, by `privileges`.
"""

import mmap
import os
import sys
import threading
from collections.abc import Callable

from harness.errors import InternalError, RequirementMissing
from harness.machine import kernel, loop, mounts, syscalls, tracing, zram
from harness.machine.image import Image
from harness.machine.mounts import Workspace

Problem = str | None

_CAP_SYS_ADMIN = 21
_MEMORY_MIN = 512 << 20
_PYTHON_MIN = (3, 11)
_PROBE_BYTES = 1 << 20


def linux() -> Problem:
    return None if sys.platform == "linux" else f"this is {sys.platform}"


def python() -> Problem:
    if sys.version_info >= _PYTHON_MIN:
        return None
    return f"this is Python {python_version()}, older than {'.'.join(map(str, _PYTHON_MIN))}"


def python_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def privileges() -> Problem:
    """CAP_SYS_ADMIN in the effective set: what mount(2), unshare(2) and loop devices ask for (capabilities(7))."""
    return None if has_privileges() else f"this process (uid {os.geteuid()}) lacks CAP_SYS_ADMIN"


def has_privileges() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next((line.split()[1] for line in status if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


def namespaces() -> Problem:
    """A mount and a PID namespace of our own, with a mount in it that the host does not see."""
    return _privileged(lambda: in_private_mounts(_new_pid_namespace))


def networks() -> Problem:
    """A host in a network namespace, on a link that is cut and healed: in a thread of its own, and gone with it."""
    return _privileged(lambda: in_private_mounts(_use_network))


def fuse_device() -> Problem:
    return _openable("/dev/fuse", os.O_RDWR)


def fuse() -> Problem:
    return None if kernel.has_file_system("fuse") else "this kernel has no FUSE"


def memfd() -> Problem:
    """Anonymous files carry every image and every log."""

    def write_and_map() -> Problem:
        with Image.create(mmap.PAGESIZE, "probe") as image:
            image.map[0] = 1
            return None if image.read(0, 1) == b"\1" else "what was written to a memfd is not there"

    return _attempt(write_and_map)


def loop_devices() -> Problem:
    """Attach a memfd to a loop device with 4096-byte sectors, write through it, and let it go."""
    if not os.path.exists("/dev/loop-control"):
        return "there is no /dev/loop-control"
    return _privileged(_use_loop_device)


def kernel_log() -> Problem:
    return _openable("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)


def zram_devices() -> Problem:
    if not os.path.isdir("/sys/class/zram-control"):
        return "this kernel has no zram, or its module is not loaded"
    return None if zram.available() or not has_privileges() else "/sys/class/zram-control cannot be written to"


def tracepoints() -> Problem:
    """perf events for block:block_bio_queue, found in a tracefs that is mounted for the moment and for us alone."""
    return _privileged(lambda: in_private_mounts(_trace))


def memory() -> Problem:
    available = memory_available()
    return None if available >= _MEMORY_MIN else f"only {available >> 20} MiB are available"


def memory_available() -> int:
    """MemAvailable of /proc/meminfo in bytes (proc_meminfo(5)); the limit of a container may be lower."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def file_system(fs_type: str) -> Problem:
    return None if kernel.has_file_system(fs_type) else f"this kernel ({os.uname().release}) has no {fs_type}"


def in_private_mounts(question: Callable[[], Problem]) -> Problem:
    """Ask in a mount namespace that only the asking thread has, and that ends with it. OSError becomes the answer."""
    answers: list[Problem] = []

    def ask() -> None:
        answers.append(_attempt(_enter_then(question)))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers[0]


def _enter_then(question: Callable[[], Problem]) -> Callable[[], Problem]:
    def enter_and_ask() -> Problem:
        mounts.unshare_mounts(syscalls.MS_PRIVATE)
        return question()

    return enter_and_ask


def _new_pid_namespace() -> Problem:
    syscalls.unshare(syscalls.CLONE_NEWPID)
    syscalls.mount("crash-harness", "/proc", "tmpfs")
    return None


def _use_loop_device() -> Problem:
    with Image.create(_PROBE_BYTES, "probe") as image, loop.attach(image.fd) as device:
        os.pwrite(device.fd, b"probe", 0)
        os.fsync(device.fd)
        return None if image.read(0, 5) == b"probe" else "what was written to a loop device did not reach its file"


def _use_network() -> Problem:
    # pyroute2 takes longer to import than all other probes take together.
    from harness.machine.network import Network

    try:
        with Network(hosts=1) as network:
            network.cut(0)
            if network.is_up(0):
                return "a link that was taken down is up"
            network.heal(0)
    except InternalError as error:
        return error.cause
    return None


def _trace() -> Problem:
    point = tracing.find_tracepoint(Workspace("/sys/kernel"))
    if point is None:
        return "this kernel has no tracepoint block:block_bio_queue, or no tracefs"
    tracing.WriteTrace(point, 0).close()
    return None


def _openable(path: str, mode: int) -> Problem:
    if not os.path.exists(path):
        return f"there is no {path}"

    def open_and_close() -> Problem:
        os.close(os.open(path, mode | os.O_CLOEXEC))
        return None

    return _privileged(open_and_close)


def _privileged(question: Callable[[], Problem]) -> Problem:
    return _attempt(question) if has_privileges() else None


def _attempt(question: Callable[[], Problem]) -> Problem:
    try:
        return question()
    except RequirementMissing as error:
        return "; ".join(missing.why for missing in error.missing)
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)

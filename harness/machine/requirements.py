"""What the harness needs of a machine: every need with its reason, whether it is met, and how to meet it."""

import enum
import os
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple

import msgspec

from harness.errors import Missing, RequirementMissing
from harness.machine import kernel_nbd, probes, process
from harness.machine.filesystems import FILE_SYSTEMS, FileSystem, lookup
from harness.machine.fsck import QUICK_E2FSCK
from harness.settings import show_size

EVERYTHING = "everything"

_AS_ROOT = "run it as root: sudo harness …"
_ON_A_HOST = "run it on a host or in a virtual machine, or in a container with --privileged"
_OTHER_KERNEL = "boot a kernel that has it: those of Debian, Ubuntu and Fedora do"
_APT_SECONDS = 600.0
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One need. `check` answers None when it is met, else what is wrong. `detail` tells more about a met one.

    `needed_for` names file systems, or EVERYTHING. An optional one costs speed or evidence when it is missing, no more.
    A `privileged` one can be asked in full by root alone.
    """

    name: str
    why: str
    check: Callable[[], str | None]
    remedy: str
    package: str | None = None
    needed_for: tuple[str, ...] = (EVERYTHING,)
    optional: bool = False
    privileged: bool = False
    detail: Callable[[], str] | None = None


class State(enum.StrEnum):
    """How a requirement stands on this machine. UNKNOWN: only root can tell."""

    OK = "ok"
    MISSING = "missing"
    OPTIONAL_MISSING = "optional-missing"
    UNKNOWN = "unknown"


class Row(NamedTuple):
    """A requirement as `harness doctor` shows it. `detail`: a version, or what is wrong."""

    name: str
    state: State
    detail: str
    why: str
    remedy: str
    package: str | None
    needed_for: tuple[str, ...]


def _machine() -> list[Requirement]:
    return [
        Requirement(
            name="Linux",
            why="loop devices, FUSE and namespaces are Linux's",
            check=probes.linux,
            remedy="run it on Linux, or in a Linux virtual machine",
            detail=lambda: os.uname().release,
        ),
        Requirement(
            name="Python",
            why="the harness is written for Python 3.11 and later",
            check=probes.python,
            remedy="install Python 3.11 or later",
            detail=probes.python_version,
        ),
        Requirement(
            name="root",
            why="volumes are attached and mounted",
            check=probes.privileges,
            remedy=_AS_ROOT,
        ),
        Requirement(
            name="namespaces",
            why="mounts and processes live in namespaces of their own, so that nothing can be left behind",
            check=probes.namespaces,
            privileged=True,
            remedy=_ON_A_HOST,
        ),
        Requirement(
            name="memory",
            why="volumes and logs are held in memory",
            check=probes.memory,
            remedy="free some memory, or give the machine more",
            detail=lambda: f"{show_size(probes.memory_available() >> 20 << 20)} available",
        ),
        Requirement(
            name="memfd",
            why="volumes and logs are anonymous files in memory",
            check=probes.memfd,
            remedy=_OTHER_KERNEL,
        ),
        _program("setpriv", "it makes programs die with the harness"),
    ]


def _devices() -> list[Requirement]:
    return [
        Requirement(
            name="loop devices",
            why="a loop device carries every volume",
            check=probes.loop_devices,
            privileged=True,
            remedy=f"modprobe loop; in a container: {_ON_A_HOST}",
        ),
        Requirement(
            name="/dev/fuse",
            why="the recording engine serves the volume's disk through FUSE",
            check=probes.fuse_device,
            privileged=True,
            remedy=f"modprobe fuse; in a container: {_ON_A_HOST}",
        ),
        Requirement(
            name="FUSE in the kernel",
            why="the recording engine serves the volume's disk through FUSE",
            check=probes.fuse,
            remedy=f"modprobe fuse, or {_OTHER_KERNEL}",
        ),
    ]


def _amenities() -> list[Requirement]:
    return [
        Requirement(
            name="/dev/kmsg",
            why="findings quote what the kernel said about the volume",
            check=probes.kernel_log,
            privileged=True,
            remedy=_ON_A_HOST,
            optional=True,
        ),
        Requirement(
            name="zram",
            why="faster judging: a scratch disk without a worker thread",
            check=probes.zram_devices,
            privileged=True,
            remedy=f"modprobe zram, or {_OTHER_KERNEL}",
            optional=True,
        ),
        Requirement(
            name="block tracepoints",
            why="faster judging: only what was written is restored",
            check=probes.tracepoints,
            privileged=True,
            remedy=f"{_OTHER_KERNEL} (CONFIG_BLK_DEV_IO_TRACE or CONFIG_FTRACE); in a container: {_ON_A_HOST}",
            optional=True,
        ),
        Requirement(
            name=QUICK_E2FSCK,
            why="faster judging: an e2fsck that loads no libraries",
            check=lambda: None if process.find(QUICK_E2FSCK) else "not installed",
            remedy=process.missing_program(QUICK_E2FSCK, "").remedy,
            package=process.PACKAGES[QUICK_E2FSCK],
            needed_for=("ext4", "ext3", "ext2"),
            optional=True,
        ),
        Requirement(
            name="btrfs temp_fsid",
            why="faster judging: several copies of one btrfs mounted at once",
            check=_check_temp_fsid,
            remedy="boot Linux 6.7 or later",
            needed_for=("btrfs",),
            optional=True,
        ),
    ]


def _connections() -> list[Requirement]:
    return [
        Requirement(
            name="network namespaces",
            why="live trials of several hosts: each in a network namespace, on a link that can be cut",
            check=probes.networks,
            privileged=True,
            remedy=f"modprobe veth, or {_OTHER_KERNEL}; in a container: {_ON_A_HOST}",
            optional=True,
        ),
        Requirement(
            name="kernel NBD",
            why="an engine that speaks NBD becomes a block device without the harness's own bridge",
            check=kernel_nbd.problem,
            privileged=True,
            remedy=kernel_nbd.REMEDY,
            optional=True,
        ),
    ]


def _check_temp_fsid() -> str | None:
    return None if FILE_SYSTEMS["btrfs"].concurrent_copies else "one worker will judge alone"


def _in_kernel(fs: FileSystem) -> Requirement:
    return Requirement(
        name=f"{fs.name} in the kernel",
        why=f"the kernel itself recovers each {fs.name} volume",
        check=partial(probes.file_system, fs.fs_type),
        remedy=f"{_OTHER_KERNEL}, or choose another file system",
        needed_for=(fs.name,),
    )


def _programs() -> list[Requirement]:
    """Each mkfs and fsck once, with all file systems that need it."""
    users: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for fs in FILE_SYSTEMS.values():
        for program, reason in ((fs.mkfs_program, "it makes the volume"), (fs.fsck_program, "it checks the volume")):
            users[program] = (*users.get(program, ()), fs.name)
            reasons[program] = reason
    return [_program(program, reasons[program], users[program]) for program in users]


def _program(program: str, why: str, needed_for: tuple[str, ...] = (EVERYTHING,)) -> Requirement:
    missing = process.missing_program(program, why)
    return Requirement(
        name=program,
        why=why,
        check=lambda: None if process.find(program) else f"{program} is not installed",
        remedy=missing.remedy,
        package=process.PACKAGES.get(program),
        needed_for=needed_for,
        detail=partial(version_of, program),
    )


@cache
def version_of(program: str) -> str:
    """What the program calls its version; e2fsprogs and xfsprogs know only -V, and mke2fs fails after it."""
    flag = "-V" if program.startswith(("mkfs.", "e2fsck", "xfs_")) else "--version"
    words = process.run([program, flag], timeout=10, ok=range(-64, 256)).output.decode(errors="replace").split("\n")
    return words[0].strip()


REQUIREMENTS: tuple[Requirement, ...] = (
    *_machine(),
    *_devices(),
    *(_in_kernel(fs) for fs in FILE_SYSTEMS.values()),
    *_programs(),
    *_amenities(),
    *_connections(),
)


def check(fs: str) -> list[Missing]:
    """Everything that work on `fs` needs and this machine lacks, nothing optional.

    Without privileges that want is named, with whatever else shows without them. Raises Misuse for an unknown `fs`.
    """
    wanted = {EVERYTHING, lookup(fs).name}
    relevant = (need for need in REQUIREMENTS if not need.optional and wanted.intersection(need.needed_for))
    wrong = ((need, need.check()) for need in relevant)
    return [Missing(need.name, f"{problem}; {need.why}", need.remedy) for need, problem in wrong if problem]


def require(fs: str) -> None:
    """Raises RequirementMissing with everything that `check` finds."""
    missing = check(fs)
    if missing:
        raise RequirementMissing(missing)


def doctor() -> list[Row]:
    """Every requirement and how it stands, in the order in which they build on one another."""
    return [_row(need, need.check()) for need in REQUIREMENTS]


def _row(need: Requirement, problem: str | None) -> Row:
    if problem:
        state = State.OPTIONAL_MISSING if need.optional else State.MISSING
    elif need.privileged and not probes.has_privileges():
        state, problem = State.UNKNOWN, "only root can tell"
    else:
        state = State.OK
    detail = problem or (need.detail() if need.detail else "")
    return Row(need.name, state, detail, need.why, need.remedy, need.package, need.needed_for)


def install(rows: Iterable[Row]) -> list[str]:
    """Install the Debian packages of what is missing in `rows`, and return their names.

    Raises RequirementMissing where there is no apt-get or we are not root, ProgramFailed with apt-get's own words.
    """
    packages = sorted(
        {row.package for row in rows if row.state in (State.MISSING, State.OPTIONAL_MISSING) and row.package}
    )
    if not packages:
        return []
    wanted = " ".join(packages)
    if process.find("apt-get") is None:
        why = f"packages are installed with it; wanted: {wanted}"
        raise RequirementMissing([Missing("apt-get", why, f"install them with this system's own tool: {wanted}")])
    if os.geteuid() != 0:
        raise RequirementMissing([Missing("root", f"apt-get install {wanted}", "sudo harness doctor --install")])
    env = {"DEBIAN_FRONTEND": "noninteractive", **{name: os.environ[name] for name in _PROXIES if name in os.environ}}
    process.run(["apt-get", "update", "-q"], timeout=_APT_SECONDS, env=env)
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--no-upgrade", *packages]
    process.run(command, timeout=_APT_SECONDS, env=env)
    return packages

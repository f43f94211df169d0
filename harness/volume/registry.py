"""What this machine has of our volumes: devices by their ownership mark, journals by their content; and the broom.

A device or a journal belongs to the process that its mark names. The broom takes what belongs to a dead one, and
nothing that has no mark of ours: so two runs at once do not disturb each other.
"""

import contextlib
import fcntl
import glob
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec
import psutil

from harness.errors import BadJournal, HarnessError, InternalError, Misuse, TrialUnknown
from harness.machine import loop, owners, syscalls
from harness.machine.hanging import Call
from harness.machine.holders import Holder, How, holders
from harness.machine.owners import Census, Life
from harness.machine.sandbox import spawn_init
from harness.volume import journal
from harness.volume.states import Record

STATE_FOLDER = "/run/crash-harness"
"""Looked into where it exists, without being asked to."""

_KEEPER = "harness-zram"
_UNMOUNT_SECONDS = 10.0
_RELEASE_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.005


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A bound loop device with our mark. `capacity` in bytes; `removed`: it was taken away. `owner_pid`: 0 if dead."""

    path: str
    label: str
    backing: str
    capacity: int
    removed: bool
    owner: Life
    owner_pid: int
    holders: tuple[Holder, ...]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A journal. `open_in`: the pid of the process that has it open, or 0; `damage`: why it cannot be read."""

    path: str
    owner: Life
    open_in: int = 0
    last: Record | None = None
    damage: str = ""


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What the broom met. `left`: why it is still there; `ours`: it should be gone."""

    what: str
    name: str
    left: str = ""
    ours: bool = True


def devices() -> list[Device]:
    """All loop devices with our mark. Nothing is asked of a live run's devices that could be in its way."""
    census = Census()
    found = []
    for status in _bound():
        life = _life(census, status.owner)
        with contextlib.suppress(OSError):  # it went away
            found.append(
                Device(
                    path=status.path,
                    label=status.label,
                    backing=_attribute(status.path, "loop/backing_file"),
                    capacity=int(_attribute(status.path, "size") or 0) * 512,
                    removed=status.removed,
                    owner=life,
                    owner_pid=census.pid(status.owner) if status.owner else 0,
                    holders=tuple(holders(status.path, probe=life is Life.DEAD)),
                )
            )
    return found


def journals(folders: Iterable[str]) -> list[Kept]:
    """The journals in these folders, and in STATE_FOLDER. Raises Misuse for a folder that is not there."""
    census = Census()
    return [_kept(path, census) for path in _paths(folders)]


def sweep(folders: Iterable[str], *, dry_run: bool) -> list[Swept]:
    """Clear the devices and journals of dead owners. Raises Misuse as `journals` does."""
    census = Census()
    kept = [_kept(path, census) for path in _paths(folders)]
    found = [_sweep_device(status, census, dry_run) for status in _bound()]
    found += [_sweep_journal(one, dry_run) for one in kept]
    return [one for one in found if one is not None] + list(_zram())


def _bound() -> list[loop.Status]:
    """Raises TrialUnknown where a device does not answer (loop.bound): this process would hang with it."""
    found: list[loop.Status] = []
    if not Call(lambda: found.extend(loop.bound())).is_over(_ANSWER_SECONDS):
        cause = "a loop device does not answer: its capacity is being changed above an engine that hangs"
        raise TrialUnknown(cause, "end that run, then ask again: ps -eo pid,stat,wchan:30,cmd")
    return found


def _life(census: Census, owner: owners.Owner | None) -> Life:
    """Of what was seen after the census its owner may have begun in between: who seems dead is asked for again."""
    if owner is None:
        return Life.UNKNOWN
    life = census.life(owner)
    return Census().life(owner) if life is Life.DEAD else life


def _attribute(device: str, name: str) -> str:
    try:
        with open(f"/sys/block/{os.path.basename(device)}/{name}", errors="backslashreplace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _paths(folders: Iterable[str]) -> list[str]:
    wanted = list(folders)
    for folder in wanted:
        if not os.path.isdir(folder):
            raise Misuse(f"{folder} is no folder", "name the one that holds the journals")
    if os.path.isdir(STATE_FOLDER):
        wanted.append(STATE_FOLDER)
    return sorted({os.path.realpath(path) for folder in wanted for path in glob.glob(f"{folder}/*{journal.SUFFIX}")})


def _kept(path: str, census: Census) -> Kept:
    try:
        records = journal.read(path, Record)
    except (BadJournal, OSError) as error:
        return Kept(path=path, owner=Life.UNKNOWN, damage=str(error).partition("\n")[0])
    last = records[-1] if records else None
    writer = owners.parse(last.writer) if last else None
    open_in = journal.locker(path)
    return Kept(path=path, owner=Life.ALIVE if open_in else _life(census, writer), open_in=open_in, last=last)


def _sweep_device(status: loop.Status, census: Census, dry_run: bool) -> Swept | None:
    life = _life(census, status.owner)
    name = f"{status.path} ({status.label})" if status.label else status.path
    if life is Life.UNKNOWN:
        why = "its owner cannot be seen from here: sweep on the host, outside of any container"
        return Swept(what="device", name=name, left=why, ours=False)
    if life is Life.ALIVE:
        return None
    return Swept(what="device", name=name, left="" if dry_run else _clear(status))


def _clear(status: loop.Status) -> str:
    """Unmount it wherever it is mounted, and let it go. Why it is still there; nothing if it is not."""
    try:
        held_by = holders(status.path)
        for pid in dict.fromkeys(holder.pid for holder in held_by if holder.how is How.MOUNT):
            _unmount_in(
                pid, [one.path for one in held_by if one.pid == pid and one.how in (How.MOUNT, How.MOUNT_ON_IT)]
            )
        _release(status)
        give_up_at = time.monotonic() + _RELEASE_SECONDS
        while _same(loop.status_of(status.path), status):
            if time.monotonic() > give_up_at:
                return "held by " + ("; ".join(map(str, holders(status.path))) or "somebody who cannot be named")
            time.sleep(_POLL_SECONDS)
    except (OSError, HarnessError) as error:
        return str(error).partition("\n")[0]
    return ""


def _same(now: loop.Status | None, before: loop.Status) -> bool:
    """Still that attachment, and not the next one of the same number."""
    return now is not None and (now.backing, now.label, now.owner) == (before.backing, before.label, before.owner)


def _release(status: loop.Status) -> None:
    """While it is open here, the number cannot go to anybody else."""
    fd = os.open(status.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _same(loop.status_at(fd, status.path), status):
            loop.clear(fd)
    finally:
        os.close(fd)


def _unmount_in(pid: int, targets: list[str]) -> None:
    """In the mount namespace of that process, as it sees it; lazily where it is busy. Done by a child of ours."""
    with contextlib.ExitStack() as stack:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, namespace)
        root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        init = stack.enter_context(
            spawn_init(partial(_unmount_all, namespace, root, targets), name="harness-sweep", mounts=False)
        )
        if init.wait(_UNMOUNT_SECONDS) is None:
            raise InternalError(f"{targets[0]} of process {pid} cannot be unmounted: the kernel does not come back")


def _unmount_all(namespace: int, root: int, targets: list[str]) -> int:
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
    os.fchdir(root)
    os.chroot(".")
    for target in reversed(targets):
        try:
            syscalls.umount(target)
        except OSError:
            with contextlib.suppress(OSError):
                syscalls.umount(target, syscalls.MNT_DETACH)
    return 0


def _sweep_journal(kept: Kept, dry_run: bool) -> Swept | None:
    if kept.damage:
        return Swept(what="journal", name=kept.path, left=kept.damage, ours=False)
    if kept.owner is not Life.DEAD:
        return None
    return Swept(what="journal", name=kept.path, left="" if dry_run else _remove(kept))


def _remove(kept: Kept) -> str:
    """Under its lock, and only if it says what it said: nobody has gone on with it meanwhile."""
    try:
        fd = os.open(kept.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if journal.read(kept.path, Record)[-1:] != [kept.last]:
            return "it is in use again"
        os.unlink(kept.path)
    except BlockingIOError:
        return "it is in use again"
    finally:
        os.close(fd)
    return ""


def _zram() -> Iterator[Swept]:
    """A zram device can carry no mark. With no keeper alive it may be one of ours, or anybody's."""
    if any(_name_of(pid) == _KEEPER for pid in psutil.pids()):
        return
    for path in sorted(glob.glob("/sys/block/zram*")):
        name = os.path.basename(path)
        if int(_attribute(name, "size") or 0):
            why = (
                f"zram devices carry no mark; if it is not yours: echo {name[4:]} > /sys/class/zram-control/hot_remove"
            )
            yield Swept(what="zram", name=f"/dev/{name}", left=why, ours=False)


def _name_of(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""

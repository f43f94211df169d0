"""Every fault has a canary: a workload whose outcome it changes, and which is as it should be without it.

A fault that silently did nothing would fail here. All on ext4, except where a file system matters.
"""

import errno
import os

import msgspec
import pytest
from faults_support import (
    BLOCK,
    SECONDS,
    Hand,
    Outcome,
    Rig,
    Step,
    apart,
    base_of,
    durable,
    fsync,
    missed_of,
    overwrite,
    run,
)

from harness.errors import Misuse
from harness.faults import FAULTS, At, Remove, compose, parse_fault
from harness.machine import mounts
from harness.machine.kmsg import KernelClass, classify
from harness.machine.syncing import sync_file_system

pytestmark = pytest.mark.root


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """What the writer does, and what comes of it with the fault and without."""

    fault: str
    steps: tuple[Step, ...]
    changed: Outcome
    control: Outcome
    cut: bool = False
    held: bool = False
    """As `run` takes them."""


def _outcome(*results: str, ended: bool = True, **files: str) -> Outcome:
    """`data` is data.bin."""
    return Outcome(results, {"data.bin" if name == "data" else name: blocks for name, blocks in files.items()}, ended)


def _close(hand: Hand) -> None:
    os.close(hand.fds.pop("data.bin"))


_TWO: tuple[Step, ...] = (overwrite(), fsync())
_WELL = _outcome("ok", "ok", data="nnnn")

CANARIES = (
    Canary(fault="eio@file:data.bin", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="eio@flush:1", steps=_TWO, changed=_outcome("ok", "EIO", data="nnnn"), control=_WELL),
    Canary(fault="enospc@file:data.bin#1", steps=_TWO, changed=_outcome("ok", "ENOSPC", data="oooo"), control=_WELL),
    Canary(fault="short@file:data.bin#1", steps=_TWO, changed=_outcome("ok", "EIO", data="nnoo"), control=_WELL),
    Canary(fault="drop@file:data.bin#1", steps=_TWO, changed=_outcome("ok", "ok", data="oooo"), control=_WELL),
    Canary(fault="flip@file:data.bin,byte=5000", steps=_TWO, changed=_outcome("ok", "ok", data="n?nn"), control=_WELL),
    Canary(
        fault="misdirect@file:data.bin,shift=16M", steps=_TWO, changed=_outcome("ok", "ok", data="oooo"), control=_WELL
    ),
    Canary(fault="late@file:data.bin", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="lie@flush:1,count=0", steps=_TWO, changed=_outcome("ok", "ok", data="oooo"), control=_WELL, cut=True),
    Canary(fault="hang@write:1", steps=_TWO, changed=_WELL._replace(ended=False), control=_WELL, held=True),
    Canary(fault="hang@flush:1", steps=_TWO, changed=_WELL._replace(ended=False), control=_WELL, held=True),
    Canary(fault="read-only", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="writer-kill@op:1", steps=_TWO, changed=_outcome("ok", data="nnnn"), control=_WELL),
    Canary(fault="writer-kill@write:1", steps=_TWO, changed=_outcome("ok", data="nnnn"), control=_WELL),
    Canary(fault="engine-kill@write:1", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="engine-kill@write:1,done=yes", steps=_TWO, changed=_outcome("ok", "EIO", data="nnnn"), control=_WELL),
    Canary(fault="engine-stop", steps=_TWO, changed=_WELL._replace(ended=False), control=_WELL, held=True),
    Canary(fault="remove@op:1", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="remove@write:1", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="force-detach@op:1", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="capacity@op:1", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="capacity@op:1,size=4M", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(fault="shutdown@op:1", steps=_TWO, changed=_outcome("ok", "EIO", data="oooo"), control=_WELL),
    Canary(
        fault="shutdown@op:1,flush_log=yes",  # without it "new" is gone: see below
        steps=(overwrite("new", b"x"), fsync()),
        changed=_outcome("ok", "EIO", data="oooo", new=""),
        control=_outcome("ok", "ok", data="oooo", new="xxxx"),
    ),
    Canary(
        fault="shutdown@op:1",
        steps=(overwrite("new", b"x"), fsync()),
        changed=_outcome("ok", "EIO", data="oooo"),
        control=_outcome("ok", "ok", data="oooo", new="xxxx"),
    ),
    Canary(
        fault="remount-ro@op:2",
        steps=(overwrite(), _close, overwrite()),
        changed=_outcome("ok", "ok", "EROFS", data="nnnn"),
        control=_outcome("ok", "ok", "ok", data="nnnn"),
    ),
    Canary(fault="abort@op:1", steps=_TWO, changed=_outcome("ok", "EROFS", data="oooo"), control=_WELL),
    Canary(
        fault="full@op:1",
        steps=(durable(), durable("new", b"x", 16)),
        changed=_outcome("ok", "ENOSPC", data="nnnn", new=""),
        control=_outcome("ok", "ok", data="nnnn", new="x" * 16),
    ),
)

TIMED = ("delay@write:1,seconds=0.3,count=1", "rate,bytes_per_second=64K")
"""Their canary is a time: at least so long, whatever the machine."""

ELSEWHERE = ("write-protect",)
"""Their canary is no writer's: see the test by that name."""


def test_every_fault_has_a_canary() -> None:
    texts = [*(canary.fault for canary in CANARIES), *TIMED, *ELSEWHERE]
    assert {part.name for text in texts for part in parse_fault(text).parts} == set(FAULTS)


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.fault)
def test_a_fault_changes_the_outcome_and_its_absence_does_not(canary: Canary) -> None:
    assert canary.changed != canary.control
    struck = run(canary.steps, canary.fault, cut=canary.cut, held=canary.held)
    assert struck.outcome == canary.changed, struck
    assert struck.hits and not struck.missed and not struck.unwell, struck
    assert run(canary.steps, cut=canary.cut, held=canary.held).outcome == canary.control


@pytest.mark.parametrize("fault", TIMED)
def test_a_slow_device_takes_its_time(fault: str) -> None:
    """One write, or 24 KiB of them: 0.3 s at least. Without the fault the best of three is far from that."""
    steps = (overwrite(blocks=6), fsync())
    slow = run(steps, fault)
    assert slow.outcome.results == ("ok", "ok") and not slow.missed and not slow.unwell
    assert slow.seconds >= 0.3
    assert min(run(steps).seconds for _ in range(3)) < 0.3


def test_a_write_protected_device_is_mounted_by_nobody_and_what_is_mounted_writes_on() -> None:
    fault = parse_fault("write-protect")

    def mount_again(rig: Rig) -> str:
        rig.unmount()
        try:
            mounts.mount_volume(rig.device.path, rig.root, "ext4")
            return "ok"
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def body() -> list[str]:
        with Rig(*base_of("ext4")) as rig:
            fault.inject(rig.target)
            with rig.writer(_TWO) as writer:
                writer.go()
                assert writer.wait()
            told = [*writer.results, mount_again(rig)]
            fault.heal(rig.target)
            return [*told, mount_again(rig)]

    assert apart(body) == ["ok", "ok", "EACCES", "ok"]


@pytest.mark.parametrize("fs", ["xfs", "btrfs", "ext2"])
@pytest.mark.parametrize(
    "fault", ["remove@op:1", "force-detach@op:1", "capacity@op:1", "engine-kill@write:1", "read-only", "eio@write:1"]
)
def test_other_file_systems_lose_what_was_not_written_too(fault: str, fs: str) -> None:
    struck = run(_TWO, fault, fs=fs)
    assert struck.outcome == _outcome("ok", "EIO", data="oooo"), struck
    assert struck.hits and not struck.missed and not struck.unwell


@pytest.mark.parametrize("fault", ["remove@flush:1", "engine-kill@flush:1", "eio@journal", "eio@flush:1"])
def test_a_journal_that_cannot_be_written_is_aborted(fault: str) -> None:
    """A new file makes ext4 commit."""
    struck = run((durable("new"), durable("second")), fault)
    assert struck.outcome.results[0] == "EIO"
    assert KernelClass.JOURNAL_ABORTED in {classify(line) for line in struck.kernel}, struck.kernel


def test_a_plain_disk_can_be_removed_at_once_and_on_a_condition() -> None:
    seen: list[bool] = []

    def twice() -> bool:
        seen.append(True)
        return len(seen) > 1

    for fault in (Remove(), Remove(at=At.after(0.0)), Remove(at=At.when(twice))):

        def body(fault: Remove = fault) -> tuple[bool, dict[str, str]]:
            with Rig(*base_of("ext4"), plain=True) as rig, rig.writer((fsync(),)) as writer:
                fd = os.open(f"{rig.root}/data.bin", os.O_RDWR)
                os.pwrite(fd, b"n" * BLOCK, 0)
                fault.inject(rig.target)
                struck = fault.await_hit(rig.target, SECONDS)
                with pytest.raises(OSError):
                    os.fsync(fd)
                os.close(fd)
                fault.heal(rig.target)
                del writer
                return struck, rig.recovered()

        assert apart(body) == (True, {"data.bin": "oooo"})


def test_faults_at_once_are_counted_each_for_itself() -> None:
    both = compose(parse_fault("drop@file:data.bin#1"), parse_fault("shutdown@op:2"))
    struck = run((overwrite(), fsync(), durable("new")), both)
    assert struck.outcome == _outcome("ok", "ok", "EIO", data="oooo"), struck
    assert struck.hits == 1 and not struck.missed
    struck = run((overwrite(), fsync()), both)
    assert struck.hits == 0
    assert struck.missed == "shutdown@op:2 was never met: no mark 'op:begin 2' came"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("eio@write:90", "the 90th write never came: there were "),
        ("eio@flush:42,count=0", "the 42nd flush never came: there were "),
        ("drop@file:data.bin#3", "the 3rd write to file:data.bin never came: there were 1"),
        ("drop@op:9/write:1", "the 1st write since op:9 never came: there were 0"),
        ("remove@op:9", "no mark 'op:begin 9' came"),
        ("writer-kill@mark:op:begin#3", "no mark 'op:begin' came for the 3rd time: 2 did"),
        ("remove@write:90", "the 90th write never came: there were "),
        ("full@after:3600", "its time or condition never came"),
    ],
)
def test_a_fault_that_was_never_met_says_how_far_it_came(fault: str, why: str) -> None:
    missed = run(_TWO, fault)
    assert missed.outcome == _WELL and missed.hits == 0
    assert missed.missed.startswith(f"{fault} was never met: {why}"), missed.missed


def test_a_deed_that_fails_is_told_and_the_writer_goes_on() -> None:
    refused = run(_TWO, "remount-ro@op:1")
    assert refused.outcome == _WELL and refused.hits == 0
    assert "could not be carried out" in refused.missed and "open for writing" in refused.missed


@pytest.mark.parametrize("fault", ["writer-kill@flush:1", "writer-kill"])
def test_a_writer_that_was_gone_before_was_not_killed(fault: str) -> None:
    def body() -> str:
        with Rig(*base_of("ext4")) as rig:
            with rig.writer(()) as writer:
                writer.go()
            kill = parse_fault(fault)
            try:
                kill.inject(rig.target)
            except ProcessLookupError:
                return "process had ended before"
            sync_file_system(rig.root)
            kill.heal(rig.target)
            return missed_of(kill, rig.target)

    assert "had ended before" in apart(body)


def test_a_reused_target_counts_anew_and_takes_one_injection_at_a_time() -> None:
    def body() -> list[object]:
        with Rig(*base_of("ext4")) as rig:
            eio, drop = parse_fault("eio@file:data.bin"), parse_fault("drop@write:1")
            with pytest.raises(Misuse, match="was not injected into test"):
                eio.hits(rig.target)
            eio.inject(rig.target)
            with pytest.raises(Misuse, match=r"eio@file:data\.bin is in force"):
                drop.inject(rig.target)
            with pytest.raises(OSError):
                rig.do(durable())
            told: list[object] = [eio.hits(rig.target)]
            for _ in range(2):
                eio.heal(rig.target)
            rig.do(durable())
            told.append(eio.hits(rig.target))
            drop.inject(rig.target)
            with pytest.raises(Misuse, match=r"eio@file:data\.bin was not injected"):
                eio.hits(rig.target)
            told.append(drop.hits(rig.target))
            return told

    assert apart(body) == [1, 1, 0]

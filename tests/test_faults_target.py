"""What a target cannot have, whether it is well, when a fault is due, and the watchdog."""

import os
import re
import signal
import time
from collections.abc import Sequence

import msgspec
import pytest
from faults_support import SECONDS, Hand, Rig, Step, apart, base_of, durable, fsync, missed_of, overwrite

from harness.errors import EngineLost, Misuse, RequirementMissing, TrialUnknown
from harness.faults import (
    At,
    Capacity,
    Delay,
    Drop,
    EngineKill,
    Fault,
    File,
    Hang,
    Remove,
    Watchdog,
    after,
    before,
    injected,
    parse_fault,
    restore,
)
from harness.machine import loop
from harness.machine.syncing import sync_file_system
from harness.verdict import Verdict
from harness.volume import LYING_FLUSH

pytestmark = pytest.mark.root

_MIB = 1 << 20


def _nothing(_: Hand) -> None:
    """A step that is its mark alone."""


@pytest.mark.parametrize(
    ("fault", "fs", "plain", "missing"),
    [
        ("eio@write:1", "ext4", True, "an engine below the volume"),
        ("remove@op:1", "ext4", True, "an engine below the volume"),
        ("engine-kill", "ext4", True, "an engine below the volume"),
        ("engine-stop", "ext4", True, "an engine below the volume"),
        ("writer-kill@op:1", "ext4", True, "an engine below the volume"),
        ("remove", "ext4", True, ""),
        ("full", "ext4", True, ""),
        ("eio@journal", "ext2", False, "a journal of ext2"),
        ("eio@journal", "btrfs", False, "a journal of btrfs"),
        ("eio@journal", "xfs", False, ""),
        ("eio@superblock", "btrfs", False, ""),
        ("eio@file:data.bin", "btrfs", False, "files of btrfs that stay where they are"),
        ("shutdown", "btrfs", False, "FS_IOC_SHUTDOWN of btrfs"),
        ("shutdown", "xfs", False, ""),
        ("abort", "xfs", False, "ext4 or ext3"),
        ("abort", "ext2", False, "ext4 or ext3"),
    ],
)
def test_a_target_says_what_it_lacks_for_a_fault(fault: str, fs: str, plain: bool, missing: str) -> None:
    def body() -> tuple[str, str]:
        with Rig(*base_of(fs), plain=plain) as rig:
            rig.target.writer = os.getpid()
            lacking = parse_fault(fault).availability(rig.target)
            assert lacking is None or (lacking.why and lacking.remedy)
            try:
                if lacking:
                    parse_fault(fault).inject(rig.target)
            except RequirementMissing as refused:
                return lacking.what if lacking else "", refused.cause
            return "", ""

    what, told = apart(body)
    assert what == missing and missing in told


def test_a_journal_that_mkfs_left_out_is_missing() -> None:
    def body() -> str:
        with Rig(*base_of("ext4", "-O ^has_journal")) as rig:
            missing = parse_fault("eio@journal").availability(rig.target)
            return missing.what if missing else ""

    assert apart(body) == "a journal of ext4"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("", ""),
        ("hang@write:1,count=0", "before the fault the volume takes no write: none within 0.2 s"),
        ("read-only", "before the fault the volume takes no write: [Errno 5]"),
        ("engine-kill", "before the fault the volume takes no write: [Errno "),
    ],
)
def test_a_target_that_is_not_well_before_is_unknown(broken: str, said: str) -> None:
    def body() -> str:
        with Rig(*base_of("ext4")) as rig:
            if broken:
                parse_fault(broken).inject(rig.target)
            unwell = before(rig.target, 0.2 if broken.startswith("hang") else SECONDS)
            if broken:
                parse_fault(broken).heal(rig.target)
            assert unwell is None or unwell.verdict is Verdict.UNKNOWN
            return unwell.summary if unwell else ""

    assert apart(body).startswith(said) if said else apart(body) == ""


@pytest.mark.parametrize(
    ("fault", "ruin", "said"),
    [
        ("drop@write:1", "", ""),
        ("drop@write:1", "abort", "after the heal the volume takes no write: [Errno 30]"),
        ("eio@write:1", "abort", ""),  # nobody promised more than a device
        ("eio@write:1", "engine-kill", "after the heal the device answers no read: [Errno 5]"),
        ("engine-kill@write:1", "engine-kill", ""),
    ],
)
def test_what_a_heal_should_give_back_and_does_not_is_unknown(fault: str, ruin: str, said: str) -> None:
    def body() -> str:
        with Rig(*base_of("ext4")) as rig:
            if ruin:
                parse_fault(ruin).inject(rig.target)
            unwell = after(parse_fault(fault), rig.target)
            return unwell.summary if unwell else ""

    assert apart(body).startswith(said) if said else apart(body) == ""


def test_a_fault_for_the_length_of_a_block_is_healed_and_tells_why_nothing_may_be_concluded() -> None:
    def body() -> list[list[str]]:
        told = []
        with Rig(*base_of("ext4")) as rig:
            for text in ("drop@write:1", "drop@write:99"):
                with injected(parse_fault(text), rig.target) as unknown:
                    rig.do(durable())
                told.append([finding.summary for finding in unknown])
            assert rig.target.injection and rig.target.injection.healed
            with pytest.raises(ZeroDivisionError), injected(Hang(at=At.write(99)), rig.target):
                raise ZeroDivisionError
            assert rig.target.injection.healed
            rig.engine.slay(SECONDS)
            with pytest.raises(TrialUnknown, match="before the fault"), injected(Remove(), rig.target):
                raise AssertionError("not well, and tried nevertheless")
        return told

    well, missed = apart(body)
    assert not well
    assert len(missed) == 1 and missed[0].startswith(
        "drop@write:99 was never met: the 99th write never came: there were"
    )


def _forever(_: Hand) -> None:
    signal.pause()


def _under_watch(fault: Fault, steps: Sequence[Step], patience: float = SECONDS) -> tuple[list[str], list[str]]:
    """What the watchdog did, and what the writer saw, once the fault has struck."""
    with Rig(*base_of("ext4")) as rig, rig.writer(steps) as writer:
        fault.inject(rig.target)
        writer.go()
        assert fault.await_hit(rig.target, SECONDS)
        with Watchdog(0.2, rig.target, pids=[writer.pid], patience=patience) as dog:
            assert writer.wait(), f"hangs still; the watchdog did {dog.did}"
        fault.heal(rig.target)
        did = [re.sub(r"process \d+", "the writer", line.replace(rig.device.name, "it")) for line in dog.did]
        return did, writer.results


_GIVEN_BACK = ["healed the engine of it", "gave it its capacity back"]


@pytest.mark.parametrize(
    ("fault", "steps", "did", "results"),
    [
        ("hang@write:1", (overwrite(), fsync()), _GIVEN_BACK, ["ok", "ok"]),
        ("engine-stop@op:1", (overwrite(), fsync()), _GIVEN_BACK, ["ok", "ok"]),
        ("hang@op:1", (overwrite(), fsync()), _GIVEN_BACK, ["ok", "ok"]),
        ("hang@write:1", (durable(), _forever), [*_GIVEN_BACK, "killed the writer"], ["ok"]),
        ("remove@op:0", (_forever,), [*_GIVEN_BACK, "killed the writer"], []),
        ("delay@write:1,seconds=60", (durable(),), ["killed the engine of it, which took no order"], ["EIO"]),
    ],
)
def test_the_watchdog_gives_the_device_back_and_kills_whoever_has_not_ended_then(
    fault: str, steps: tuple[Step, ...], did: list[str], results: list[str]
) -> None:
    patience = 0.3 if "delay" in fault else SECONDS
    told, seen = apart(lambda: _under_watch(parse_fault(fault), steps, patience))
    assert (told[: len(did)], seen) == (did, results)


def test_a_device_that_never_comes_back_holds_nobody_for_ever() -> None:
    """ext4 allocates blocks at the fsync, and asks again and again for a bitmap beyond the end of the device."""
    steps = (overwrite("new", b"x", 640), fsync("new"))
    told = apart(lambda: _under_watch(parse_fault("remove@op:1"), steps))
    assert told in ((_GIVEN_BACK, ["ok", "ok"]), ([], ["ok", "EIO"]))


def test_a_watchdog_that_is_left_in_time_does_nothing() -> None:
    def body() -> list[str]:
        with Rig(*base_of("ext4")) as rig:
            with Watchdog(SECONDS, rig.target, pids=[os.getpid()]) as dog:
                rig.do(durable())
            assert not dog.bit
            return dog.did

    assert apart(body) == []
    with pytest.raises(ProcessLookupError):
        Watchdog(SECONDS, pids=[1 << 22])


@pytest.mark.parametrize(
    ("fault", "letters"),
    [
        (Drop(at=At.write(1, since=At.operation(2)), where=File("data.bin")), "aaaa"),
        (Drop(at=At.operation(2)), "aaaa"),
        (Drop(at=At.mark("op:begin 2")), "aaaa"),
        (Drop(at=At.write(2), where=File("data.bin")), "aaaa"),
        (Drop(at=At.write(1), where=File("data.bin")), "bbbb"),
        (Drop(at=At.after(0.0), count=0), "oooo"),
        (Drop(at=At.when(lambda: True), count=0), "oooo"),
    ],
    ids=str,
)
def test_requests_are_counted_since_what_the_address_says(fault: Drop, letters: str) -> None:
    """Two overwrites: `a`, then, as operation 2, `b`."""

    def body() -> str:
        steps = (_nothing, durable(letter=b"a"), durable(letter=b"b"))
        with Rig(*base_of("ext4")) as rig, rig.writer(steps) as writer:
            fault.inject(rig.target)
            if fault.at.on in ("after", "when"):
                _await_mark(rig, b"fault: 0 is awaited")
            writer.go()
            assert writer.wait() and writer.results == ["ok"] * 3
            assert fault.hits(rig.target) and not missed_of(fault, rig.target)
            fault.heal(rig.target)
            return rig.recovered()["data.bin"]

    assert apart(body) == letters


def _await_mark(rig: Rig, text: bytes) -> None:
    give_up_at = time.monotonic() + SECONDS
    while rig.engine.parsed().find(text) is None:
        assert time.monotonic() < give_up_at
        time.sleep(0.001)


def test_a_deed_can_wait_for_a_time_and_then_for_a_request() -> None:
    def body() -> tuple[list[str], dict[str, str]]:
        fault = Remove(at=At.write(1, since=At.after(0.0)))
        with Rig(*base_of("ext4")) as rig, rig.writer((overwrite(), fsync())) as writer:
            fault.inject(rig.target)
            _await_mark(rig, b"fault: 0 is awaited")
            assert fault.hits(rig.target) == 0
            writer.go()
            assert fault.await_hit(rig.target, SECONDS) and writer.wait()
            fault.heal(rig.target)
            return writer.results, rig.recovered()

    assert apart(body) == (["ok", "EIO"], {"data.bin": "oooo"})


def test_a_condition_that_raises_is_told_and_nothing_is_done() -> None:
    def body() -> tuple[bool, str]:
        fault = Remove(at=At.when(lambda: 1 // 0 > 0))
        with Rig(*base_of("ext4")) as rig:
            fault.inject(rig.target)
            struck = fault.await_hit(rig.target, SECONDS)
            fault.heal(rig.target)
            return struck, missed_of(fault, rig.target)

    struck, why = apart(body)
    assert not struck and "could not be carried out: integer division or modulo by zero" in why


def test_a_volume_whose_device_lies_already_takes_no_further_fault() -> None:
    """The engine's rules are replaced by an injection's: it would be cured in silence."""

    def body() -> str:
        spec, base = base_of("ext4")
        with Rig(msgspec.structs.replace(spec, fault=LYING_FLUSH), base) as rig:
            with pytest.raises(Misuse) as refused:
                parse_fault("eio@write:1").inject(rig.target)
            return refused.value.cause

    assert LYING_FLUSH in apart(body)


def test_what_was_armed_says_so_when_its_engine_is_gone() -> None:
    def body() -> list[bool]:
        with Rig(*base_of("ext4")) as rig:
            rig.engine.slay(SECONDS)
            with pytest.raises(EngineLost):
                Delay().inject(rig.target)
            kill = EngineKill()
            with pytest.raises(ProcessLookupError, match="the engine had ended"):
                kill.inject(rig.target)
            return [kill.await_hit(rig.target, SECONDS), bool(restore(rig.target))]

    assert apart(body) == [False, True]


def test_a_healed_disk_is_whole_again() -> None:
    """No limit, no rule, and the same content, after each of the faults that take it away."""

    def body() -> list[int]:
        with Rig(*base_of("ext4")) as rig:
            limits = []
            for fault in (Remove(), Capacity(size=8 * _MIB), parse_fault("engine-stop"), parse_fault("read-only")):
                fault.inject(rig.target)
                fault.heal(rig.target)
                status = loop.status_of(rig.device.path)
                assert status and after(fault, rig.target) is None
                limits.append(status.size_limit)
            sync_file_system(rig.root)
            rig.do(durable())
            assert rig.recovered() == {"data.bin": "nnnn"}
            return limits

    assert apart(body) == [0, 0, 0, 0]

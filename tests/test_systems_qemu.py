"""qemu_storage: a judge that finds what is planted, strikes that hit what they are meant for, and what QEMU did."""

import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from kill_support import no_device_left

from fixtures.systems.qemu_storage import SYSTEM, QemuPlan, images, monitor, system_at
from fixtures.systems.qemu_storage.content import FIRST, SLOTS, Block, Ledger, block, told
from fixtures.systems.qemu_storage.daemon import Daemon
from fixtures.systems.qemu_storage.images import Checked
from fixtures.systems.qemu_storage.judge import Found, judge
from fixtures.systems.qemu_storage.monitor import Refused
from fixtures.systems.qemu_storage.plan import POINTS, checked
from harness.errors import Misuse, TrialUnknown
from harness.trial.live import Trial
from harness.verdict import FindingKind, Verdict

GONE_SECONDS = 5.0
SLOT = 3
"""The slot that the planted faults are in: of version 2 once fsynced, 3 was issued."""


def ledger() -> Ledger:
    made = Ledger()
    made.promised[SLOT], made.issued[SLOT] = 2, 3
    return made


def holding(found: Block) -> tuple[Block, ...]:
    """What was promised of every slot, but this of SLOT."""
    return tuple(found if slot == SLOT else Block(version) for slot, version in enumerate(ledger().promised))


KEPT = Block(2)


def good(found: Block = KEPT, **changes: object) -> Found:
    seen = Found(image="top.qcow2", ledger=ledger(), contents=holding(found))
    return msgspec.structs.replace(seen, **changes)


NEWER = {"base.qcow2": holding(Block(2))}
TORN = told(SLOT, block(SLOT, 2)[:2048] + block(SLOT, 3)[2048:])
STRAY = told(SLOT, block(SLOT + 1, 1))
BAD = {"top.qcow2": Checked(opened=True, corruptions=1)}
UNREADABLE = Block(-1, "cannot be read: Input/output error", readable=False)

PLANTED: dict[str, tuple[Found, FindingKind]] = {
    "gone": (good(Block(1)), FindingKind.LOST_ACKED),
    "gone-everywhere": (good(Block(1), copies={"base.qcow2": holding(Block(1))}), FindingKind.LOST_ACKED),
    "old-copy": (good(Block(1), copies=NEWER), FindingKind.STALE),
    "zeros": (good(Block(0), copies=NEWER), FindingKind.ZEROED),
    "never-issued": (good(Block(4)), FindingKind.FOREIGN),
    "another-block": (good(STRAY), FindingKind.FOREIGN),
    "torn": (good(TORN), FindingKind.TORN),
    "unreadable": (good(UNREADABLE), FindingKind.UNAVAILABLE),
    "unreadable-though-two-agree": (good(UNREADABLE, votes=(2,) * SLOTS, threshold=2), FindingKind.UNAVAILABLE),
    "not-opened": (good(contents=None, refused="Image is corrupt"), FindingKind.UNAVAILABLE),
    "inconsistent": (good(checks=BAD), FindingKind.META),
}


@pytest.mark.parametrize(("found", "kind"), PLANTED.values(), ids=PLANTED)
def test_the_judge_finds_what_is_planted(found: Found, kind: FindingKind) -> None:
    findings = judge(found)
    assert (findings[0].kind, findings[0].verdict) == (kind, Verdict.CORRUPTED), findings


@pytest.mark.parametrize(
    "found",
    [
        good(),
        good(Block(3)),
        good(checks={"top.qcow2": Checked(opened=True, leaks=7)}),
        good(UNREADABLE, votes=(1,) * SLOTS, threshold=2),
        good(copies={"base.qcow2": holding(Block(0))}),
    ],
    ids=["as-promised", "newer", "leaks", "three-versions", "old-copy-aside"],
)
def test_the_judge_leaves_alone_what_may_be(found: Found) -> None:
    assert [finding for finding in judge(found) if finding.verdict is not Verdict.INTACT] == []


def test_a_daemon_that_was_never_struck_is_no_pass() -> None:
    assert [finding.verdict for finding in judge(good(struck=False))] == [Verdict.UNKNOWN]


def test_blocks_say_what_they_are() -> None:
    for slot in (0, 1, FIRST, SLOTS - 1):
        assert [told(slot, block(slot, version)).version for version in (0, 1, 12)] == [0, 1, 12]
    assert (STRAY.version, STRAY.torn, STRAY.text[:17]) == (-1, False, "has version 1 of ")
    assert (TORN.version, TORN.torn, TORN.text) == (-1, True, "has version 2, then version 3")


def test_what_a_failed_write_leaves_is_not_promised() -> None:
    kept = Ledger()
    kept.issued[0] = kept.issued[1] = 2
    kept.refused.add(1)
    kept.promise(list(kept.issued))
    assert (kept.promised[0], kept.promised[1]) == (2, 1)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (QemuPlan(point="mirror:nowhere"), "no kill point"),
        (QemuPlan(point="stream:copying", layout="raw", via="nbd"), "no backing file"),
        (QemuPlan(point="snapshot:added", by_node=False), "in one step"),
        (QemuPlan(point="write:begun", last=()), "nothing is written"),
        (QemuPlan(point="mirror:ready", via="fuse"), "refuses this job"),
        (QemuPlan(point="quorum:missed", ext4=True), "says nothing of the blocks"),
        (QemuPlan(point="quorum:missed", missed=()), "cannot miss writes"),
        (QemuPlan(point="quorum:missed-between", missed=(0, 1)), "cannot miss writes"),
    ],
)
def test_a_plan_that_can_never_strike_is_refused(plan: QemuPlan, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        checked(plan)


def test_plans_go_to_text_and_back() -> None:
    plan = QemuPlan(point="quorum:missed", missed=(0, 1), before=(0, 47))
    assert SYSTEM.plan(SYSTEM.text(plan)) == plan
    for text in ('{"point":"write:begun","before":[48]}', '{"point":"write:begun","missed":[3]}', "{}"):
        with pytest.raises(Misuse, match="not a plan of qemu"):
            SYSTEM.plan(text)
    assert system_at("merge", "stream").points[0] == "merge:copying"
    assert len(SYSTEM.points) == sum(map(len, POINTS.values()))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(str(tmp_path / "qsd")) as running:
        yield running


@pytest.mark.root
def test_a_refused_command_is_told_from_a_dead_daemon(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        daemon.add(driver="file", node_name="none", filename=str(tmp_path / "none"))
    os.kill(daemon.pid, signal.SIGKILL)
    with pytest.raises(TrialUnknown, match="has gone"):
        daemon.monitor.ask("query-jobs")


@pytest.mark.root
def test_a_daemon_that_does_not_answer_is_unknown(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "ANSWER_SECONDS", 0.2)
    daemon.stop()
    with pytest.raises(TrialUnknown, match="did not answer"):
        daemon.monitor.ask("query-jobs")


@pytest.mark.root
def test_qemu_img_finds_a_planted_inconsistency(tmp_path: Path) -> None:
    """The first entry of the L1 table, which the header's bytes 40 to 47 lead to, made to point past the end."""
    path = tmp_path / "image.qcow2"
    raw = tmp_path / "image.raw"
    raw.write_bytes(b"x" * 65536)
    images.convert(str(raw), str(path))
    assert images.check(str(path)) == Checked(opened=True, said=images.check(str(path)).said)
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[40:48], "big")
    data[table : table + 8] = (1 << 63 | 1 << 30).to_bytes(8, "big")
    path.write_bytes(data)
    assert images.check(str(path)).corruptions
    path.write_bytes(data[:100])
    assert not images.check(str(path)).opened


@pytest.mark.root
def test_backing_files_are_named_nearest_first(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.raw", "b.qcow2", "c.qcow2")]
    images.create(names[0], 65536, "raw")
    for below, above in itertools.pairwise(names):
        images.create(above, 65536, "qcow2", below)
    assert images.backing_of(names[2]) == ["b.qcow2", "a.raw"]
    os.unlink(names[0])
    assert images.backing_of(names[2]) == []


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    with no_device_left("qemu", GONE_SECONDS):
        yield


def nbd(point: str, **changes: object) -> QemuPlan:
    return msgspec.structs.replace(QemuPlan(point=point, via="nbd"), **changes)


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize(
    ("variant", "plan", "kind", "summary"),
    [
        (
            "job-ends-by-itself",
            nbd("stream:completed"),
            "ZEROED",
            r"has zeros, not version 1 .*\(which base.qcow2 has\)",
        ),
        ("keeps-old-image", nbd("mirror:written"), "STALE", r"base.qcow2: block 1 .* \(which target.qcow2 has\)"),
        ("keeps-old-image", nbd("commit:written"), "STALE", r"top.qcow2: block 1 .* \(which base.qcow2 has\)"),
        ("trusts-unready-target", nbd("mirror:copying"), "ZEROED", "target.qcow2: block 0 has zeros"),
        ("threshold-1", QemuPlan(point="quorum:missed", missed=(1, 2)), "STALE", r"\(which child-0.raw has\)"),
        ("no-flush", QemuPlan(point="power:write", layout="raw", states=20), "LOST_ACKED", "power cut after event"),
    ],
)
def test_variants_do_what_their_names_say(variant: str, plan: QemuPlan, kind: str, summary: str) -> None:
    trial = SYSTEM.trial(variant, plan)
    telling = [finding.summary for finding in trial.findings if finding.kind == kind]
    assert kind == SYSTEM.variant(variant).finding and kind in trial.convictions, trial.findings
    assert telling and re.search(summary, telling[0]), telling


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("plan", [nbd("stream:completed", ext4=True), nbd("mirror:written", ext4=True)], ids=str)
def test_the_same_plans_are_intact_as_documented(plan: QemuPlan) -> None:
    trial = SYSTEM.trial("documented", plan)
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert trial.facts["version"][0].isdigit()


@pytest.mark.root
def test_no_flush_costs_nothing_while_the_host_lives() -> None:
    """The host's page cache has what the killed daemon wrote."""
    trial = SYSTEM.trial("no-flush", QemuPlan(point="write:flushed", layout="raw"))
    assert trial.verdict is Verdict.INTACT, trial.findings


def row(trial: Trial, copy: str) -> dict[str, str]:
    table = trial.tables[0]
    return next(dict(zip(table.columns, cells, strict=True)) for cells in table.rows if cells[0] == copy)


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
def test_a_flushed_quorum_has_three_equal_copies() -> None:
    assert SYSTEM.trial("documented", QemuPlan(point="quorum:flushed")).facts["copies"] == "byte-equal"


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("reached", [1, 2])
def test_the_kill_strikes_between_the_copies(reached: Literal[1, 2]) -> None:
    trial = SYSTEM.trial("documented", QemuPlan(point="quorum:between", last=(5,), reached=reached))
    assert trial.verdict is Verdict.INTACT, trial.findings
    newer = [row(trial, f"child-{number}.raw")["newer"] for number in range(3)]
    assert newer == ["1"] * reached + ["0"] * (3 - reached)
    assert row(trial, "the quorum")["newer"] == ("1" if reached == 2 else "0")


@pytest.mark.root
@pytest.mark.parametrize("rewrite", [False, True])
def test_a_copy_that_missed_writes_is_reported_and_repaired_where_that_was_asked_for(rewrite: bool) -> None:
    plan = QemuPlan(point="quorum:missed", missed=(1,), before=(0,), during=(30,), last=(9,), rewrite=rewrite)
    trial = SYSTEM.trial("documented", plan)
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert trial.facts["copies"] == "differ"
    child = row(trial, "child-1.raw")
    assert child["behind"] == "2" and int(child["reported bad before"]) and int(child["and after"])
    assert child["repaired by reading"] == ("3" if rewrite else "0")
    assert row(trial, "child-0.raw")["reported bad before"] == "0"


@pytest.mark.root
def test_three_versions_of_a_block_cannot_be_read_and_that_is_said() -> None:
    trial = SYSTEM.trial("documented", QemuPlan(point="quorum:missed-between", missed=(2,), during=(7,)))
    assert trial.verdict is Verdict.INTACT
    shown = [finding.summary for finding in trial.findings if finding.kind is FindingKind.UNAVAILABLE]
    assert shown == ["blocks 7 cannot be read: fewer than 2 children agree, as documented"]


@pytest.mark.root
def test_a_write_that_too_few_children_took_is_refused() -> None:
    trial = SYSTEM.trial("documented", QemuPlan(point="quorum:missed", missed=(1, 2)))
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert any("4 writes were refused" in line for line in trial.story)

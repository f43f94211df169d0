"""replicated_volume: a judge that finds what is planted, plans that strike, variants that do what their names say."""

from collections.abc import Iterator

import msgspec
import pytest
from kill_support import no_device_left

from fixtures.systems.replicated_volume import SYSTEM, ReplicatedPlan
from fixtures.systems.replicated_volume.evidence import Evidence, FileRead, PodLife, ReplicaSeen
from fixtures.systems.replicated_volume.judge import judge
from fixtures.systems.replicated_volume.plan import (
    EVERYBODY,
    POINTS,
    Cleanup,
    DiskError,
    Kill,
    Partition,
    PowerCut,
    checked,
)
from fixtures.systems.replicated_volume.writer import ABSENT, BLOCK, FOREIGN, TORN, ZEROS, found, stamped
from harness.errors import Misuse
from harness.trial.search import drawn_at
from harness.verdict import FindingKind, Verdict

GONE_SECONDS = 5.0
KILL = Kill(at="U3")
GOOD_FILE = (2, 3, 3, ZEROS, ABSENT)
ISSUED, SYNCED = (3, 3, 3, 1, 1), (2, 3, 3, 0, 0)


def read(*versions: int) -> FileRead:
    return FileRead(where="in a test", found=versions, issued=ISSUED, synced=SYNCED)


def replica(number: int, *, behind: int = 0, in_sync: bool = True) -> ReplicaSeen:
    first = 4096 if behind else -1
    return ReplicaSeen(name=f"replica-{number}", in_sync=in_sync, behind=behind, first_difference=first)


def pod(owner: str = "pod-2@node-1", *, error: int = 0, excused: bool = False, cleaned: str = "") -> PodLife:
    reads = [read(*GOOD_FILE)]
    return PodLife(owner=owner, generation=2, error=error, call="fsync", excused=excused, cleaned=cleaned, reads=reads)


def good(kill: Kill | None = KILL) -> Evidence:
    """The first pod lost its engine to the plan, the second has everything."""
    return Evidence(
        plan=ReplicatedPlan(kill=kill),
        struck=kill is not None,
        served=True,
        pods=(pod("pod-1@node-0", error=5, excused=True), pod()),
        replicas=(replica(0), replica(1), replica(2, behind=7, in_sync=False)),
        records=(),
        unstable=-1,
        medium=read(*GOOD_FILE),
        connections=2,
    )


def but(seen: Evidence, **changes: object) -> Evidence:
    return msgspec.structs.replace(seen, **changes)


def with_pod(**changes: object) -> Evidence:
    return but(good(), pods=(good().pods[0], msgspec.structs.replace(pod(), **changes)))


PLANTED: dict[str, tuple[Evidence, FindingKind]] = {
    "older-version": (but(good(), medium=read(1, *GOOD_FILE[1:])), FindingKind.STALE),
    "older-version-read": (with_pod(reads=[read(2, 2, 3, 0, 0)]), FindingKind.STALE),
    "zeros": (but(good(), medium=read(2, ZEROS, *GOOD_FILE[2:])), FindingKind.LOST_ACKED),
    "no-file": (but(good(), medium=read(*[ABSENT] * 5)), FindingKind.LOST_ACKED),
    "torn": (but(good(), medium=read(TORN, *GOOD_FILE[1:])), FindingKind.TORN),
    "torn-and-never-synced": (but(good(), medium=read(*GOOD_FILE[:4], TORN)), FindingKind.TORN),
    "foreign": (but(good(), medium=read(FOREIGN, *GOOD_FILE[1:])), FindingKind.FOREIGN),
    "never-issued": (but(good(), medium=read(4, *GOOD_FILE[1:])), FindingKind.FOREIGN),
    "replicas-differ": (but(good(), replicas=(replica(0), replica(1, behind=1))), FindingKind.UNSTABLE),
    "reads-differ": (but(good(), unstable=8192), FindingKind.UNSTABLE),
    "eio-for-the-new-owner": (with_pod(error=5), FindingKind.UNAVAILABLE),
    "cleaned": (with_pod(error=5, cleaned="the cleanup of supervisor 1"), FindingKind.UNAVAILABLE),
    "cleaned-unnoticed": (with_pod(cleaned="the cleanup of supervisor 1"), FindingKind.UNAVAILABLE),
    "not-served": (but(good(), served=False, unstable=None), FindingKind.UNAVAILABLE),
    "refused": (but(good(), served=False, unstable=None, medium=None, refused="why"), FindingKind.UNAVAILABLE),
    "split": (but(good(), split="attached on nodes 0, 1 at once"), FindingKind.SPLIT),
    "connections-pile-up": (but(good(), connections=9), FindingKind.BLAST),
}


@pytest.mark.parametrize(("seen", "kind"), PLANTED.values(), ids=PLANTED)
def test_the_judge_finds_what_is_planted(seen: Evidence, kind: FindingKind) -> None:
    found = judge(seen)
    assert [finding.kind for finding in found] == [kind], found
    assert found[0].verdict is Verdict.CORRUPTED


@pytest.mark.parametrize(
    "seen",
    [good(), good(None), but(good(), unstable=None, connections=None), but(good(), medium=read(3, 3, 3, 1, 1))],
    ids=["killed", "nobody-killed", "not-read-twice", "all-kept"],
)
def test_the_judge_leaves_alone_what_is_owed(seen: Evidence) -> None:
    assert judge(seen) == []


def test_a_kill_that_never_struck_is_no_pass() -> None:
    for seen in (but(good(), struck=False), but(good(), fault_struck=False)):
        assert [finding.verdict for finding in judge(seen)] == [Verdict.UNKNOWN]


def test_unavailable_is_told_from_lost() -> None:
    lost = but(good(), served=False, medium=read(1, *GOOD_FILE[1:]))
    kept = but(good(), served=False)
    unknown = but(good(), served=False, medium=None, refused="no replica can be asked")
    assert {finding.kind for finding in judge(lost)} == {FindingKind.UNAVAILABLE, FindingKind.STALE}
    assert judge(kept)[0].summary.endswith("all that was fsynced is on the replicas")
    assert judge(unknown)[0].summary.endswith("cannot be told: no replica can be asked")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (stamped(7, 12), 12),
        (b"", ABSENT),
        (bytes(BLOCK), ZEROS),
        (stamped(7, 12)[:2048] + stamped(7, 13)[2048:], TORN),
        (stamped(7, 12)[:512] + bytes(BLOCK - 512), TORN),
        (stamped(8, 12), FOREIGN),
        (b"x" * BLOCK, FOREIGN),
    ],
    ids=["whole", "absent", "zeros", "two-versions", "half-zeros", "another-block", "garbage"],
)
def test_a_block_says_what_it_is(data: bytes, code: int) -> None:
    assert found(7, data) == code


def plan(kill: Kill | None = None, **shape: object) -> ReplicatedPlan:
    return msgspec.structs.replace(ReplicatedPlan(kill=kill), **shape)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (plan(Kill(at="U3"), upgrade=False), "there is none"),
        (plan(Kill(at="R1", write=9)), "not sure to have 9 writes"),
        (plan(Kill(at="R1"), busy=True), "must not depend"),
        (plan(Kill(at="U0", victim="other")), "there is one engine"),
        (plan(Kill(at="R1", victim="manager")), "no supervisor"),
        (plan(Kill(at="R1", victim="replica")), "a place in the engine"),
        (plan(Kill(at="R2", victim="replica")), "the other order"),
        (plan(Kill(at="R3", victim="replica"), counter_first=False), "the other order"),
        (plan(Kill(at="U0", power=True)), "of those that are killed"),
        (plan(Kill(at="U0", how="stop")), "can be halted"),
        (plan(Kill(at="R1", how="stall"), replicas=1), "can be halted"),
        (plan(Kill(at="R1", how="stop"), upgrade=False), "passed over"),
        (plan(Kill(at="R3", replica=2), replicas=2), "replica 2 of 2"),
        (plan(Kill(at="R3"), fault=Partition(replicas=(0,), heal="never")), "takes no writes"),
        (plan(fault=Partition(replicas=(0, 1)), replicas=2), "one at least"),
        (plan(fault=DiskError(replica=0), replicas=1), "one at least"),
        (plan(fault=Partition(replicas=(0,), at=6)), "round 2 has no write 6"),
        (plan(fault=PowerCut(replica=0, write=3)), "not sure to cost a disk 3 writes"),
        (plan(cleanups=(Cleanup(looks="mounted", deletes="queued"),)), "after it has looked"),
    ],
)
def test_a_plan_that_can_never_strike_is_refused(of: ReplicatedPlan, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        checked(of)
    with pytest.raises(Misuse, match=why):
        SYSTEM.plan(SYSTEM.text(of))


@pytest.mark.parametrize("point", POINTS)
def test_plans_are_drawn_for_each_point_and_go_to_text_and_back(point: str) -> None:
    drawn = drawn_at(SYSTEM, point, 60, seed=1)
    assert all(checked(each).point == point and SYSTEM.plan(SYSTEM.text(each)) == each for each in drawn)
    assert len({SYSTEM.text(each) for each in drawn}) > 30


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    with no_device_left("replica", GONE_SECONDS):
        yield


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize(
    ("variant", "of", "summary"),
    [
        (
            "cleanup-by-volume-name",
            plan(Kill(at="U1"), cleanups=tuple(EVERYBODY)),
            "lost its attachment to the cleanup",
        ),
        (
            "every-supervisor-cleans",
            plan(Kill(at="U3"), cleanups=(Cleanup(node=1, looks="queued", deletes="written"),)),
            "lost its attachment to the cleanup of supervisor 1",
        ),
        (
            "salvage-picks-first",
            plan(Kill(at="U4"), fault=Partition(replicas=(0,), heal="recovery")),
            "version 1, and",
        ),
        ("no-fencing", plan(Kill(at="R1", how="stop")), "is in sync, and differs from the chosen one"),
        ("ack-before-all-replicas", plan(Kill(at="R1", how="stall")), "not there, and version 3 was fsynced"),
        ("metadata-without-fsync", plan(Kill(at="U3", victim="all", power=True)), "cannot be used in the end"),
        ("rejoin-without-rebuild", plan(fault=Partition(replicas=(0,)), upgrade=False), "version 1, and version 2"),
    ],
)
def test_variants_do_what_their_names_say(variant: str, of: ReplicatedPlan, summary: str) -> None:
    trial = SYSTEM.trial(variant, of)
    kind = SYSTEM.variant(variant).finding
    told = [finding.summary for finding in trial.findings if finding.kind is kind]
    assert any(summary in each for each in told), (trial.findings, trial.story)
    assert SYSTEM.trial("fixed", of).verdict is Verdict.INTACT


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("victim", ["manager", "replica", "all", "other"])
def test_fixed_bears_with_any_victim(victim: str) -> None:
    of = plan(Kill(at="U2", victim=victim), cleanups=tuple(EVERYBODY))  # type: ignore[arg-type]
    trial = SYSTEM.trial("fixed", of)
    assert trial.verdict is Verdict.INTACT, (trial.findings, trial.story)
    assert trial.facts["recovered"] == ("1" if victim == "all" else "0")


@pytest.mark.root
def test_tables_show_replicas_and_generations() -> None:
    trial = SYSTEM.trial("fixed", plan(Kill(at="U0")))
    replicas, attachments = trial.tables
    assert [row[0] for row in replicas.rows] == ["replica-0", "replica-1", "replica-2"]
    assert [row[-1] for row in replicas.rows].count("yes") == 1, "one is chosen"
    assert [row[:1] for row in attachments.rows] == [("1",), ("2",)]
    assert attachments.rows[0][-1] == "the cleanup of supervisor 0, for pod-1@node-0"
    assert all(len(row) == len(table.columns) for table in trial.tables for row in table.rows)

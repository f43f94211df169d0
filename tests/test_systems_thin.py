"""thin_store whole: a judge that finds what is planted, and each variant on real devices doing what its name says."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from kill_support import no_device_left

from fixtures.systems.thin_store import SYSTEM, ThinPlan
from fixtures.systems.thin_store.contents import Contents
from fixtures.systems.thin_store.evidence import (
    CLOSED,
    DIRECT,
    PATHS,
    SECOND,
    WRITING,
    AfterCut,
    Evidence,
    Reading,
    Seen,
)
from fixtures.systems.thin_store.judge import judge
from fixtures.systems.thin_store.plan import PAGE, Cut, Place, checked
from fixtures.systems.thin_store.story import facts, tables
from fixtures.systems.thin_store.tags import SECTOR, tagged
from harness.errors import Misuse
from harness.trial.live import Trial
from harness.verdict import FindingKind, Verdict

GONE_SECONDS = 5.0
CLUSTER = 8192
SIZE = 4 * CLUSTER
PLAN = ThinPlan(runs=(8, 24, 32), cluster=8192, cuts=(Cut(after="map"),))
DATA = tagged("image", 8, 24)
OTHERS = tagged("tenant-1", 40, 4)


def contents() -> Contents:
    """Zeros; then data at sectors 8 to 31; then a newer version of the first four, and zeros over the last four."""
    found = Contents(bytes(SIZE))
    found.write(8 * SECTOR, DATA)
    found.write(8 * SECTOR, tagged("image", 8, 4, version=2))
    found.write(28 * SECTOR, bytes(4 * SECTOR))
    return found


CONTENTS = contents()
NOW = CONTENTS.now()
SNAPSHOT_STEP = 2


def put(data: bytes, sector: int, what: bytes) -> bytes:
    return data[: sector * SECTOR] + what + data[sector * SECTOR + len(what) :]


LEAKED = put(NOW, 12 + 24, OTHERS)
ZEROED = put(NOW, 12, bytes(2 * SECTOR))
OLDER = put(NOW, 8, DATA[: 2 * SECTOR])
UNDISCARDED = put(NOW, 28, DATA[20 * SECTOR :])
THEN = CONTENTS.at(SNAPSHOT_STEP)


def volume(read: dict[str, bytes] | None = None, **changes: Any) -> Seen:
    """A copy that reads right by every path, but for those of `read`."""
    by = dict.fromkeys(PATHS, NOW) | (read or {})
    seen = Seen(
        name="copy-1",
        contents=CONTENTS,
        step=CONTENTS.step,
        readings=tuple(Reading(path, data, data) for path, data in by.items()),
        verified=True,
        allocated=2,
        touched=2,
    )
    return msgspec.structs.replace(seen, **changes)


def snapshot(data: bytes = THEN) -> Seen:
    readings = tuple(Reading(path, data, data) for path in (SECOND, DIRECT))
    return Seen(name="copy-1-snap", contents=CONTENTS, step=SNAPSHOT_STEP, readings=readings, snapshot=True)


MADE: tuple[dict[str, Any], ...] = (
    {"created": "copy-1"},
    {"synced": "copy-1", "step": 2},
    {"snapshot": "copy-1-snap", "of": "copy-1", "step": SNAPSHOT_STEP},
    {"created": "copy-2"},
    {"deleting": "copy-2"},
    {"deleted": "copy-2"},
)


def cut(found: dict[str, bytes | str] | None = None, *, promises: Sequence[dict[str, Any]] = MADE) -> AfterCut:
    """What a power cut left: the volume, and its snapshot."""
    volumes: dict[str, bytes | str] = {"copy-1": THEN, "copy-1-snap": THEN} if found is None else found
    return AfterCut(cut=PLAN.cuts[0], where="after event 9 of 12", promises=tuple(promises), volumes=volumes)


def evidence(*seen: Seen, after: Sequence[AfterCut] | None = None) -> Evidence:
    return Evidence(
        plan=PLAN,
        seen=seen or (volume(), snapshot()),
        after_cuts=(cut(),) if after is None else tuple(after),
        contents={"copy-1": CONTENTS, "copy-2": CONTENTS},
        events=12,
        flushes=3,
    )


MEDIUM = PATHS[2:]
FLICKERS = (Reading(WRITING, NOW, LEAKED), *(Reading(path, NOW, NOW) for path in PATHS[1:]))

PLANTED: dict[str, tuple[Evidence, FindingKind, str]] = {
    "right-in-the-cache": (
        evidence(volume(dict.fromkeys(MEDIUM, LEAKED), verified=False)),
        FindingKind.CACHE_ONLY,
        "right by writing fd and second fd, wrong by O_DIRECT, BLKFLSBUF, last close: "
        "cluster 2 from 2,048 to 4,096 holds tenant-1 blocks 40 to 43",
    ),
    "wrong-after-close-alone": (
        evidence(volume({CLOSED: LEAKED}, verified=False)),
        FindingKind.CACHE_ONLY,
        "wrong by last close",
    ),
    "wrong-by-every-path": (
        evidence(volume(dict.fromkeys(PATHS, LEAKED), verified=False)),
        FindingKind.FOREIGN,
        "tenant-1 blocks 40 to 43",
    ),
    "zeros-for-data": (
        evidence(volume(dict.fromkeys(PATHS, ZEROED), verified=False)),
        FindingKind.ZEROED,
        "cluster 0 from 6,144 to 7,168 holds zeros",
    ),
    "older-version": (evidence(volume(dict.fromkeys(PATHS, OLDER), verified=False)), FindingKind.STALE, "image blocks"),
    "discard-undone": (
        evidence(volume(dict.fromkeys(PATHS, UNDISCARDED), verified=False)),
        FindingKind.STALE,
        "image blocks 28 to 31",
    ),
    "shorter": (evidence(volume({WRITING: NOW[:-SECTOR]}, verified=False)), FindingKind.FOREIGN, "wrong by writing fd"),
    "two-reads": (evidence(volume(readings=FLICKERS, verified=False)), FindingKind.UNSTABLE, "by writing fd"),
    "verified-and-wrong": (
        evidence(volume(dict.fromkeys(MEDIUM, LEAKED))),
        FindingKind.FALSE_SUCCESS,
        "says that the copy is good",
    ),
    "refused-and-right": (evidence(volume(verified=False)), FindingKind.UNAVAILABLE, "says that the copy is bad"),
    "every-zero-written": (evidence(volume(allocated=4)), FindingKind.CHECK, "4 clusters are allocated"),
    "snapshot-lacks-data": (
        evidence(volume(), snapshot(bytes(SIZE))),
        FindingKind.LOST_ACKED,
        "copy-1-snap: wrong by second fd, O_DIRECT",
    ),
    "snapshot-of-before": (evidence(volume(), snapshot(CONTENTS.at(1))), FindingKind.STALE, "image blocks 8 to 11"),
    "snapshot-leaks": (evidence(volume(), snapshot(put(THEN, 40, OTHERS))), FindingKind.FOREIGN, "tenant-1"),
    "pool-does-not-open": (
        evidence(after=[msgspec.structs.replace(cut(), volumes={}, unopened="no VOLS block")]),
        FindingKind.META,
        "no VOLS block",
    ),
    "volume-gone": (evidence(after=[cut({"copy-1-snap": THEN})]), FindingKind.LOST_ACKED, "copy-1 is gone"),
    "snapshot-gone": (evidence(after=[cut({"copy-1": THEN})]), FindingKind.LOST_ACKED, "copy-1-snap is gone"),
    "deleted-is-back": (
        evidence(after=[cut({"copy-1": THEN, "copy-1-snap": THEN, "copy-2": bytes(SIZE)})]),
        FindingKind.STALE,
        "copy-2 is back",
    ),
    "unreadable": (
        evidence(after=[cut({"copy-1": "EIO", "copy-1-snap": THEN})]),
        FindingKind.UNAVAILABLE,
        "cannot be read: EIO",
    ),
    "synced-gone": (
        evidence(after=[cut({"copy-1": bytes(SIZE), "copy-1-snap": THEN})]),
        FindingKind.LOST_ACKED,
        "copy-1: clusters 0 to 1, from 4,096 of the first, to 6,144 of the last holds zeros",
    ),
    "synced-older": (
        evidence(after=[cut({"copy-1": CONTENTS.at(1), "copy-1-snap": THEN})]),
        FindingKind.STALE,
        "image blocks 8 to 11",
    ),
    "leak-after-cut": (
        evidence(after=[cut({"copy-1": LEAKED, "copy-1-snap": THEN})]),
        FindingKind.FOREIGN,
        "tenant-1 blocks 40 to 43",
    ),
    "snapshot-moves": (
        evidence(after=[cut({"copy-1": THEN, "copy-1-snap": CONTENTS.at(1)}, promises=MADE)]),
        FindingKind.STALE,
        "copy-1-snap",
    ),
    "leak-into-what-nobody-was-promised": (
        evidence(after=[cut({"copy-1": LEAKED}, promises=())]),
        FindingKind.FOREIGN,
        "tenant-1 blocks 40 to 43",
    ),
}


@pytest.mark.parametrize(("seen", "kind", "summary"), PLANTED.values(), ids=PLANTED)
def test_the_judge_finds_what_is_planted(seen: Evidence, kind: FindingKind, summary: str) -> None:
    found = judge(seen)
    assert found[0].kind is kind, found
    assert summary in found[0].summary
    assert found[0].verdict is Verdict.CORRUPTED


def test_the_judge_finds_a_write_that_reached_a_snapshot() -> None:
    first = Contents(bytes(SIZE))
    first.write(0, tagged("image", 0, 4))
    first.write(0, tagged("image", 0, 4, version=2))
    readings = (Reading(DIRECT, first.now(), first.now()),)
    seen = Seen(name="copy-1-snap", contents=first, step=1, readings=readings, snapshot=True)
    assert [finding.kind for finding in judge(evidence(volume(), seen))] == [FindingKind.BLAST]


@pytest.mark.parametrize(
    "seen",
    [
        evidence(),
        evidence(volume(verified=None, allocated=None)),
        evidence(after=[cut({"copy-1": NOW, "copy-1-snap": THEN})]),
        evidence(after=[cut({"copy-1": OLDER, "copy-1-snap": THEN}, promises=MADE[:1])]),
        evidence(after=[cut({}, promises=())]),
        evidence(after=[cut({"copy-1": bytes(SIZE)}, promises=())]),
        evidence(after=[cut({"copy-1": THEN, "copy-1-snap": THEN, "copy-2": bytes(SIZE)}, promises=MADE[:5])]),
        evidence(after=[cut(promises=MADE[:5])]),
    ],
    ids=["right", "unasked", "newer", "unsynced", "nothing-promised", "unpromised", "not-yet-gone", "gone-early"],
)
def test_the_judge_leaves_alone_what_is_owed(seen: Evidence) -> None:
    assert judge(seen) == []


def test_a_cut_that_was_never_made_is_no_pass() -> None:
    assert [finding.verdict for finding in judge(evidence(after=[]))] == [Verdict.UNKNOWN]


def test_what_was_wrong_while_it_lived_is_not_told_again_of_each_cut() -> None:
    leaks = cut({"copy-1": LEAKED, "copy-1-snap": THEN})
    found = judge(evidence(volume(dict.fromkeys(MEDIUM, LEAKED), verified=False), after=[leaks]))
    assert [finding.kind for finding in found] == [FindingKind.CACHE_ONLY]


def test_tables_show_the_matrix_and_whose_bytes_leaked() -> None:
    seen = evidence(volume(dict.fromkeys(MEDIUM, LEAKED), verified=False), snapshot())
    checksums, ranges = tables(seen)
    source, *cells = checksums.rows[0][1:]
    assert cells[:2] == [source, source]
    assert all(cell.endswith("!") for cell in cells[2:5])
    assert ranges.rows == (
        (
            "copy-1",
            ", ".join(MEDIUM),
            "18,432 to 20,480",
            "cluster 2 from 2,048 to 4,096",
            "zeros",
            "tenant-1 blocks 40 to 43",
        ),
    )
    assert facts(seen)["clusters"] == "2 allocated, 4 if every zero were written"


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (ThinPlan(runs=(100, 0)), "nothing but zeros"),
        (ThinPlan(runs=(0, 1024, 1)), "more than"),
        (ThinPlan(runs=(0, 32), discards=((0, 5),)), "beyond the image"),
        (ThinPlan(runs=(0, 32), discards=((0, 0),)), "beyond the image"),
    ],
)
def test_a_plan_that_can_show_nothing_is_refused(of: ThinPlan, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        checked(of)


@given(plan=SYSTEM.plans)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_drawn_plans_are_plans_and_go_to_text_and_back(plan: ThinPlan) -> None:
    assert SYSTEM.plan(SYSTEM.text(checked(plan))) == plan
    assert all((first + count) * PAGE <= plan.size for first, count in plan.discards)
    assert {at for at, _ in plan.chunks} <= set(range(0, plan.image_size, plan.chunk))


def test_nonsense_is_no_plan() -> None:
    for text in (
        '{"runs":[1]}',
        '{"runs":[1,2],"cluster":4096}',
        '{"runs":[1,2],"chunk":100}',
        '{"runs":[1,2],"cuts":[{}]}',
    ):
        with pytest.raises(Misuse, match="not a plan of thin"):
            SYSTEM.plan(text)


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    with no_device_left("thin-", GONE_SECONDS):
        yield


SPARSE = ThinPlan(runs=(5, 30, 100, 7, 40, 60, 20, 3), chunk=10240)
OVER = msgspec.structs.replace(SPARSE, copies=1, backing="raw", rewrites=(1,), discards=((8, 8),))


def plan(of: ThinPlan = SPARSE, **changes: Any) -> ThinPlan:
    return msgspec.structs.replace(of, **changes)


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize(
    ("variant", "of", "kind", "summary"),
    [
        ("no-zero-on-allocate", plan(), "CACHE_ONLY", "copy-1: right by writing fd and second fd, wrong by O_DIRECT"),
        ("no-zero-on-allocate", plan(tenants=1), "CACHE_ONLY", "holds tenant-1 block"),
        ("no-zero-on-allocate", plan(syncs=(2,)), "FOREIGN", "copy-1: wrong by writing fd"),
        ("verify-through-cache", plan(), "FALSE_SUCCESS", "copy-1: the importer says that the copy is good"),
        ("snapshot-without-flush", plan(), "LOST_ACKED", "copy-1-snap: wrong by second fd, O_DIRECT"),
        ("unmap-shows-parent", plan(OVER), "STALE", "holds backing block"),
        ("write-every-zero", plan(), "CHECK", "copy-1: 9 clusters are allocated, and the image has data in 8"),
        ("map-before-zero", plan(copies=1, cuts=(Cut(after="cluster", nth=1),)), "FOREIGN", "holds former-0 block"),
    ],
)
def test_variants_do_what_their_names_say(variant: str, of: ThinPlan, kind: str, summary: str) -> None:
    trial = SYSTEM.trial(variant, of)
    assert trial.verdict is Verdict.CORRUPTED
    assert any(finding.kind == kind and summary in finding.summary for finding in trial.findings), trial.findings


CUTS: tuple[Place, ...] = ("cluster", "map", "table", "flush")


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize(
    "of",
    [
        plan(tenants=2, recycle=True),
        plan(snapshot="half", syncs=(1, 3), chunk=3584),
        plan(OVER, snapshot="closed"),
        plan(OVER, backing="qcow2", cluster=65536, discards=((1, 3),)),
        plan(copies=2, cuts=tuple(Cut(after=place, nth=nth) for place in CUTS for nth in (3, 7, 17, 30))),
    ],
    ids=["tenants", "half", "overlay", "qcow2", "cuts"],
)
def test_fixed_is_right_by_every_path_and_stays_thin(of: ThinPlan) -> None:
    trial = SYSTEM.trial("fixed", of)
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert len(trial.tables) == 1
    assert len(set(copy_checksums(trial))) == 1
    assert trial.facts["power cuts"] == str(len(of.cuts))


def copy_checksums(trial: Trial) -> list[str]:
    rows = [row for row in trial.tables[0].rows if row[0].startswith("copy") and not row[0].endswith("-snap")]
    return [cell for row in rows for cell in row[1:] if cell != "-"]


@pytest.mark.root
def test_fixed_takes_fewer_clusters_than_a_full_copy() -> None:
    told = SYSTEM.trial("fixed", plan(cluster=8192)).facts["clusters"]
    allocated, full = (int(word) for word in told.split() if word.isdigit())
    assert allocated < full

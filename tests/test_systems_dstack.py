"""dstack_run: its judge finds planted damage and is content without; each variant does what its name says; no leaks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash
from kill_support import no_device_left

from fixtures.systems.dstack_run import SYSTEM, DstackPlan, Run
from fixtures.systems.dstack_run.content import BLOCK, piece
from fixtures.systems.dstack_run.judge import examine
from fixtures.systems.dstack_run.ledger import Promise
from fixtures.systems.dstack_run.plan import Job, Provider
from harness.errors import InternalError, Misuse
from harness.verdict import FindingKind, Verdict

SIZE = 10 * BLOCK + 100
HALF = 5 * BLOCK
GONE_SECONDS = 10.0
BLOCK_3 = piece("copy-1", 3 * BLOCK, BLOCK)

Plant = Callable[[bytes], bytes]


def promise(name: str = "copy-1", *, fsynced: bool = False) -> Promise:
    checksum = xxhash.xxh3_64_hexdigest(piece(name, 0, SIZE))
    return Promise(run=1, name=name, size=SIZE, checksum=checksum, fsynced=fsynced)


def found(folder: Path, data: bytes, *, fsynced: bool = False, forced: bool = False) -> tuple[str, str] | None:
    """Kind and block map for a copy that holds `data`."""
    (folder / "copy-1").write_bytes(data)
    damage = examine(str(folder), promise(fsynced=fsynced), forced=forced)
    return damage and (damage.kind, "; ".join(damage.blocks))


def with_block(number: int, block: bytes) -> Plant:
    return lambda data: data[: number * BLOCK] + block + data[(number + 1) * BLOCK :]


PLANTED: dict[str, tuple[Plant, str, str]] = {
    "shorter": (lambda data: data[:HALF], "TRUNCATED", "blocks 0 to 4: right; blocks 5 to 10: absent"),
    "last-byte": (lambda data: data[:-1], "TRUNCATED", "blocks 0 to 9: right; block 10: absent"),
    "empty": (lambda _: b"", "LOST_CLEAN", "blocks 0 to 10: absent"),
    "tail": (lambda data: data[:HALF] + bytes(SIZE - HALF), "ZEROED", "blocks 0 to 4: right; blocks 5 to 10: zeros"),
    "zeros": (with_block(3, bytes(BLOCK)), "ZEROED", "blocks 0 to 2: right; block 3: zeros; blocks 4 to 10: right"),
    "flipped": (with_block(3, bytes(0xFF ^ byte for byte in BLOCK_3)), "FOREIGN", "block 3: foreign"),
    "misplaced": (with_block(3, piece("copy-1", 4 * BLOCK, BLOCK)), "FOREIGN", "('copy-1 block 4 ."),
    "swapped": (lambda _: piece("copy-2", 0, SIZE), "FOREIGN", "blocks 0 to 10: foreign ('copy-2 block 0"),
    "torn": (with_block(3, BLOCK_3[: BLOCK // 2] + bytes(BLOCK // 2)), "TORN", "block 3: torn (32 of 64 lines"),
    "one-bit": (lambda data: data[:999] + bytes([data[999] ^ 1]) + data[1000:], "TORN", "block 0: torn (63 of 64"),
    "too-long": (lambda data: data + b"x", "FOREIGN", "blocks 0 to 10: right"),
}


@pytest.mark.parametrize(("plant", "kind", "blocks"), PLANTED.values(), ids=PLANTED)
def test_planted_damage_is_found_as_what_it_is(tmp_path: Path, plant: Plant, kind: str, blocks: str) -> None:
    damage = found(tmp_path, plant(piece("copy-1", 0, SIZE)))
    assert damage is not None
    assert damage[0] == kind
    assert blocks in damage[1]


def test_what_is_as_promised_is_left_alone(tmp_path: Path) -> None:
    data = piece("copy-1", 0, SIZE)
    assert found(tmp_path, data) is None
    assert found(tmp_path, data, fsynced=True, forced=True) is None


def test_what_is_owed_depends_on_the_detach(tmp_path: Path) -> None:
    """After a forced one, only what was fsynced; but nobody else's bytes, ever."""
    whole, other = piece("copy-1", 0, SIZE), piece("copy-2", 0, SIZE)
    kinds = {
        (fsynced, forced): [
            (found(tmp_path, data, fsynced=fsynced, forced=forced) or ("none", ""))[0]
            for data in (whole[:HALF], b"", other)
        ]
        for fsynced in (False, True)
        for forced in (False, True)
    }
    assert kinds == {
        (False, False): ["TRUNCATED", "LOST_CLEAN", "FOREIGN"],
        (False, True): ["LOST_UNACKED", "LOST_UNACKED", "FOREIGN"],
        (True, False): ["TRUNCATED", "LOST_ACKED", "FOREIGN"],
        (True, True): ["TRUNCATED", "LOST_ACKED", "FOREIGN"],
    }


def test_a_missing_file_is_lost_and_one_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    gone = examine(str(tmp_path), promise(), forced=False)
    (tmp_path / "copy-1").mkdir()
    unreadable = examine(str(tmp_path), promise(), forced=False)
    assert gone and gone.kind is FindingKind.LOST_CLEAN
    assert unreadable and unreadable.kind is FindingKind.UNAVAILABLE


def test_a_promise_that_contradicts_the_content_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "copy-1").write_bytes(piece("copy-1", 0, SIZE))
    lie = Promise(run=1, name="copy-1", size=SIZE, checksum="0" * 16, fsynced=False)
    with pytest.raises(InternalError, match="checksum"):
        examine(str(tmp_path), lie, forced=False)


def plan(*runs: Run, provider: Provider = "pulls") -> DstackPlan:
    return DstackPlan(bytes=100 * 1024, chunk=4096, provider=provider, runs=runs)


WHOLE = Run(written_back=100 * 1024, committed=True)
PART = Run(written_back=40 * 1024, committed=True)
HARD_JOBS: tuple[Job, ...] = (
    "stays",
    "leaves-child",
    "ignores-sigterm",
    "forks",
    "daemonizes",
    "works-inside",
    "dies-at-start",
)


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    with no_device_left("dstack", GONE_SECONDS):
        yield


@pytest.mark.root
@pytest.mark.parametrize(
    ("variant", "of", "kinds", "said"),
    [
        (
            "no-unmount",
            plan(PART),
            ["TRUNCATED"],
            "cut at 40 of 100 KiB; 0 bytes differ inside; never fsynced",
        ),
        ("no-unmount", plan(Run()), ["LOST_CLEAN", "LOST_CLEAN"], "copy-1 is gone"),
        ("no-unmount", plan(WHOLE, PART), ["TRUNCATED"], "run 2 of 2: copy-2 cut at 40 of 100 KiB"),
        ("no-unmount", plan(WHOLE, WHOLE), [], ""),
        ("unmount-result-ignored", plan(Run(job="leaves-child")), ["LOST_CLEAN", "LOST_CLEAN"], "used by straggler"),
        ("unmount-result-ignored", plan(Run()), [], ""),
        ("exit-published-early", plan(WHOLE), ["FALSE_SUCCESS"], "published while /dev/loop"),
        (
            "mounted-elsewhere",
            plan(Run(elsewhere=True), provider="lets-go"),
            ["FALSE_SUCCESS", "SPLIT"],
            "(sidecar,",
        ),
        ("mounted-elsewhere", plan(Run(elsewhere=True)), ["LOST_CLEAN", "LOST_CLEAN"], "(sidecar,"),
        ("mounted-elsewhere", plan(Run()), [], ""),
        ("fsync-workaround", plan(Run(), provider="lets-go"), [], ""),
    ],
)
@pytest.mark.usefixtures("_nothing_left")
def test_variants_do_what_their_names_say(variant: str, of: DstackPlan, kinds: list[str], said: str) -> None:
    trial = SYSTEM.trial(variant, of)
    assert trial.kinds == kinds
    assert any(said in finding.summary for finding in trial.findings) or not kinds


@pytest.mark.root
@pytest.mark.parametrize("job", HARD_JOBS)
@pytest.mark.parametrize("provider", ["pulls", "lets-go"])
@pytest.mark.usefixtures("_nothing_left")
def test_fixed_bears_with_hard_jobs(job: Job, provider: Provider) -> None:
    trial = SYSTEM.trial("fixed", plan(Run(job=job, elsewhere=True), Run(job=job), provider=provider))
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert trial.facts["kernel"] == "quiet"
    copies = 0 if job == "dies-at-start" else 2
    assert trial.facts["files"] == f"{copies + 2} closed, {copies + 2} as they were"


@pytest.mark.root
def test_a_volume_too_small_for_its_copies_is_no_loss() -> None:
    large = DstackPlan(bytes=8 << 20, chunk=4096, volume=8 << 20, runs=(Run(committed=True),))
    trial = SYSTEM.trial("fixed", large)
    assert trial.verdict is Verdict.INTACT
    assert any("published: exit 1" in line for line in trial.story)


@pytest.mark.root
def test_what_the_fsync_was_not_for_is_shown_and_convicts_nobody() -> None:
    trial = SYSTEM.trial("fsync-workaround", plan(Run()))
    assert trial.verdict is Verdict.INTACT
    assert [finding.kind for finding in trial.findings] == [FindingKind.LOST_UNACKED]
    assert "log-1 is gone" in trial.findings[0].summary


def test_plans_go_to_text_and_back_and_nonsense_is_refused() -> None:
    hard = plan(Run(job="forks", elsewhere=True, delay_ms=5), PART)
    assert SYSTEM.plan(SYSTEM.text(hard)) == hard
    for text in ('{"bytes":0,"runs":[{}]}', '{"bytes":1,"runs":[]}', '{"bytes":1,"runs":[{"jop":"exits"}]}', "{"):
        with pytest.raises(Misuse, match="not a plan of dstack"):
            SYSTEM.plan(text)

"""wal_node: the log's codec, a judge that finds what is planted, and each variant doing what its name says."""

import zlib
from collections.abc import Iterator

import msgspec
import pytest
from kill_support import no_device_left

from fixtures.systems.wal_node import SYSTEM, WalPlan
from fixtures.systems.wal_node.clients import Heard, What, data_of
from fixtures.systems.wal_node.codec import Entry, HardState, Record, encode, scan
from fixtures.systems.wal_node.evidence import Evidence, Log
from fixtures.systems.wal_node.judge import judge
from fixtures.systems.wal_node.messages import LEADER, UNAVAILABLE, PartitionState
from fixtures.systems.wal_node.plan import Fault, FaultName, Kill, Place, checked
from fixtures.systems.wal_node.supervisor import Life
from harness.errors import Misuse
from harness.machine.kmsg import KernelClass, classify
from harness.verdict import FindingKind, Verdict

GONE_SECONDS = 5.0
SIZES = ((100, 9000, 300), (5000, 6000, 5000, 20), (100, 200, 3000))
STRUCK = 1
FAULT = Fault(name="write-error", entry=3)


def log_of(entries: list[tuple[int, bytes]]) -> bytes:
    """As a node writes it: each entry before a hard state that vouches for those before."""
    records: list[Record] = [HardState(1, 0)]
    for number, data in entries:
        records += [Entry(number, data), HardState(1, number - 1)]
    return b"".join(map(encode, records))


def written(partition: int, count: int) -> list[tuple[int, bytes]]:
    return [(n, data_of(partition, n, SIZES[partition][n - 1])) for n in range(1, count + 1)]


SMALL = [(1, b"\x01\x02\0\0\0\0"), (2, b""), (3, bytes(range(40)))]


def test_a_log_cut_at_any_byte_gives_the_records_before_it() -> None:
    whole = log_of(SMALL)
    ends = [placed.end for placed in scan(whole).records]
    assert ends[-1] == len(whole)
    for size in range(len(whole) + 1):
        found = scan(whole[:size])
        assert [placed.end for placed in found.records] == [end for end in ends if end <= size]
        assert found.end == max((end for end in ends if end <= size), default=0)
        assert not found.beyond


def test_a_bit_turned_over_anywhere_costs_one_record_and_is_noticed() -> None:
    whole = log_of(SMALL)
    records = scan(whole).records
    for at in range(len(whole)):
        for bit in range(8):
            found = scan(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            assert [*found.records, *found.beyond] == [each for each in records if not each.at <= at < each.end]
            hit = next(each for each in records if each.at <= at < each.end)
            assert found.end == hit.at


def test_a_hole_that_a_later_hard_state_vouches_for_is_seen() -> None:
    whole = log_of(SMALL)
    second = next(each for each in scan(whole).records if each.record == Entry(*SMALL[1]))
    hollow = scan(whole[: second.at] + bytes(second.end - second.at) + whole[second.end :])
    assert (hollow.last, hollow.committed) == (1, 2)
    torn = scan(whole[: second.at] + bytes(second.end - second.at))
    assert (torn.last, torn.committed) == (1, 0)


def test_entries_out_of_order_end_a_log() -> None:
    for numbers in ([1, 1], [1, 3], [2], [1, 2, 1]):
        found = scan(log_of([(number, b"x") for number in numbers]))
        assert [entry.number for entry in found.entries] == [n for at, n in enumerate(numbers, 1) if n == at][
            : found.last
        ]
        assert found.beyond


def state(name: str = LEADER) -> PartitionState:
    return PartitionState(state=name, reason="", recovery="", last=0, working=False)


def good_log(partition: int, count: int) -> Log:
    entries = written(partition, count)
    file = log_of(entries)
    return Log(
        promised=frozenset(range(1, count + 1)),
        issued=len(SIZES[partition]),
        served=tuple((number, zlib.crc32(data)) for number, data in entries),
        state=state(),
        before=file,
        after=file,
    )


def said(what: What, entry: int, partition: int = STRUCK, life: int = 0) -> Heard:
    return Heard(life=life, partition=partition, entry=entry, what=what)


def good(fault: Fault | None = FAULT, kill: Kill | None = None) -> Evidence:
    """One entry of the struck partition failed, and all after it; nothing else happened."""
    kept = 2 if fault and fault.name != "rot" else 4
    heard = [
        said("acknowledged", n, p) for p, sizes in enumerate(SIZES) if p != STRUCK for n in range(1, len(sizes) + 1)
    ]
    heard += [said("acknowledged" if n <= kept else "failed", n) for n in range(1, 5)]
    logs = [good_log(p, kept if p == STRUCK else len(SIZES[p])) for p in range(3)]
    return Evidence(
        plan=WalPlan(sizes=SIZES, partition=STRUCK, fault=fault, kill=kill),
        lives=(Life(10, 0), Life(11, 0)),
        serving=1,
        heard=tuple(heard),
        states=tuple(state(UNAVAILABLE if p == STRUCK and kept == 2 else LEADER) for p in range(3)),
        logs=tuple(logs),
        rotten=None,
        struck=fault is not None,
    )


def with_log(seen: Evidence, partition: int = STRUCK, **changes: object) -> Evidence:
    logs = list(seen.logs)
    logs[partition] = msgspec.structs.replace(logs[partition], **changes)
    return msgspec.structs.replace(seen, logs=tuple(logs))


def but(seen: Evidence, **changes: object) -> Evidence:
    return msgspec.structs.replace(seen, **changes)


def told(seen: Evidence, *more: Heard, without: What | None = None) -> Evidence:
    return but(seen, heard=(*(each for each in seen.heard if each.what != without), *more))


def rotten(entry: int = 2) -> Evidence:
    """A bit of the entry turned over; the node refused the log and left it alone."""
    seen = good(Fault(name="rot", entry=entry))
    file = seen.logs[STRUCK].after
    placed = next(each for each in scan(file).records if getattr(each.record, "number", 0) == entry)
    bad = file[: placed.at + 20] + bytes([file[placed.at + 20] ^ 1]) + file[placed.at + 21 :]
    return but(with_log(seen, served=None, state=state(UNAVAILABLE), before=bad, after=bad), rotten=placed)


def served(entries: list[tuple[int, bytes]]) -> tuple[tuple[int, int], ...]:
    return tuple((number, zlib.crc32(data)) for number, data in entries)


MORE = written(STRUCK, 3)
SWAPPED = [(1, b"other"), *written(STRUCK, 2)[1:]]
KILL = Kill(at="synced", partition=0, entry=1)
KILLED = (Life(10, -9), Life(11, 0), Life(12, 0))

PLANTED: dict[str, tuple[Evidence, FindingKind]] = {
    "panic": (but(good(), lives=(Life(10, 2, "panic: …"), Life(11, 0))), FindingKind.BLAST),
    "killed-by-nobody": (but(good(), lives=KILLED), FindingKind.BLAST),
    "other-hung": (told(with_log(good(), 0, promised=frozenset({1, 2})), said("hung", 3, 0)), FindingKind.BLAST),
    "other-refused": (with_log(good(), 0, promised=frozenset({1, 2})), FindingKind.BLAST),
    "hung": (told(good(), said("hung", 3), without="failed"), FindingKind.STUCK),
    "refused-for-nothing": (
        with_log(but(good(None, KILL), lives=KILLED), 0, promised=frozenset({1})),
        FindingKind.UNAVAILABLE,
    ),
    "acknowledged-after-failure": (
        told(with_log(good(), promised=frozenset({1, 2, 4})), said("acknowledged", 4)),
        FindingKind.FALSE_SUCCESS,
    ),
    "still-leader": (but(good(), states=(state(),) * 3), FindingKind.FALSE_SUCCESS),
    "gone": (
        with_log(good(), after=log_of(written(STRUCK, 1)), served=served(written(STRUCK, 1))),
        FindingKind.LOST_ACKED,
    ),
    "gone-from-medium": (with_log(good(), after=log_of(written(STRUCK, 1))), FindingKind.LOST_ACKED),
    "gone-from-node": (with_log(good(), served=served(written(STRUCK, 1))), FindingKind.LOST_ACKED),
    "no-file": (with_log(good(), after=b""), FindingKind.LOST_ACKED),
    "twice": (with_log(good(), served=served([*written(STRUCK, 2), *written(STRUCK, 1)])), FindingKind.STALE),
    "beyond": (with_log(good(), issued=2, served=served(MORE), after=log_of(MORE)), FindingKind.FOREIGN),
    "other-bytes": (with_log(good(), served=served(SWAPPED), after=log_of(SWAPPED)), FindingKind.FOREIGN),
    "will-not-serve": (with_log(good(), served=None, state=state(UNAVAILABLE)), FindingKind.UNAVAILABLE),
    "does-not-stay-up": (with_log(good(), served=None, state=None), FindingKind.UNAVAILABLE),
    "rot-cut-off": (with_log(rotten(), after=log_of(written(STRUCK, 1))), FindingKind.LOST_ACKED),
    "rot-written-to": (with_log(rotten(), after=rotten().logs[STRUCK].after + b"x"), FindingKind.FALSE_SUCCESS),
    "rot-served": (with_log(rotten(), served=served(written(STRUCK, 1)), state=state()), FindingKind.LOST_ACKED),
}


@pytest.mark.parametrize(("seen", "kind"), PLANTED.values(), ids=PLANTED)
def test_the_judge_finds_what_is_planted(seen: Evidence, kind: FindingKind) -> None:
    found = judge(seen)
    assert found[0].kind is kind, found
    assert found[0].verdict is Verdict.CORRUPTED


@pytest.mark.parametrize(
    "seen",
    [
        good(),
        with_log(good(), served=served(MORE), after=log_of(MORE)),
        but(good(None, KILL), lives=KILLED, serving=2),
        rotten(),
    ],
    ids=["failed", "failed-and-kept", "killed", "rotten"],
)
def test_the_judge_leaves_alone_what_is_owed(seen: Evidence) -> None:
    assert judge(seen) == []


@pytest.mark.parametrize("seen", [but(good(), struck=False), good(None, KILL)], ids=["fault", "kill"])
def test_what_never_struck_is_no_pass(seen: Evidence) -> None:
    assert [finding.verdict for finding in judge(seen)] == [Verdict.UNKNOWN]


def plan(name: FaultName | None, entry: int = 2, *, for_ever: bool = False, kill: Kill | None = None) -> WalPlan:
    fault = Fault(name=name, entry=entry, for_ever=for_ever, bit=100) if name else None
    return WalPlan(sizes=SIZES, partition=STRUCK, fault=fault, kill=kill, window=2)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (plan("write-error", 5), "past the end"),
        (plan("rot", 4), "nobody could know"),
        (msgspec.structs.replace(plan(None), fault=Fault(name="rot", second=True)), "sure to cost two"),
        (plan("volume-full", 4), "no new block"),
        (msgspec.structs.replace(plan(None), partition=3), "partition 3 of 3"),
        (plan(None, kill=Kill(at="entry", partition=7, entry=1)), "partition 7 of 3"),
        (plan(None, kill=Kill(at="entry", partition=0, entry=9)), "no entry 9"),
        (plan(None, kill=Kill(at="entry", partition=0)), "no entry 0"),
        (plan(None, kill=Kill(at="scanned", partition=0, entry=1)), "no entry in hand"),
        (plan("write-error", kill=Kill(at="entry", partition=STRUCK, entry=1)), "may never come to the kill"),
        (plan("write-error", kill=Kill(at="fsync", partition=STRUCK, entry=1)), "no other fault"),
        (plan("flush-hangs", kill=Kill(at="entry", partition=0, entry=1)), "hangs in the kernel"),
        (plan("rot", kill=Kill(at="repaired", partition=STRUCK)), "not repaired"),
    ],
)
def test_a_plan_that_can_never_strike_is_refused(of: WalPlan, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        checked(of)


def test_plans_go_to_text_and_back_and_nonsense_is_refused() -> None:
    hard = plan("rot", kill=Kill(at="scanned", partition=0))
    assert SYSTEM.plan(SYSTEM.text(hard)) == hard
    for text in ('{"sizes":[[1]]}', '{"sizes":[[0],[1]]}', '{"sizes":[[1],[1]],"fault":{"name":"rust"}}', "{"):
        with pytest.raises(Misuse, match="not a plan of wal"):
            SYSTEM.plan(text)


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    with no_device_left("wal-", GONE_SECONDS):
        yield


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize(
    ("variant", "of", "kind", "summary"),
    [
        ("exit-on-wal-error", plan("write-error"), "BLAST", "ended the whole node: exited with status 2"),
        ("double-cleanup", plan("no-space"), "BLAST", "ended the whole node: exited with status 2"),
        ("still-leader", plan("write-error"), "FALSE_SUCCESS", "entry 2 was refused, and entry 3 acknowledged"),
        ("still-leader", plan("journal-error"), "FALSE_SUCCESS", "says 'leader' after its WAL has failed"),
        ("stopped-in-silence", plan("short-write"), "STUCK", "had not answered by the deadline: entries 2, 3"),
        ("stopped-in-silence", plan("flush-hangs"), "STUCK", "had not answered by the deadline"),
        ("retry-fsync-until-ok", plan("write-error", 3), "LOST_ACKED", "not there after the restart: entr"),
        ("ack-before-persist", plan("volume-full"), "LOST_ACKED", "not there after the restart: entry 2; the log ends"),
        (
            "stop-scan-at-bad-record-and-go-on",
            plan("rot"),
            "LOST_ACKED",
            "not there after the restart: entries 2, 3, 4",
        ),
    ],
)
def test_variants_do_what_their_names_say(variant: str, of: WalPlan, kind: str, summary: str) -> None:
    trial = SYSTEM.trial(variant, of)
    assert trial.verdict is Verdict.CORRUPTED
    assert trial.findings[0].kind == kind == SYSTEM.variant(variant).finding, trial.findings
    assert summary in trial.findings[0].summary


FAULTS: tuple[FaultName, ...] = (
    "write-error",
    "flush-error",
    "short-write",
    "late-error",
    "journal-error",
    "no-space",
    "volume-full",
    "write-hangs",
    "flush-hangs",
)
PLACES: tuple[Place, ...] = ("entry", "state", "flushed", "fsync", "synced", "scanned", "repaired")


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("name", FAULTS)
def test_fixed_fails_alone_and_says_why(name: FaultName) -> None:
    trial = SYSTEM.trial("fixed", plan(name, for_ever=True))
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert trial.facts["pid"] == "unchanged"
    assert trial.facts["hung"] == "0"
    assert int(trial.facts["failed"]) >= 1
    assert any(line.startswith(f"{STRUCK:>8}*") and line.endswith("unavailable") for line in trial.story)


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("at", PLACES)
def test_fixed_bears_with_a_kill_anywhere(at: Place) -> None:
    kill = Kill(at=at, partition=STRUCK, entry=0 if at in ("scanned", "repaired") else 3)
    trial = SYSTEM.trial("fixed", plan(None, kill=kill))
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert trial.facts["pid"] == "changed: killed by SIGKILL"
    assert trial.facts["acknowledged"] == "10 of 10"


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("name", ["write-error", "journal-error"])
def test_fixed_does_not_believe_the_page_cache_after_a_kill(name: FaultName) -> None:
    """The node starts again on volumes that stay mounted: what a failed fsync left there is read well, and is lost."""
    sizes = ((4458, 4998, 4160, 3812, 1, 146), (3750, 1))
    kill = Kill(at="synced", partition=1, entry=1)
    trial = SYSTEM.trial(
        "fixed", WalPlan(sizes=sizes, fault=Fault(name=name, for_ever=name != "write-error"), kill=kill)
    )
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert trial.facts["pid"] == "changed: killed by SIGKILL"


@pytest.mark.root
@pytest.mark.usefixtures("_nothing_left")
def test_fixed_refuses_a_log_with_a_hole_and_says_where() -> None:
    trial = SYSTEM.trial("fixed", plan("rot", kill=Kill(at="scanned", partition=STRUCK)))
    assert trial.verdict is Verdict.INTACT, trial.findings
    assert any("refused: bad record at byte 5,067" in line for line in trial.story)


@pytest.mark.root
def test_kernel_says_that_the_journal_is_lost() -> None:
    trial = SYSTEM.trial("still-leader", plan("journal-error"))
    assert KernelClass.JOURNAL_ABORTED in map(classify, trial.kernel)  # other lines the kernel limits in rate

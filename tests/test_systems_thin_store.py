"""thin_store's store itself, without a kernel: against a model, and at every disk that a power cut may leave."""

import errno
import json
import random
from collections.abc import Callable

import pytest

from fixtures.systems.thin_store.contents import Contents
from fixtures.systems.thin_store.cuts import PoolLog
from fixtures.systems.thin_store.evidence import Evidence
from fixtures.systems.thin_store.judge import judge
from fixtures.systems.thin_store.memory import MemoryPool
from fixtures.systems.thin_store.metadata import BLOCK, SLOTS, Damaged, Geometry
from fixtures.systems.thin_store.plan import ThinPlan
from fixtures.systems.thin_store.practice import Practice, practice_of
from fixtures.systems.thin_store.store import Store
from fixtures.systems.thin_store.tags import SECTOR, Tag, described, tag_of, tagged
from harness.blocklog import LogWriter
from harness.blocklog.format import JSON
from harness.errors import Misuse
from harness.verdict import Finding, FindingKind

CLUSTER = 8192
CLUSTERS = 24
GEOMETRY = Geometry(CLUSTER, CLUSTERS)
SIZE = 4 * CLUSTER
FIXED = Practice()
BACKING = tagged("backing", 0, 3 * CLUSTER // SECTOR)
STATES = 1500


def former() -> bytearray:
    """A formatted pool whose clusters are full of somebody's bytes."""
    disk = bytearray(GEOMETRY.place(CLUSTERS))
    for number in range(CLUSTERS):
        at = GEOMETRY.place(number)
        disk[at : at + CLUSTER] = tagged("former", at // SECTOR, CLUSTER // SECTOR)
    Store.format(MemoryPool(memoryview(disk)), GEOMETRY)
    return disk


class LoggedPool(MemoryPool):
    """What a recorded disk is: all that it is asked to do is in the log."""

    def __init__(self) -> None:
        self.base = bytes(former())
        self.log = LogWriter(bytearray(4 << 20))
        super().__init__(memoryview(bytearray(self.base)))

    def write(self, offset: int, data: memoryview) -> None:
        super().write(offset, data)
        self.log.write(offset, data)

    def flush(self) -> None:
        self.log.flush()

    def say(self, **what: object) -> None:
        self.log.mark(JSON + json.dumps(what).encode())


def test_a_sector_says_whose_it_is() -> None:
    data = tagged("tenant-3", 912, 3) + bytes(2 * SECTOR) + tagged("image", 7, 1, version=2)
    assert tag_of(data[:SECTOR]) == Tag("tenant-3", 912)
    assert described(data) == "tenant-3 blocks 912 to 914, zeros, image block 7 version 2"
    torn = data[: SECTOR // 2] + data[SECTOR : SECTOR + SECTOR // 2]
    assert tag_of(torn) is None
    assert described(torn) == "bytes of nobody"
    assert tag_of(bytes(SECTOR)) is None


@pytest.mark.parametrize("name", ["fixed", "map-before-zero", "snapshot-without-flush"])
@pytest.mark.parametrize("seed", range(4))
def test_a_store_holds_what_a_model_holds(name: str, seed: int) -> None:
    draw = random.Random(seed)
    pool = MemoryPool(memoryview(former()))
    store = Store(pool, practice_of(name), BACKING)
    model: dict[str, bytearray] = {}
    for number in range(300):
        act(draw, store, model, number)
        if number % 20 == 0:
            store = Store(pool, practice_of(name), BACKING)
        for volume, expected in model.items():
            assert store.read(volume, 0, SIZE) == expected, (number, volume)
    for volume in list(model):
        store.delete(volume)
    store.create("all", (CLUSTERS - 1) * CLUSTER)
    store.write("all", 0, memoryview(bytes((CLUSTERS - 1) * CLUSTER)))
    assert store.allocated("all") == CLUSTERS - 1


def act(draw: random.Random, store: Store, model: dict[str, bytearray], number: int) -> None:
    """One drawn operation, on both. A full pool changes neither."""
    names = sorted(model)
    choice = draw.choice(["create", "delete", "snapshot", "write", "write", "write", "discard", "discard"])
    name = f"v{number}"
    if choice == "create" or not names:
        if len(names) < 4:
            backed = draw.random() < 0.5
            store.create(name, SIZE, backed=backed)
            model[name] = bytearray(BACKING.ljust(SIZE, b"\0") if backed else bytes(SIZE))
        return
    of = draw.choice(names)
    if choice == "delete":
        store.delete(of)
        del model[of]
    elif choice == "snapshot" and len(names) < 4:
        store.snapshot(name, of)
        model[name] = bytearray(model[of])
    elif choice in ("write", "discard"):
        first = draw.randrange(SIZE // SECTOR)
        count = draw.randint(1, SIZE // SECTOR - first)
        data = tagged(name, 0, count) if choice == "write" else bytes(count * SECTOR)
        change(store, choice, of, first * SECTOR, data)
        model[of][first * SECTOR : (first + count) * SECTOR] = data


def change(store: Store, choice: str, name: str, offset: int, data: bytes) -> None:
    if choice == "write":
        store.write(name, offset, memoryview(data))
    else:
        store.discard(name, offset, len(data))


def test_skipped_zeros_take_no_cluster_and_given_back_ones_are_used_again() -> None:
    store = Store(MemoryPool(memoryview(former())), FIXED)
    store.create("a", SIZE)
    store.write("a", CLUSTER + SECTOR, memoryview(tagged("a", 0, 2)))
    assert (store.allocated("a"), store.size("a")) == (1, SIZE)
    store.discard("a", CLUSTER, CLUSTER)
    assert store.allocated("a") == 0
    assert store.read("a", 0, SIZE) == bytes(SIZE)


def test_a_store_refuses_what_it_cannot_do_and_changes_nothing() -> None:
    store = Store(MemoryPool(memoryview(former())), FIXED)
    store.create("a", SIZE)
    big = (CLUSTERS + 1) * CLUSTER
    store.create("big", big)
    refused: list[tuple[int, Callable[[], object]]] = [
        (errno.ENOSPC, lambda: store.write("big", 0, memoryview(tagged("big", 0, big // SECTOR)))),
        (errno.EEXIST, lambda: store.create("a", SIZE)),
        (errno.ENOENT, lambda: store.read("b", 0, SECTOR)),
        (errno.ENOENT, lambda: store.delete("b")),
        (errno.EINVAL, lambda: store.create("b", SIZE + 1)),
        (errno.EINVAL, lambda: store.read("a", SIZE, SECTOR)),
    ]
    for number, ask in refused:
        with pytest.raises(OSError) as refusal:
            ask()
        assert refusal.value.errno == number
    assert store.allocated("big") == 0
    store.write("a", 0, memoryview(tagged("a", 0, SIZE // SECTOR)))
    for slot in range(len(store.volumes), SLOTS):
        store.create(f"more-{slot}", SIZE)
    with pytest.raises(OSError, match="at most"):
        store.create("one-more", SIZE)


@pytest.mark.parametrize("at", [0, BLOCK, 2 * BLOCK], ids=["superblock", "table", "map"])
def test_a_damaged_pool_is_not_opened(at: int) -> None:
    disk = former()
    Store(MemoryPool(memoryview(disk)), FIXED).create("a", SIZE)
    disk[at + 30] ^= 1
    with pytest.raises(Damaged, match=r"no \S+ block at byte"):
        Store(MemoryPool(memoryview(disk)), FIXED)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(Misuse, match="no variant 'fast'"):
        practice_of("fast")


class FreesTooSoon(Store):
    """Gives a deleted volume's clusters out before its name is gone for good."""

    def delete(self, name: str) -> None:
        entries = self._map(name)
        del self._entries[name], self._maps[name]
        self._metadata.store_table(list(self._entries.values()))
        self._clusters.drop(entries)
        self._clusters.flushed()


class NeverFlushes(Store):
    """Says that all is durable, and asks the disk for nothing."""

    def flush(self) -> None:
        self._clusters.flushed()


def lives(make: Callable[[LoggedPool], Store]) -> list[Finding]:
    """A tenant comes and goes, a volume gets its clusters, is written, snapshotted, discarded; judged at each cut."""
    pool = LoggedPool()
    store = make(pool)
    contents = {"tenant": Contents(bytes(SIZE)), "volume": Contents(BACKING.ljust(SIZE, b"\0"))}

    def write(name: str, offset: int, data: bytes) -> None:
        change(store, "write" if any(data) else "discard", name, offset, data)
        contents[name].write(offset, data)

    def flush(name: str) -> None:
        store.flush()
        pool.say(synced=name, step=contents[name].step)

    store.create("tenant", SIZE)
    pool.say(created="tenant")
    write("tenant", 0, tagged("tenant", 0, 40))
    flush("tenant")
    pool.say(deleting="tenant")
    store.delete("tenant")
    pool.say(deleted="tenant")
    store.create("volume", SIZE, backed=True)
    pool.say(created="volume")
    write("volume", SECTOR, tagged("image", 1, 3))
    write("volume", 3 * CLUSTER + 2 * SECTOR, tagged("image", 50, 5))
    flush("volume")
    step = contents["volume"].step
    store.snapshot("volume-snap", "volume")
    pool.say(snapshot="volume-snap", of="volume", step=step)
    write("volume", 0, tagged("image", 0, 20, version=2))
    write("volume", CLUSTER, bytes(2 * CLUSTER))
    write("volume", CLUSTER + SECTOR, tagged("image", 17, 2, version=2))
    flush("volume")
    log = PoolLog(pool.log.parsed(), pool.base, GEOMETRY)
    after = tuple(log.after_any(STATES, 0, lambda found: Store(found, FIXED, BACKING)))
    plan = ThinPlan(runs=(0, 1), cluster=8192)
    return judge(Evidence(plan=plan, seen=(), after_cuts=after, contents=contents, events=0, flushes=0))


def test_fixed_keeps_every_promise_at_every_cut() -> None:
    assert lives(lambda pool: Store(pool, FIXED, BACKING)) == []


@pytest.mark.parametrize(
    ("make", "kind", "whose"),
    [
        (lambda pool: Store(pool, practice_of("map-before-zero"), BACKING), FindingKind.FOREIGN, "tenant blocks"),
        (lambda pool: Store(pool, practice_of("no-zero-on-allocate"), BACKING), FindingKind.FOREIGN, "former blocks"),
        (lambda pool: Store(pool, practice_of("unmap-shows-parent"), BACKING), FindingKind.STALE, "backing block 16"),
        (lambda pool: FreesTooSoon(pool, FIXED, BACKING), FindingKind.STALE, "tenant is back"),
        (lambda pool: NeverFlushes(pool, FIXED, BACKING), FindingKind.LOST_ACKED, "volume is gone"),
    ],
    ids=["map-before-zero", "no-zero-on-allocate", "unmap-shows-parent", "frees-too-soon", "never-flushes"],
)
def test_a_store_that_is_wrong_is_found(make: Callable[[LoggedPool], Store], kind: FindingKind, whose: str) -> None:
    found = lives(make)
    assert any(finding.kind is kind and whose in finding.summary for finding in found), found[:3]

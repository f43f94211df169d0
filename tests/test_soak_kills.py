"""A soak under SIGKILL: it goes on where it was, loses no finding, counts each plan once, leaves nothing behind.

The short rounds end whenever the store has grown. With HARNESS_SOAK_MINUTES=20 a soak of twenty minutes, on all file
systems that there are, is killed once a minute as well, and once more it must all add up.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from cli_support import harness
from kill_support import block_devices, eventually, none_with
from soak_support import (
    BROKEN,
    SETTINGS,
    check_bundles,
    keys,
    one,
    shard_names,
    signatures,
    soaking,
    sql,
    wait_for_shards,
)

from harness.campaign import budget
from harness.campaign.morning import last_soak, morning_of, verdict_of
from harness.campaign.plan_shard import key_of
from harness.campaign.sources import CANARY, Source, own
from harness.campaign.store import Store
from harness.plan.plan import Plan
from harness.verdict import Verdict

pytestmark = pytest.mark.root

ROUNDS = 4
SHARDS = 4
NOISE = 3
"""Plans of which the kernel's own threads decide whether the lie shows: no two recordings are quite the same."""
LYING = msgspec.structs.replace(SETTINGS, fault="lying-flush")
TOKEN = "HARNESS_TEST_TOKEN"


def killed(soak: "subprocess.Popen[str]", token: str, before: set[str]) -> None:
    """SIGKILL, and all that it had started is gone with it: processes, and the devices that there were not before."""
    soak.send_signal(signal.SIGKILL)
    soak.wait()
    assert eventually(lambda: none_with(f"{TOKEN}={token}"), 30)
    assert eventually(lambda: block_devices() <= before, 30), block_devices() - before


def words_of(*more: str) -> tuple[str, ...]:
    return ("-q", "--seed", "11", "--workers", "2", *more)


def check_store(reports: Path) -> None:
    """One run; each shard once; each plan once; totals are sums; each finding of the store has what it names."""
    assert one(reports, "SELECT count(*) FROM run WHERE kind = 'soak'") == 1
    assert one(reports, "SELECT count(*) FROM shard") == one(reports, "SELECT count(DISTINCT key) FROM shard")
    assert one(reports, "SELECT count(*) FROM plain") == one(reports, "SELECT sum(trials) FROM plain_total")
    assert one(reports, "SELECT value FROM figure WHERE name = 'canary_found'") >= 2
    assert not sql(reports, "SELECT 1 FROM figure WHERE name = 'canary_missed'")
    check_bundles(reports)
    store = Store.read(str(reports))
    told = morning_of(store, last_soak(store))
    assert told.verdict is verdict_of(store, told.run.id)
    assert told.canary.found == one(reports, "SELECT value FROM figure WHERE name = 'canary_found'")
    assert sum(k.row.states for k in told.kept) == told.states == states_by_sql(reports)


def states_by_sql(reports: Path) -> int:
    plain = one(reports, "SELECT coalesce(sum(states), 0) FROM plain_total WHERE guarantee NOT LIKE ?", CANARY + "%")
    trial = one(reports, "SELECT coalesce(sum(judged), 0) FROM trial WHERE guarantee NOT LIKE ?", CANARY + "%")
    return int(plain + trial)


def test_killed_again_and_again_it_comes_to_the_same(tmp_path: Path) -> None:
    """As a soak of the same seed that nobody kills."""
    words = words_of("--shards", str(SHARDS), *BROKEN)
    reports, names, devices = tmp_path / "reports", shard_names(11, SHARDS, LYING), block_devices()
    for number in range(ROUNDS):
        token = f"{tmp_path.name}-{number}"
        with soaking(tmp_path, *words, **{TOKEN: token}) as soak:
            wait_for_shards(reports, len(keys(reports)) + 1, soak)
            killed(soak, token, devices)
        if names <= keys(reports):
            break
    last = harness("soak", *words, cwd=tmp_path)
    assert last.status == 1, last
    assert names <= keys(reports)
    check_store(reports)
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / "reports"
    assert harness("soak", *words, cwd=tmp_path / "whole").status == 1
    assert names <= keys(whole)
    assert own_plans(reports) == own_plans(whole) == judged_by(names)
    assert len(convicted(reports) ^ convicted(whole)) <= NOISE < len(convicted(reports) & convicted(whole))


def own_plans(reports: Path) -> set[str]:
    """Those that the seed's shards hold, by id, as the store has them; the canaries' left out."""
    intact = {key for (key,) in sql(reports, "SELECT key FROM plain")}
    told = {key for (key,) in sql(reports, "SELECT key FROM trial WHERE guarantee NOT LIKE ?", f"{CANARY}%")}
    known = {key_of(source.name, plan): plan.id for source, plan in all_plans()}
    return {known[key] for key in intact if key in known} | {key.split()[0] for key in told}


def all_plans() -> list[tuple[Source, Plan]]:
    source = own(LYING)
    row = budget.shards(11, [source], {})
    return [(source, plan) for _ in range(SHARDS) for plan in next(row).contents()]


def judged_by(names: set[str]) -> set[str]:
    assert len(names) == SHARDS
    return {plan.id for _, plan in all_plans()}


def convicted(reports: Path) -> set[str]:
    """The plans that were."""
    query = "SELECT key FROM trial WHERE verdict = 'CORRUPTED' AND guarantee NOT LIKE ?"
    return {key.split()[0] for (key,) in sql(reports, query, f"{CANARY}%")}


if "HARNESS_SOAK_MINUTES" in os.environ:
    # Not a skip: a run that forbids skips does not ask for it.

    def test_a_long_soak_under_a_kill_every_minute(tmp_path: Path) -> None:
        minutes = int(os.environ["HARNESS_SOAK_MINUTES"])
        reports, devices = tmp_path / "reports", block_devices()
        findings: set[str] = set()
        words = words_of("--for", f"{minutes}m")
        for number in range(minutes - 1):
            token = f"{tmp_path.name}-{number}"
            with soaking(tmp_path, *words, **{TOKEN: token}) as soak:
                time.sleep(60)
                assert soak.poll() is None, "it ended before its time"
                killed(soak, token, devices)
            now = signatures(reports)
            assert findings <= now, "a finding was lost"
            findings = now
        with soaking(tmp_path, *words) as soak:
            out, err = soak.communicate(timeout=900)
        print(out)
        assert soak.returncode in (0, 1), (out, err)
        assert findings <= signatures(reports)
        check_store(reports)
        store = Store.read(str(reports))
        assert store.run(1).verdict is (Verdict.CORRUPTED if signatures(reports) else Verdict.INTACT)
        assert one(reports, "SELECT value FROM figure WHERE name = 'spent_seconds'") >= 60 * minutes * 0.9

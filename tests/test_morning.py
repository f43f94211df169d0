"""The morning report: what is new, back and gone; bounds that are exact; every figure as SQL reads it in the store."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_support import harness
from soak_support import one, sql

from harness.campaign import night
from harness.campaign.morning import morning_of, upper_bound
from harness.campaign.records import BugSignature, RunInfo, Sighting, Trial
from harness.campaign.store import Plain, Store
from harness.errors import Misuse
from harness.reporting.morning import escaped, markdown
from harness.reporting.morning_page import html
from harness.verdict import FindingKind, Verdict

GUARANTEE = "ext4 keeps what it owes any plan"
CANARY = "canary: ext4 -o nobarrier loses what it promised"
EVIL = "<script>alert(1)</script> | `x` \x1b[31m"


def bug(name: str) -> BugSignature:
    return BugSignature(file_system="ext4", rule=f"LOST_ACKED {name}", shape="creat fsync", lost="data")


def soak(
    store: Store, seen: tuple[str, ...], *, tried: tuple[str, ...] = (), canary: bool = True, end: bool = True
) -> int:
    """One night: 40 plans that were intact, a trial for each bug seen, a canary."""
    run = store.begin(RunInfo(kind="soak", command="harness soak --for 1h", seed=7))
    number = len(store.runs())
    keys = [number.to_bytes(4, "big") + n.to_bytes(4, "big") for n in range(40)]
    figures = {night.SPENT: 90.0, night.SHARDS: 3, "minute/00000/states": 300, "minute/00000/plans": 30}
    figures |= {
        "minute/00001/states": 100,
        "minute/00001/plans": 10,
        "coverage/ext4/rename/fsync": 12,
        night.WORKERS: 4,
    }
    figures |= {f"again/{bug(name).id}/tried": 1 for name in tried}
    told = [(trial(f"{name} {run}", Verdict.CORRUPTED), [sighting(name)]) for name in seen]
    plain = Plain(guarantee=GUARANTEE, file_system="ext4", keys=keys, states=[10] * 40, seconds=3.0)
    safe = Plain(
        guarantee="xfs keeps what it owes any plan",
        file_system="xfs",
        keys=[b"xfs-%04d" % n for n in range(20)],
        states=[5] * 20,
    )
    store.add(run, told, key=f"shard {run}", figures=figures, plain=[plain, safe])
    if canary:
        planted = trial("canary plan", Verdict.CORRUPTED, CANARY, Verdict.CORRUPTED)
        store.add(run, [(planted, [sighting("planted")])], figures={night.CANARY_FOUND: 1})
    if end:
        store.end(run, Verdict.CORRUPTED if seen else Verdict.INTACT if canary else Verdict.UNKNOWN)
    return run


def trial(key: str, verdict: Verdict, guarantee: str = GUARANTEE, expected: Verdict = Verdict.INTACT) -> Trial:
    return Trial(
        key=key, text=EVIL, guarantee=guarantee, file_system="ext4", verdict=verdict, expected=expected, judged=10
    )


def sighting(name: str) -> Sighting:
    return Sighting(signature=bug(name), kind=FindingKind.LOST_ACKED, verdict=Verdict.CORRUPTED, summary=EVIL, states=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "reports"))


def ids(bugs: object) -> list[str]:
    assert isinstance(bugs, tuple)
    return sorted(each.signature.rule.split()[1] for each in bugs)


def test_new_back_still_and_gone(store: Store) -> None:
    soak(store, ("a", "b", "c"))
    soak(store, ("a", "c"))
    last = soak(store, ("a", "b", "d"), tried=("a", "b", "c"))
    told = morning_of(store, last)
    assert (ids(told.new), ids(told.back), ids(told.still), ids(told.gone)) == (["d"], ["b"], ["a"], ["c"])
    # Told of the second night, nothing of the third is known.
    second = morning_of(store, 2)
    assert (ids(second.new), ids(second.back), ids(second.still), ids(second.untried)) == ([], [], ["a", "c"], ["b"])


def test_what_was_not_tried_again_is_not_called_gone(store: Store) -> None:
    soak(store, ("a",))
    told = morning_of(store, soak(store, ()))
    assert not told.gone and ids(told.untried) == ["a"]


def test_a_canary_is_no_finding_of_the_night(store: Store) -> None:
    told = morning_of(store, soak(store, ()))
    assert told.verdict is Verdict.INTACT and not told.found
    assert told.canary.found == 1 and told.canary.last
    assert CANARY not in {kept.row.guarantee for kept in told.kept}


def test_a_night_that_was_killed_says_what_it_has(store: Store) -> None:
    assert morning_of(store, soak(store, (), end=False)).verdict is Verdict.INTACT
    told = morning_of(store, soak(store, (), end=False, canary=False))
    assert told.verdict is Verdict.UNKNOWN and "no canary" in told.reasons[0]
    assert morning_of(store, soak(store, ("a",), end=False, canary=False)).verdict is Verdict.CORRUPTED


def test_another_kind_of_run_is_refused(store: Store) -> None:
    run = store.begin(RunInfo(kind="check", command="harness check"))
    with pytest.raises(Misuse, match="no soak"):
        morning_of(store, run)


@pytest.mark.parametrize(("trials", "bound"), [(1, 0.95), (10, 0.2589), (59, 0.0495), (3000, 0.000998)])
def test_the_bound_is_that_of_clopper_and_pearson(trials: int, bound: float) -> None:
    """Under the bound, all trials pass with a chance of just 5 %; for many it is the rule of three."""
    assert upper_bound(trials) == pytest.approx(bound, rel=1e-3)
    assert (1 - upper_bound(trials)) ** trials == pytest.approx(0.05)
    if trials > 1000:
        assert math.isclose(upper_bound(trials), 3 / trials, rel_tol=0.01)


def test_a_guarantee_that_failed_has_no_bound(store: Store) -> None:
    told = morning_of(store, soak(store, ("a",)))
    bounds = {kept.row.guarantee: kept.upper for kept in told.kept}
    assert bounds[GUARANTEE] is None
    assert bounds["xfs keeps what it owes any plan"] == pytest.approx(upper_bound(20))


def test_every_figure_is_that_of_the_store(store: Store, tmp_path: Path) -> None:
    soak(store, ("a", "b"))
    run = soak(store, ("b", "c"), tried=("a", "b"))
    told, reports = morning_of(store, run), tmp_path / "reports"
    plain = sql(reports, "SELECT sum(trials), sum(states) FROM plain_total WHERE run = ?", run)[0]
    own = sql(reports, "SELECT count(*), sum(judged) FROM trial WHERE run = ? AND expected <> 'CORRUPTED'", run)[0]
    assert (told.plans, told.states) == (plain[0] + own[0], plain[1] + own[1])
    for kept in told.kept:
        failed = one(
            reports,
            "SELECT count(*) FROM trial WHERE run = ? AND guarantee = ? AND verdict = 'CORRUPTED'",
            run,
            kept.row.guarantee,
        )
        assert kept.row.failed == failed
    assert told.seconds == one(reports, "SELECT value FROM figure WHERE run = ? AND name = 'spent_seconds'", run)
    assert sum(minute.states for minute in told.minutes) == one(
        reports, "SELECT sum(value) FROM figure WHERE run = ? AND name LIKE 'minute/%/states'", run
    )
    before = "SELECT signature FROM sighting WHERE run < ?"
    new = sql(
        reports, f"SELECT DISTINCT signature FROM sighting WHERE run = ? AND signature NOT IN ({before})", run, run
    )
    assert {(each.signature.id,) for each in told.new} == set(new)
    for each in told.found:
        count = one(reports, "SELECT count(*) FROM sighting WHERE run = ? AND signature = ?", run, each.signature.id)
        assert each.count == count


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if name in ("src", "href") and tag != "a" and not (value or "").startswith("data:"):
                self.asked.append(f"{tag} {value}")


def test_the_page_and_the_markdown_obey_nothing_that_they_show(store: Store) -> None:
    told = morning_of(store, soak(store, ("a",)))
    page = html(told, "reports")
    parsed = _Page()
    parsed.feed(page)
    assert not parsed.asked and {"verdict", "new", "back", "gone"} <= parsed.ids
    assert "<script>alert(1)" not in page and "\x1b" not in page
    text = markdown(told, "reports")
    assert "<script>" not in text and "\x1b" not in text and "\\<script\\>" in text
    assert escaped("a|b") == "a\\|b"


def test_the_command_reports_the_last_soak(store: Store, tmp_path: Path) -> None:
    soak(store, ())
    soak(store, ("a",))
    words = ("--html", "page.html", "--markdown", "page.md")
    ran = harness("morning", *words, cwd=tmp_path)
    assert ran.status == 1 and "1 new" in ran.out, ran
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "page.md").read_text().startswith("# Soak: CORRUPTED")
    first = harness("morning", "--run", "1", "--json", cwd=tmp_path)
    assert first.status == 0 and first.json["verdict"] == "INTACT" and first.json["states"] == 500
    assert re.search(r"at most 7\.22%", harness("morning", "--run", "1", cwd=tmp_path).out)


def test_without_a_soak_it_says_so(tmp_path: Path) -> None:
    ran = harness("morning", cwd=tmp_path)
    assert ran.status == 2
    ran.assert_one_screen()

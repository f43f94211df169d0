"""`harness soak`: new seeds until the time is up."""

import os
import re
import shlex
import sys
from contextlib import ExitStack
from typing import Any, NamedTuple

import click

from harness.campaign import sources as known
from harness.campaign.morning import morning_of
from harness.campaign.night import RESUMED, Night, Spec, covered_before, spec_of, unfinished
from harness.campaign.pool import LocalPool, Pool
from harness.campaign.shelf import FOLDER, Shelf
from harness.campaign.soak import Claim, Limits, Outcome, Soak
from harness.campaign.sources import Source
from harness.campaign.store import RunRow, Store
from harness.cli import exits, options
from harness.cli.morning import write_files
from harness.cli.verdicts import could_not_write, write_json
from harness.errors import Misuse
from harness.machine import requirements
from harness.reporting import morning as words
from harness.reporting.console import console
from harness.reporting.soak import Follower
from harness.reporting.terminal import Page
from harness.settings import parse_size
from harness.verdict import ExitCode, Verdict

_SETTINGS = (
    *("fs", "size", "mount_options", "mkfs_options", "sector_size", "fault"),
    *("model", "unit", "max_states", "bound", "depth", "contract", "timeout", "fsck", "scratch"),
)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_DISK = "2G"


def read_time(text: str) -> float:
    """Seconds from `8h`, `90m`, `1h30m`, `45s`, `2d`. Raises Misuse."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd])", text.replace(" ", ""))
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        raise Misuse(f"{text!r} is no time", "give a number with s, m, h or d: 30m, 8h, 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@click.command("soak", epilog=exits.epilog())
@click.option("--for", "time_text", metavar="TIME", default="", help="How long: 30m, 8h, 2d.")
@click.option("--shards", type=click.IntRange(min=1), metavar="N", help="Stop after N shards of new seeds as well.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="[default: a new one, which is printed]")
@click.option("--scenarios", metavar="PATH", multiple=True, help="Run these pytest scenarios too, with new seeds.")
@click.option("--disk", metavar="SIZE", default=_DISK, show_default=True, help="For bundles and store together.")
@click.option("--workers", type=click.IntRange(min=0), metavar="N", default=0, help="[default: two a core]")
@click.option("--scheduler", metavar="ADDRESS", default="", help="Spread the work over this Dask cluster: tcp://…")
@click.option("--resume", is_flag=True, help="Go on with the last soak, also one that was stopped by a signal.")
@click.option("--new", "anew", is_flag=True, help="Begin a new soak, also where the last one was killed.")
@options.settings_options(_SETTINGS)
@options.reports_option
@options.report_options
def command(
    time_text: str,
    shards: int | None,
    seed: int | None,
    scenarios: tuple[str, ...],
    disk: str,
    workers: int,
    scheduler: str,
    resume: bool,
    anew: bool,
    reports: str,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Judge plans of new seeds until the time is up: half of the time goes to what was judged least so far. What
    earlier runs found is tried again first. A canary, a bug that is planted, must keep being found; else the verdict is
    UNKNOWN.

    A soak that was killed goes on when it is started again with the same --reports. SIGTERM and Ctrl-C end it in order,
    with its report. Any setting besides --fs makes it a soak of exactly such volumes.

    \b
      harness soak --for 8h
      harness soak --for 1h --scenarios scenarios --fs ext4
      harness soak --for 10m --mount-options nobarrier
    """
    limits = _limits(time_text, shards)
    if resume and anew:
        raise Misuse("--resume and --new exclude each other", "give one of them, or none")
    most = parse_size(disk)
    chosen, notes = _sources(values, scenarios)
    out = console(sys.stderr if json_path == "-" else sys.stdout)
    follower = Follower(console(sys.stderr), quiet=quiet, verbose=verbose)
    for note in notes:
        follower.note(note)
    try:
        spec = Spec(sources=tuple(chosen), canaries=known.CANARIES)
        outcome, store = _soak(_Wanted(spec, limits, seed, most, workers, scheduler, resume, anew), reports, follower)
    except OSError as error:
        could_not_write("the store", reports, error)
        return ExitCode.UNKNOWN
    return _conclude(outcome, store, reports, Page(out, verbose=verbose), json_path)


class _Wanted(NamedTuple):
    """What the user asked for. `disk` in bytes."""

    spec: Spec
    limits: Limits
    seed: int | None
    disk: int
    workers: int
    scheduler: str
    resume: bool
    anew: bool


def _limits(text: str, shards: int | None) -> Limits:
    if not text and not shards:
        raise Misuse("how long is not said", "give --for TIME (8h, 30m), or --shards N")
    return Limits(read_time(text) if text else float("inf"), shards or 0)


def _sources(values: dict[str, Any], paths: tuple[str, ...]) -> tuple[list[Source], list[str]]:
    """Those that were asked for; the built-in ones where none was."""
    for path in paths:
        if not os.path.exists(path.partition("::")[0]):
            raise Misuse(f"{path}: no such file or folder", "name the scenarios: --scenarios scenarios/test_….py")
    given = options.given(values)
    fs = [given["fs"]] if "fs" in given else []
    requirements.require("ext4")  # the canaries live there
    for name in fs:
        requirements.require(name)
    if set(given) - {"fs"}:
        return [known.own(options.settings_of(values)), *known.scenarios(paths)], []
    chosen, notes = known.available(fs) if not paths or fs else ([], [])
    return [*chosen, *known.scenarios(paths)], notes


def _soak(wanted: _Wanted, reports: str, follower: Follower) -> tuple[Outcome, Store]:
    store = Store.open(reports)
    with ExitStack() as stack:
        stack.enter_context(Claim(os.path.join(store.reports, FOLDER)))
        # Before anything else is open here: the servers are forked.
        pool = _pool(wanted)
        stack.callback(pool.close)
        shelf = Shelf(store, wanted.disk)
        swept = shelf.sweep()
        if swept:
            follower.note(f"{swept} files that no finding names were removed from {shelf.folder}")
        night, spec, row = _night(store, shelf, wanted, follower)
        stack.enter_context(follower.view)
        outcome = Soak(night, pool, spec, row.seed, wanted.limits, follower).run()
    return outcome, store


def _pool(wanted: _Wanted) -> Pool:
    if not wanted.scheduler:
        return LocalPool(wanted.workers)
    from harness.campaign.cluster import ClusterPool

    return ClusterPool(wanted.scheduler)


def _night(store: Store, shelf: Shelf, wanted: _Wanted, follower: Follower) -> tuple[Night, Spec, RunRow]:
    """The soak that was killed, if it goes on; else a new one."""
    spec = wanted.spec
    old = None if wanted.anew else unfinished(store, spec, wanted.seed, interrupted=wanted.resume)
    if old:
        follower.note(f"soak run {old.id} goes on, seed {old.seed}")
        store.add(old.id, [], figures={RESUMED: 1})
        return Night(store, old.id, shelf), spec_of(old) or spec, old
    if wanted.resume:
        raise Misuse("no soak of this kind is there to go on with", "leave out --resume, or give the same options")
    seed = wanted.seed if wanted.seed is not None else int.from_bytes(os.urandom(4), "big")
    spec = Spec(sources=spec.sources, canaries=spec.canaries, covered=covered_before(store, spec.sources))
    night = Night.begin(store, shelf, spec, seed, shlex.join(["harness", *sys.argv[1:]]))
    follower.note(f"soak run {night.run}, seed {seed}")
    return night, spec, store.run(night.run)


def _conclude(outcome: Outcome, store: Store, reports: str, page: Page, json_path: str) -> ExitCode:
    code = ExitCode.INTERRUPTED if outcome.interrupted else outcome.verdict.exit_code
    if outcome.trouble:
        could_not_write("the store", reports, outcome.trouble)
        if outcome.trouble.errno is None:
            raise outcome.trouble
        return code if outcome.verdict is Verdict.CORRUPTED else ExitCode.UNKNOWN
    morning = morning_of(store, outcome.run)
    words.show(page, morning, reports)
    whole = write_files(morning, reports)
    whole &= write_json(json_path, lambda: words.as_json(morning, reports) | {"exit_code": int(code)})
    if outcome.interrupted:
        print("interrupted; go on with --resume", file=sys.stderr)
    return ExitCode.UNKNOWN if code is ExitCode.INTACT and not whole else code

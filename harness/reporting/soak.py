"""How a soak is going: rate, findings, what was covered of operations before persistence, the canary, the time left."""

from collections.abc import Iterable, Mapping, Set

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.campaign.shards import Shard, ShardResult
from harness.campaign.soak import View, Watcher
from harness.reporting.live_view import LiveView
from harness.reporting.text import count, printable, seconds, shortened

_SHADES = " .:-=+*#%@"
_FINDINGS = 6
_OPERATIONS = 16
_PERSISTENCE = 8
_NOWHERE: Mapping[tuple[str, str], Set[str]] = {}
_STYLES = ("dim", "", "", "cyan", "cyan", "bold cyan", "bold cyan", "bold green", "bold green", "bold green")


class Follower(Watcher):
    """Draws it. `verbose`: a line for each shard as well."""

    def __init__(self, console: Console, *, quiet: bool = False, verbose: bool = False) -> None:
        self.view = LiveView(console, quiet=quiet)
        self._verbose = verbose

    def tick(self, view: View) -> None:
        self.view.tell(lambda: _screen(view), lambda: _line(view))

    def shard(self, shard: Shard, result: ShardResult, *, new: bool) -> None:
        if self._verbose:
            what = "found" if result.convicts else "intact" if not result.unknown else "unknown"
            text = f"shard {shard.name} of {shard.source}: {what}, {count(result.plans, 'plan')}, "
            text += f"{count(result.judged, 'state')} in {seconds(result.seconds)}"
            self.view.say(text + ("" if new else ", judged before"))

    def note(self, text: str) -> None:
        self.view.say(printable(text))


def _line(view: View) -> str:
    """One line that says it all, for a log."""
    night = view.night
    findings = count(len(night.findings), "kind") + " of finding" if night.findings else "no finding"
    return (
        f"soak run {night.run}: {count(night.plans, 'plan')}, {count(night.states, 'state')}, "
        f"{view.rate:,.0f} states/s, {findings}, {_canary(view)}, {_left(view)}"
    )


def _left(view: View) -> str:
    if view.ending:
        return "waiting for the last shards"
    return f"{_time(view.left)} left" if view.left != float("inf") else f"{count(view.night.shards, 'shard')} done"


def _time(number: float) -> str:
    hours, rest = divmod(int(number), 3600)
    return f"{hours} h {rest // 60} min" if hours else seconds(number)


def _canary(view: View) -> str:
    night = view.night
    if night.missed:
        return f"CANARY MISSED {night.missed:,} of {night.canaries:,} times"
    if night.canary_seen_at < 0:
        return "canary not yet found"
    return f"canary found {seconds(max(0.0, night.spent - night.canary_seen_at))} ago"


def _screen(view: View) -> RenderableType:
    night = view.night
    head = Text.assemble(
        ("soak ", "bold"),
        f"run {night.run}   {_time(view.spent)} done, {_left(view)}   ",
        (f"{view.rate:,.0f} states/s", "bold"),
        f"   {count(night.states, 'state')}, {count(night.plans, 'plan')}, {count(night.shards, 'shard')}",
    )
    canary = Text(_canary(view), style="bold red" if night.missed else "green")
    if night.unknown:
        canary.append(f"   {count(night.unknown, 'trial')} without a verdict", style="bold yellow")
    parts: list[RenderableType] = [head, canary, _workers(view), *_findings(view)]
    if night.coverage:
        parts.append(heat_table(night.coverage.items(), night.met))
    return Group(*parts, _sources(view))


def _workers(view: View) -> Text:
    busy = ", ".join(f"{source} ({plans})" for source, plans, _ in view.busy[:8])
    more = f" and {len(view.busy) - 8} more" if len(view.busy) > 8 else ""
    return Text(f"{len(view.busy)} of {view.workers} workers: {busy}{more}", style="dim", no_wrap=True)


def _findings(view: View) -> list[Text]:
    night = view.night
    if not night.findings:
        return [Text("no finding", style="green")]
    rows = [
        Text.assemble((f"{times:>6,} ", "bold red"), f"{name}  {printable(shortened(night.words[name], 100))}")
        for name, times in night.findings.most_common(_FINDINGS)
    ]
    more = len(night.findings) - _FINDINGS
    return rows + ([Text(f"       and {count(more, 'further kind')} of finding")] if more > 0 else [])


def _sources(view: View) -> Text:
    parts = [f"{name} {states:,}" for name, states in sorted(view.night.by_source.items())]
    return Text("states by source: " + (", ".join(parts) or "none yet"), style="dim", no_wrap=True, overflow="ellipsis")


def heat_table(
    cells: Iterable[tuple[tuple[str, str], int]], met: Mapping[tuple[str, str], Set[str]] = _NOWHERE
) -> Table:
    """Operations down, what made them durable across; the darker the more often. Counts are on a scale of powers.

    `met`: the kinds of volume and fault on which each cell was judged; where some lack it, their number is told.
    """
    counts = dict(cells)
    volumes = len(set().union(*met.values()))
    rows = _most(counts, 0)[:_OPERATIONS]
    columns = _most(counts, 1)[:_PERSISTENCE]
    most = max(counts.values(), default=1)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("operation, before" + (f" (on {volumes} kinds of volume)" if volumes > 1 else ""), style="dim")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        keys = [(row, column) for column in columns]
        table.add_row(row, *(_cell(counts.get(key, 0), most, len(met.get(key, ())), volumes) for key in keys))
    return table


def _most(counts: dict[tuple[str, str], int], axis: int) -> list[str]:
    sums: dict[str, int] = {}
    for key, times in counts.items():
        sums[key[axis]] = sums.get(key[axis], 0) + times
    return sorted(sums, key=lambda name: (-sums[name], name))


def _cell(times: int, most: int, on: int, volumes: int) -> Text:
    if not times:
        return Text("never", style="dim red")
    shade = min(len(_SHADES) - 1, 1 + int((len(_SHADES) - 2) * times.bit_length() / most.bit_length()))
    lacking = f" on {on}" if on < volumes else ""
    return Text(f"{_SHADES[shade]} {times:,}{lacking}", style=_STYLES[shade])

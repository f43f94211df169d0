"""Volumes for people: the devices and journals of this machine, and what the broom met."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.machine.owners import Life
from harness.reporting.text import count, printable, seconds, size
from harness.volume.registry import Device, Kept, Swept

_STYLES = {Life.ALIVE: "green", Life.DEAD: "bold red", Life.UNKNOWN: "yellow"}


_WIDTH = 1000  # a path is one line, to be copied


def show(out: Console, devices: Sequence[Device], journals: Sequence[Kept]) -> None:
    """Two tables, and below the devices who holds them."""
    out.width = max(out.width, _WIDTH)
    if devices:
        out.print(_devices(devices))
        for device in devices:
            for holder in device.holders:
                out.print(Text(f"{device.path} is held by {printable(str(holder))}"))
    else:
        out.print("no device of ours is bound on this machine")
    if journals:
        out.print()
        out.print(_journals(journals))


def show_swept(out: Console, found: Sequence[Swept], *, dry_run: bool) -> None:
    """A line for each thing, and what is left to do by hand."""
    for one in found:
        if not one.left:
            word, style = ("would clear" if dry_run else "cleared"), "green"
        else:
            word, style = ("still there", "bold red") if one.ours else ("left alone", "yellow")
        why = f": {printable(one.left)}" if one.left else ""
        out.print(Text.assemble((f"{word:<11}", style), f"  {one.what} {printable(one.name)}{why}"))
    if not any(one.ours for one in found):
        out.print("no dead run of ours left anything")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _devices(devices: Sequence[Device]) -> Table:
    table = _table("device", "label", "capacity", "owner", "held by", "backing file")
    for device in devices:
        capacity = "removed" if device.removed else size(device.capacity)
        owner = device.owner + (f", pid {device.owner_pid}" if device.owner_pid else "")
        table.add_row(
            device.path,
            Text(printable(device.label) or "-"),
            capacity,
            Text(owner, style=_STYLES[device.owner]),
            count(len(device.holders), "holder"),
            Text(printable(device.backing)),
        )
    return table


def _journals(journals: Sequence[Kept]) -> Table:
    table = _table("volume", "state", "for", "where", "device", "owner", "journal")
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for kept in journals:
        path = Text(printable(kept.path))
        owner = Text(kept.owner + (f", pid {kept.open_in}" if kept.open_in else ""), style=_STYLES[kept.owner])
        if kept.last is None:
            table.add_row("-", Text(printable(kept.damage) or "empty", style="red"), "", "", "", owner, path)
            continue
        last = kept.last
        state = last.state + (f", about to {last.intent}" if last.intent else "") + (" by force" if last.forced else "")
        since = seconds(max(0.0, now - last.at))
        table.add_row(Text(printable(last.volume)), state, since, Text(printable(last.where)), last.device, owner, path)
    return table

"""From a log to its epochs and to the cuts that differ in what they demand."""

from bisect import bisect_left
from collections.abc import Iterator

from harness.blocklog import BlockLog, Event, Kind
from harness.crash.model import Atom, Cut, Epoch
from harness.errors import BadLog


def split_epochs(log: BlockLog, size: int, unit: int | None) -> list[Epoch]:
    """The epochs of the log, with writes split at multiples of `unit` bytes of the device, or whole (None).

    Raises BadLog if an event reaches beyond the `size` bytes of the volume.
    """
    epochs: list[Epoch] = []
    atoms: list[Atom] = []
    start = 0
    for at, event in enumerate(log.events):
        if event.kind is Kind.FLUSH:
            epochs.append(Epoch(len(epochs), start, at, tuple(atoms)))
            atoms, start = [], at + 1
        elif event.kind is not Kind.MARK:
            if event.offset + event.length > size:
                raise BadLog(
                    f"event {at} of the log touches bytes {event.offset} to {event.offset + event.length} "
                    f"of a volume of {size}",
                    "give the base image that belongs to the log",
                )
            atoms += _atoms(at, event, unit)
    epochs.append(Epoch(len(epochs), start, len(log.events), tuple(atoms)))
    return epochs


def _atoms(at: int, event: Event, unit: int | None) -> Iterator[Atom]:
    _, offset, length, data_at, fua = event
    # A discard is one command without data: there is nothing of it to tear.
    if unit is None or data_at < 0:
        yield Atom(at, offset, length, data_at, fua)
        return
    end = offset + length
    start = offset
    while start < end:
        stop = min(end, (start // unit + 1) * unit)
        yield Atom(at, start, stop - start, data_at + start - offset, fua)
        start = stop


def find_cuts(log: BlockLog, epochs: list[Epoch], begin: int, end: int) -> list[Cut]:
    """The cuts within [begin, end], in log order: one for each epoch, number of promises and number of FUA atoms.

    A cut after which a FUA write completed allows disks without that write, so a later cut does not speak for it.
    """
    promise_at = [promise.at for promise in log.promises()]
    found: list[Cut] = []
    for epoch in epochs:
        if epoch.stop < begin or epoch.start > end:
            continue
        events = [atom.event for atom in epoch.atoms]
        fua_events = [atom.event for atom in epoch.atoms if atom.fua]
        first = epoch.start
        for last in _turns(epoch, promise_at, fua_events):
            if last >= begin and first <= end:
                cut = min(last, end)
                counts = bisect_left(promise_at, cut), bisect_left(events, cut), bisect_left(fua_events, cut)
                found.append(Cut(epoch.index, cut, *counts))
            first = last + 1
    return found


def _turns(epoch: Epoch, promise_at: list[int], fua_events: list[int]) -> list[int]:
    """The last cut before each promise and each FUA write of the epoch, and the epoch's last cut."""
    inside = promise_at[bisect_left(promise_at, epoch.start) : bisect_left(promise_at, epoch.stop)]
    return [*sorted({*inside, *fua_events}), epoch.stop]

"""The words of the crash model: models, atoms, epochs, cuts, states."""

import enum
import math
from typing import NamedTuple

import msgspec


class Model(enum.StrEnum):
    """Which of the unflushed writes a power cut may lose. TORN allows all of SUBSET, SUBSET all of the others."""

    FLUSHED = "flushed"
    PREFIX = "prefix"
    SUBSET = "subset"
    TORN = "torn"


class Atom(NamedTuple):
    """What the device persists wholly or not at all: a write, a discard, or (model torn) one atomic unit of a write."""

    event: int
    """Index of its event in the log; the units of one write share it."""
    offset: int
    length: int
    data_at: int
    """Where its bytes lie in the log's buffer; -1: zeros."""
    fua: bool


class Epoch(msgspec.Struct, frozen=True):
    """What happened between two completed flushes: `events[start:stop]`. At `stop` is a flush, or the log's end."""

    index: int
    start: int
    stop: int
    atoms: tuple[Atom, ...]


class Cut(NamedTuple):
    """All cuts of one epoch that demand the same: the same promises made, the same FUA writes completed.

    Whatever an earlier one of them allows, the last one allows too; `cut` is that last one.
    """

    epoch: int
    cut: int
    promises: int
    atoms: int
    """How many atoms of the epoch lie before the cut."""
    fua: int
    """Bits of the atoms before the cut that are certainly persisted, counted."""

    @property
    def free(self) -> int:
        """How many atoms before the cut may be there or not."""
        return self.atoms - self.fua


class CrashState(NamedTuple):
    """One disk that the model allows, with what had been promised by then."""

    epoch: int
    cut: int
    """The power went after `events[:cut]`."""
    kept: int
    """Bit i: atom i of the epoch was persisted. All epochs before it are there in full."""
    promises: int
    """How many promises had been made."""
    name: str
    """Names the disk: 32 hex digits, zeros for the base itself. Promises are not part of it."""


class Selection(NamedTuple):
    """What StateSpace.states chose."""

    states: list[CrashState]
    """Distinct by name and promises, sorted so that a DiskBuilder walks forward."""
    candidates: int
    """How many (cut, subset) pairs were looked at to find them."""
    complete: bool
    """True only if these are all states that the model allows."""


def show_count(count: int) -> str:
    """A number of states for people, also one with thousands of digits: `1,270`, `about 2^4096`."""
    return f"{count:,}" if count < 10**12 else f"about 2^{round(math.log2(count))}"

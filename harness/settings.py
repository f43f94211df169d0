"""Every setting of a trial, declared once: flags, pytest ini keys, marker arguments and help text derive from here."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from harness.errors import Misuse

_SUFFIX = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str | int) -> int:
    """Bytes from `65536`, `64K`, `64M`, `4G` or `64MiB` (powers of 1024). Raises Misuse for anything else."""
    if isinstance(text, int):
        return text
    stripped = text.strip().upper().removesuffix("IB").removesuffix("B")
    number, suffix = (stripped[:-1], stripped[-1:]) if stripped[-1:] in set("KMGT") else (stripped, "")
    if not number.isascii() or not number.isdigit():
        raise Misuse(f"{text!r} is not a size", "give bytes, or a number with K, M, G or T: 64M")
    return int(number) * _SUFFIX[suffix]


def show_size(size: int) -> str:
    """The shortest exact spelling of a size in bytes that parse_size reads back: 67108864 -> 64M."""
    for suffix in "TGMK":
        if size and size % _SUFFIX[suffix] == 0:
            return f"{size // _SUFFIX[suffix]}{suffix}"
    return str(size)


def _parse_int(text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        raise Misuse(f"{text!r} is not a whole number", "give digits only") from None


def _parse_seconds(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise Misuse(f"{text!r} is not a number of seconds", "give a number such as 30 or 0.5") from None


def _parse_bool(text: str | bool) -> bool:
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return known[str(text).strip().lower()]
    except KeyError:
        raise Misuse(f"{text!r} is neither yes nor no", "give yes or no") from None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one trial is run with. Sizes in bytes, times in seconds. 0 in `size` and `workers` means "choose for me"."""

    fs: str = "ext4"
    size: int = 0
    mount_options: str = ""
    mkfs_options: str = ""
    sector_size: int = 4096
    model: str = "subset"
    unit: int = 4096
    max_states: int = 1000
    bound: int = 10
    seed: int = 0
    timeout: float = 60.0
    fsck: bool = True
    workers: int = 0
    scratch: str = "auto"
    linger: float = 0.0
    log_max: int = 4 << 30
    cuts: str = "all"
    depth: int = 1
    fault: str = "none"
    contract: str = "linux"


class Declared(NamedTuple):
    """One setting as its doors need it: how to read it from text, and what to tell the user about it."""

    name: str
    parse: Callable[[Any], Any]
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    least: float = 0

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def read(self, text: object) -> Any:
        """The value in `text`. Raises Misuse for what cannot be read, is not among the choices, or is too small."""
        value = self.parse(text)
        if self.choices and str(value) not in self.choices:
            raise Misuse(f"{self.flag} {value} is not known", "choose one of " + ", ".join(self.choices))
        if isinstance(value, int | float) and not value >= self.least:  # not >=: a NaN is refused too
            raise Misuse(f"{self.flag} {value} is too small", f"give at least {self.least:g}")
        return value


_DEFAULTS = Settings()


def _declare(
    name: str, parse: Callable[[Any], Any], text: str, choices: tuple[str, ...] = (), least: float = 0
) -> Declared:
    return Declared(name, parse, getattr(_DEFAULTS, name), text, choices, least)


DECLARED: Mapping[str, Declared] = {
    d.name: d
    for d in (
        _declare("fs", str, "File system of the volume: ext4, ext3, ext2, xfs, btrfs."),
        _declare("size", parse_size, "Size of the volume: 64M, 4G. 0: the smallest that suits the file system."),
        _declare("mount_options", str, "Options for mount(2), as after mount -o: noatime,data=journal."),
        _declare("mkfs_options", str, "Further words for mkfs: '-O ^has_journal'."),
        _declare("sector_size", _parse_int, "Logical sector of the volume's device, in bytes.", ("512", "4096")),
        _declare("model", str, "Which disks a power cut may leave.", ("flushed", "prefix", "subset", "torn")),
        _declare("unit", _parse_int, "Bytes that the device writes atomically (model torn).", ("512", "4096")),
        _declare(
            "max_states", _parse_int, "Judge at most this many distinct states; beyond it the run is a sample.", least=1
        ),
        _declare("bound", _parse_int, "Enumerate an epoch whole when it has at most this many unflushed writes."),
        _declare("seed", _parse_int, "Seed of the random subsets in a sample. The same seed gives the same states."),
        _declare(
            "timeout",
            _parse_seconds,
            "Seconds for the workload, and for each check, before it counts as hung.",
            least=0.01,
        ),
        _declare("fsck", _parse_bool, "Run the file system's own check, read-only, on each recovered volume."),
        _declare("workers", _parse_int, "Processes that judge states. 0: by the number of cores."),
        _declare("scratch", str, "Device on which states are recovered.", ("auto", "zram", "loop")),
        _declare("linger", _parse_seconds, "Seconds to go on recording after the workload, before the unmount."),
        _declare(
            "log_max",
            parse_size,
            "Largest block log, in bytes of memory; a longer recording is UNKNOWN.",
            least=1 << 20,
        ),
        _declare(
            "cuts",
            str,
            "Where the power is cut: anywhere, or only right after each promise, with all or nothing unflushed lost.",
            ("all", "promises"),
        ),
        _declare("depth", _parse_int, "2: the recovery of each crash state is recorded and cut as well.", ("1", "2")),
        _declare("fault", str, "A fault of the device, beside the power cut.", ("none", "lying-flush")),
        _declare("contract", str, "What a file system owes a plan.", ("posix", "linux")),
    )
}

OF_PLANS = ("contract",)
"""Settings that mean something where a plan is judged, and nothing for a check of the user's own."""


def from_text(values: Mapping[str, object]) -> Settings:
    """Settings from a mapping of names to text (or ready values). Raises Misuse for an unknown name or a bad value."""
    unknown = sorted(set(values) - set(DECLARED))
    if unknown:
        raise Misuse(f"unknown setting {unknown[0]!r}", "known: " + ", ".join(DECLARED))
    return Settings(**{name: DECLARED[name].read(value) for name, value in values.items()})

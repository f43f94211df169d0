"""Which fsync is missing, and which is not needed: the answer, as it was measured."""

import msgspec


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One call added to the workload, or one of its own left out, at every place of the same shape."""

    action: str
    """`fsync`, `fdatasync`, `fsync directory`, `remove`."""
    target: str
    """The file or directory, from the volume's root: `config.new`, `.`; numbers in it may stand as N."""
    place: str
    """`before rename at operation 4`; `before each rename of config.new -> config`."""
    times: int = 1
    """At how many places of the run."""

    @property
    def text(self) -> str:
        """`fsync(config.new) before each rename of config.new -> config`."""
        verb = {"fsync directory": "fsync", "remove": "without fsync"}.get(self.action, self.action)
        what = f"directory {self.target}" if self.action == "fsync directory" else self.target
        return f"{verb}({what}) {self.place}"


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A set of changes, and what judging the changed workload came to."""

    changes: tuple[Change, ...] = ()
    states: int = 0
    failing: int = 0
    """States with a finding that convicts."""
    unknown: int = 0
    complete: bool = False
    """Whether `states` were all that the model allows."""
    trouble: str = ""
    """Why it could not be judged; empty if it was."""

    @property
    def intact(self) -> bool:
        """Every state was judged and none failed."""
        return not self.trouble and self.states > 0 and not self.failing and not self.unknown

    @property
    def text(self) -> str:
        """`fsync(tmp) before rename at operation 4`; several joined by ` and `."""
        return " and ".join(change.text for change in self.changes) or "as it is"


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search for the smallest set of fsyncs that makes every judged state intact."""

    before: Tried
    """The workload as it is."""
    best: Tried | None = None
    """The smallest set found; None where none helps, or none is missing."""
    others: tuple[Tried, ...] = ()
    """Further sets of that size that help as well."""
    superfluous: tuple[Tried, ...] = ()
    """Each of one `remove`: without it every judged state is intact too."""
    exhaustive: bool = True
    """False: the search met its bound before it had tried every smaller set."""
    searched: int = 0
    """Workloads that were run and judged."""
    seconds: float = 0.0
    why: str = ""
    """Where there is no `best`: the reason, in words."""

    @property
    def text(self) -> str:
        """`fsync(tmp) before rename at operation 4: 0 of 212 states fail, was 31`; or why there is nothing to add."""
        if self.best is None:
            return self.why
        return f"{self.best.text}: 0 of {self.best.states:,} states fail, was {self.before.failing:,}"

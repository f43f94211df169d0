"""The missing fsync: which calls, added to a workload, make every judged state intact; and which of its own do nothing.

The search knows nothing of plans or programs: a Subject offers changes, runs the workload with some of them, and judges
what a power cut may leave of that run, on the real kernel. The smallest set is looked for in this order: nothing, one
call, all of them at once (if even that fails no smaller set is looked for), two calls, and from all of them downwards
(Zeller, Hildebrandt: Simplifying and Isolating Failure-Inducing Input, IEEE TSE 2002) to a set that no call can be left
out of.
"""

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import msgspec

from harness.advice.advised import Advice, Change, Tried
from harness.errors import HarnessError

TRIES_MAX = 300
_CONFIRMATIONS = 2
_PAIRED = 6
"""So many of the calls that help a little by themselves are tried two by two."""
_OTHERS_MAX = 4
_TOO_MUCH = (
    "the check asks for more than any fsync can give, e.g. two files changed at once, or an append that is there whole "
    "or not at all"
)


class Subject(Protocol):
    """A workload that can be run and judged with changes."""

    def additions(self) -> Sequence[Change]:
        """Calls that may be missing, the most likely first."""

    def removals(self) -> Sequence[Change]:
        """One for each place of the workload that makes something durable, with the action `remove`."""

    def judge(self, changes: Collection[Change]) -> Tried:
        """Run the workload with these changes and judge it. What it cannot judge it says in `trouble`, or raises."""

    def close(self) -> None:
        """Give up what is held."""


class Searching(NamedTuple):
    """How far a search has come."""

    stage: str
    """`as it is`, `one call`, `all calls`, `two calls`, `fewer calls`, `again`, `superfluous`."""
    searched: int
    changes: str
    """What is being judged now."""


OnProgress = Callable[[Searching], None]


def search(
    subject: Subject,
    *,
    tries_max: int = TRIES_MAX,
    superfluous: bool = True,
    hopeless: str = "",
    on_progress: OnProgress = lambda _: None,
) -> Advice:
    """The smallest set of calls that makes every judged state intact, and the calls that can be left out.

    At most `tries_max` runs are judged. `hopeless`: why no call can help if none does; all of them are then tried
    first. Ctrl-C ends the search: what is known by then is returned. Raises HarnessError where the workload as it is
    cannot be run.
    """
    how = Search(subject, tries_max=tries_max, superfluous=superfluous, hopeless=hopeless, on_progress=on_progress)
    return how.run()


class _OutOfTries(Exception):
    """The bound was met."""


class Search:
    """One search. After `run`, `tried` holds every set that was judged, in order; `interrupted` tells of Ctrl-C."""

    def __init__(
        self,
        subject: Subject,
        *,
        tries_max: int = TRIES_MAX,
        superfluous: bool = True,
        hopeless: str = "",
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self._subject = subject
        self._tries_max = tries_max
        self._wants_superfluous = superfluous
        self._hopeless = hopeless
        self._on_progress = on_progress
        self._stage = "as it is"
        self._searched = 0
        self._known: dict[frozenset[Change], Tried] = {}
        self._found = Advice(before=Tried(trouble="it was not judged"))
        self.interrupted = False

    @property
    def tried(self) -> list[Tried]:
        """Each set once; one that was judged again stands with the worst that was seen."""
        return list(self._known.values())

    def run(self) -> Advice:
        """Search. Raises HarnessError where the workload as it is cannot be run."""
        started = time.monotonic()
        try:
            self._note(before=self._judge(()))
            self._search()
        except _OutOfTries:
            why = self._found.why or f"nothing was found in {self._searched} runs, the bound that was set"
            self._note(exhaustive=False, why="" if self._found.best else why)
        except KeyboardInterrupt:
            self.interrupted = True
            self._note(exhaustive=False, why="" if self._found.best else self._found.why or "interrupted")
        return msgspec.structs.replace(
            self._found, searched=self._searched, seconds=round(time.monotonic() - started, 3)
        )

    def _note(self, **what: object) -> None:
        self._found = msgspec.structs.replace(self._found, **what)

    def _judge(self, changes: Sequence[Change]) -> Tried:
        if self._searched >= self._tries_max:
            raise _OutOfTries
        text = Tried(changes=tuple(changes)).text
        self._on_progress(Searching(self._stage, self._searched, text))
        try:
            tried = self._subject.judge(changes)
        except HarnessError as error:
            if not changes:
                raise
            tried = Tried(trouble=error.cause)
        self._searched += 1
        tried = msgspec.structs.replace(tried, changes=tuple(changes))
        key = frozenset(changes)
        known = self._known.get(key)
        if known is None or not tried.intact:
            self._known[key] = tried
        return tried

    def _confirmed(self, changes: Sequence[Change]) -> bool:
        """Whether it is intact again, and again: a race may have hidden a failure."""
        stage, self._stage = self._stage, "again"
        held = all(self._judge(changes).intact for _ in range(_CONFIRMATIONS))
        self._stage = stage
        return held

    def _helps(self, changes: Sequence[Change]) -> bool:
        return self._judge(changes).intact and self._confirmed(changes)

    def _search(self) -> None:
        before = self._found.before
        if before.intact:
            self._note(why=f"nothing is missing: 0 of {before.states:,} states fail")
        elif not before.failing:
            self._note(why=f"it could not be judged: {before.trouble or 'some states are unknown'}")
            return
        else:
            self._missing()
        if self._wants_superfluous and (before.intact or self._found.best):
            self._superfluous()

    def _missing(self) -> None:
        candidates = list(self._subject.additions())
        if not candidates:
            self._note(why=self._hopeless or f"no fsync helps: every change is synced already: {_TOO_MUCH}")
            return
        everything: list[Change] = []
        if self._hopeless:
            everything = self._everything(candidates)
            if not everything:
                return
        if self._single(candidates):
            return
        everything = everything or self._everything(candidates)
        if everything and not self._pair(candidates):
            self._fewest(everything)

    def _single(self, candidates: Sequence[Change]) -> bool:
        """One call. Once one is found, only the other calls at its place are tried: fdatasync instead of fsync."""
        self._stage = "one call"
        for change in candidates:
            best = self._found.best
            if best is None:
                if self._helps([change]):
                    self._note(best=self._known[frozenset([change])])
            elif (
                change.place == best.changes[0].place
                and len(self._found.others) < _OTHERS_MAX
                and self._helps([change])
            ):
                self._note(others=(*self._found.others, self._known[frozenset([change])]))
        return self._found.best is not None

    def _everything(self, candidates: Sequence[Change]) -> list[Change]:
        """All calls, or all of files alone, if that makes it intact. Else it says why nothing can."""
        self._stage = "all calls"
        whole = _without_doubles(candidates)
        files = [change for change in whole if change.action != "fsync directory"]
        failed: Tried | None = None
        for some in (whole, files if not self._hopeless else []):
            if some and (failed is None or len(some) < len(whole)):
                tried = self._judge(some)
                if tried.intact:
                    return some
                failed = failed or tried
        assert failed is not None
        self._note(why=self._why_none(failed))
        return []

    def _why_none(self, failed: Tried) -> str:
        if failed.trouble or not failed.failing:
            return f"no fsync was found that helps; with every candidate: {failed.trouble or 'states are unknown'}"
        still = f"with every candidate {failed.failing:,} of {failed.states:,} states still fail"
        if self._hopeless:
            return f"{self._hopeless}: no fsync helps, {still}"
        return f"no fsync helps: {still}: {_TOO_MUCH}"

    def _pair(self, candidates: Sequence[Change]) -> bool:
        """Two calls, of those that by themselves left the least failing."""
        self._stage = "two calls"
        order = {change: n for n, change in enumerate(candidates)}
        ranked = sorted(_without_doubles(candidates), key=lambda change: (self._share(change), order[change]))
        pairs = itertools.combinations(ranked[:_PAIRED], 2)
        for pair in sorted(pairs, key=lambda pair: self._share(pair[0]) + self._share(pair[1])):
            if self._helps(pair):
                self._note(best=self._known[frozenset(pair)])
                return True
        return False

    def _share(self, change: Change) -> float:
        """Of the states that fail with this call alone; what could not be judged counts as all of them."""
        known = self._known.get(frozenset([change]))
        return known.failing / known.states if known and known.states and not known.trouble else 1.0

    def _fewest(self, everything: list[Change]) -> None:
        """From all calls to a set that none can be left out of; the least likely go first."""
        self._stage = "fewer calls"
        kept = list(reversed(everything))
        size = max(1, len(kept) // 2)
        while True:
            before = len(kept)
            at = 0
            while at < len(kept):
                fewer = kept[:at] + kept[at + size :]
                if fewer and self._judge(fewer).intact:
                    kept = fewer
                else:
                    at += size
            if size == 1 and len(kept) == before:
                break
            size = max(1, size // 2)
        chosen = kept[::-1]
        if not self._confirmed(chosen):
            chosen = everything
            if not self._confirmed(chosen):
                self._note(why="no set of calls was intact each time that it was judged: the failure is a race")
                return
        self._note(best=self._known[frozenset(chosen)], exhaustive=False)

    def _superfluous(self) -> None:
        self._stage = "superfluous"
        base = self._found.best.changes if self._found.best else ()
        for removal in self._subject.removals():
            if self._helps([*base, removal]):
                known = self._known[frozenset([*base, removal])]
                alone = msgspec.structs.replace(known, changes=(removal,))
                self._note(superfluous=(*self._found.superfluous, alone))


def _without_doubles(candidates: Sequence[Change]) -> list[Change]:
    """Without the fdatasync of what is fsynced at the same place."""
    synced = {(each.target, each.place) for each in candidates if each.action == "fsync"}
    return [each for each in candidates if each.action != "fdatasync" or (each.target, each.place) not in synced]

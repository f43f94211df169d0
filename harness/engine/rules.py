"""What an engine is told to do wrong, and when: rules that match requests by kind, place and count, never by time.

A rule is armed while the engine serves, counts the requests that it matches from then on (`since` a mark, where it
says so), and acts on the `nth` of them and on those that follow, `count` in all. The first rule that acts on a request
decides what becomes of it.
"""

import errno
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from harness.errors import Misuse
from harness.extents import Extent

RULES_MAX = 16
"""So many rules can be armed at once."""

Action = Literal["error", "short", "drop", "flip", "misdirect", "late", "lie", "delay", "hang", "signal", "die"]
Request = Literal["write", "flush", "read", "discard", "mark"]

POSSIBLE: dict[str, frozenset[str]] = {
    "error": frozenset({"write", "flush", "read", "discard"}),
    "short": frozenset({"write"}),
    "drop": frozenset({"write", "discard"}),
    "flip": frozenset({"write"}),
    "misdirect": frozenset({"write"}),
    "late": frozenset({"write"}),
    "lie": frozenset({"flush"}),
    "delay": frozenset({"write", "flush", "read", "discard"}),
    "hang": frozenset({"write", "flush", "read", "discard", "mark"}),
    "signal": frozenset({"write", "flush", "read", "discard", "mark"}),
    "die": frozenset({"write", "flush", "read", "discard", "mark"}),
}
"""Which requests each action has a meaning for."""

SPOILING = ("short", "drop", "flip", "misdirect", "late")
"""What becomes of a write's payload, other than that it reaches the medium or does not."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of the device. Offsets, lengths and `shift` in bytes.

    - `error`: answered with `errno`, and not done
    - `short`: the first half (whole sectors) reaches the medium, then `errno`
    - `drop`: acknowledged, not done
    - `flip`: acknowledged, the lowest bit of byte `shift` of it inverted on the medium
    - `misdirect`: acknowledged, done `shift` bytes further on; so many bytes back where the disk ends before that
    - `late`: acknowledged, not done, and the next flush answers `errno`
    - `lie`: a flush acknowledged, and no flush
    - `delay`: done after `seconds`, and `seconds_per_mib` for each MiB; all requests wait meanwhile
    - `hang`: not answered until the rule is released, or the rules are replaced; others are served
    - `signal`: SIGKILL to process `pid`, then done; no hit where there is no such process
    - `die`: the engine kills itself (SIGKILL): before the request is done; with `after`: done, and not answered
    """

    action: Action
    on: Request
    nth: Annotated[int, msgspec.Meta(ge=1)] = 1
    count: Annotated[int, msgspec.Meta(ge=0)] = 1
    """0: for ever."""
    extents: tuple[Extent, ...] = ()
    """Requests that touch none of these are not counted. Empty: all count."""
    text: str = ""
    """Of a mark: the whole words that it begins with (`op:begin 7`, `promise:done`)."""
    since: str = ""
    """Nothing is counted before a mark that begins with these words."""
    errno: int = errno.EIO
    shift: int = 0
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    seconds_per_mib: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    pid: int = 0
    after: bool = False

    def touches(self, offset: int, length: int) -> bool:
        return not self.extents or any(at < offset + length and offset < at + size for at, size in self.extents)

    def speaks_of(self, texts: Sequence[str]) -> bool:
        return not self.text or says(texts, self.text)


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the harness has to say to an engine. Of several things all are done, in this order."""

    rules: list[Rule] | None = None
    """These hold from now on, and what others held is done."""
    say: str = ""
    """A mark, which may wake rules."""
    release: int | None = None
    """The rule at this place of those that are armed holds nothing more."""
    switch: str = ""
    """Whoever serves at this path keeps the blocks from here on (backends.Movable)."""


class Count(msgspec.Struct, frozen=True):
    """How often a rule matched a request (`seen`), and how often it acted on one (`hit`)."""

    seen: int
    hit: int


def checked(rules: Sequence[Rule], size: int, sector: int) -> list[Rule]:
    """The rules, if a disk of `size` bytes can follow them. Raises Misuse for what has no meaning there."""
    if len(rules) > RULES_MAX:
        raise Misuse(f"{len(rules)} faults of one device at once", f"arm at most {RULES_MAX}")
    for rule in rules:
        if rule.on not in POSSIBLE[rule.action]:
            possible = ", ".join(sorted(POSSIBLE[rule.action]))
            raise Misuse(f"a {rule.on} cannot be made to {rule.action}", f"{rule.action} is for: {possible}")
        if rule.action == "signal" and rule.pid <= 1:
            raise Misuse(f"no process to kill: pid {rule.pid}", "name the process")
        if rule.action == "misdirect":
            _check_shift(rule.shift, size, sector)
        _check_extents(rule, size)
    return list(rules)


def _check_shift(shift: int, size: int, sector: int) -> None:
    if shift % sector or not shift:
        raise Misuse(f"a write cannot go {shift} bytes astray", f"give a multiple of the sector, {sector}")
    if abs(shift) > size // 4:
        raise Misuse(f"{shift} bytes astray may be past the end of the device ({size} bytes)", f"at most {size // 4}")


def _check_extents(rule: Rule, size: int) -> None:
    for offset, length in rule.extents:
        if length <= 0 or offset < 0:
            raise Misuse(f"{length} bytes at {offset} are no range of a device", "give offsets and lengths in bytes")
        if offset + length > size:
            cause = f"the fault's range ends at byte {offset + length}, past the end of the device ({size} bytes)"
            raise Misuse(cause, "give a range that lies on the volume")


def says(texts: Sequence[str], words: str) -> bool:
    """Whether one of the marks begins with these words: `op:begin 7` is not how `op:begin 70` begins."""
    return any(text.startswith(words) and not text[len(words) :][:1].isalnum() for text in texts)


class Armed:
    """The engine's own side: the rules and how far each has counted."""

    def __init__(self) -> None:
        self.arm([])

    def arm(self, rules: Sequence[Rule]) -> None:
        """Replace all rules; counting begins anew."""
        self.rules = list(rules)
        self.seen = [0] * len(rules)
        self.hit = [0] * len(rules)
        self._awake = [not rule.since for rule in rules]
        self._over: set[int] = set()

    def on(self, request: Request) -> bool:
        """Whether any rule is about such requests now. Marks also wake rules."""
        if request == "mark" and not all(self._awake):
            return True
        return any(rule.on == request and awake for rule, awake in zip(self.rules, self._awake, strict=True))

    def wake(self, texts: Sequence[str]) -> None:
        """Rules that waited for one of these marks count from here on."""
        for index, rule in enumerate(self.rules):
            if rule.since and says(texts, rule.since):
                self._awake[index] = True

    def retire(self, index: int) -> None:
        """This rule acts no more; its counts stay."""
        self._over.add(index)

    def decide(self, request: Request, offset: int, length: int, texts: Sequence[str] = ()) -> int | None:
        """The place of the rule that acts on this request, if one does. Every rule that it matches counts it."""
        chosen = None
        for index in self._matching(request, offset, length, texts):
            rule = self.rules[index]
            self.seen[index] += 1
            due = self.seen[index] - rule.nth
            acts = due >= 0 and (rule.count == 0 or due < rule.count) and index not in self._over
            if acts and chosen is None:
                self.hit[index] += 1
                chosen = index
        return chosen

    def refusal(self, request: Request, offset: int, length: int) -> int:
        """The errno with which a rule refuses every such request by now; 0: none does. Counts nothing."""
        rules = [self.rules[index] for index in self._matching(request, offset, length, ())]
        return next((rule.errno for rule in rules if rule.action == "error" and (rule.nth, rule.count) == (1, 0)), 0)

    def _matching(self, request: Request, offset: int, length: int, texts: Sequence[str]) -> list[int]:
        return [
            index
            for index, rule in enumerate(self.rules)
            if self._awake[index] and rule.on == request and rule.touches(offset, length) and rule.speaks_of(texts)
        ]

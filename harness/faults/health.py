"""Whether a target is well, before a fault and after its heal; and whether the fault was ever met.

What is not well, or was not met, is UNKNOWN: nothing can be concluded from such a trial. Each question has a deadline:
it is asked by a thread of its own, which may go on hanging in the kernel until the device answers (see Watchdog).
"""

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator

from harness.errors import RequirementMissing, TrialUnknown
from harness.faults.fault import Back, Fault
from harness.faults.injection import Part
from harness.faults.target import Target
from harness.machine.hanging import Call
from harness.verdict import Finding, unjudged

SECONDS = 5.0
"""What a question about health may take, unless told otherwise."""

_BLOCK = 4096


def before(target: Target, seconds: float = SECONDS) -> Finding | None:
    """Whether the volume takes a write and its fsync; where none is mounted, whether the device answers a read.

    None: it does. The write goes to a file without a name (O_TMPFILE).
    """
    ask = _take_write if target.mount else _answer_read
    return _within(seconds, "before the fault", target, ask)


def after(fault: Fault, target: Target, seconds: float = SECONDS) -> Finding | None:
    """Whether what the fault gives back with its heal (`fault.back`) is there. None: it is."""
    if fault.back >= Back.DEVICE and (unwell := _within(seconds, "after the heal", target, _answer_read)):
        return unwell
    if fault.back >= Back.VOLUME and target.mount:
        return _within(seconds, "after the heal", target, _take_write)
    return None


def missed(fault: Fault, target: Target) -> Finding | None:
    """None if the fault struck; else how far it came: "the 90th write never came: there were 37"."""
    injection = fault.injection_in(target)
    never = [why for part in fault.parts if (why := _why_never(injection.part(part)))]
    return unjudged("; ".join(never)) if never else None


@contextlib.contextmanager
def injected(fault: Fault, target: Target, seconds: float = SECONDS) -> Iterator[list[Finding]]:
    """The fault inside the block, healed behind it. The list holds, then, why nothing may be concluded from it.

    Raises as inject and heal do, and TrialUnknown where the target is not well before.
    """
    if missing := fault.availability(target):
        raise RequirementMissing([missing])
    if unwell := before(target, seconds):
        raise TrialUnknown(unwell.summary, "look at the kernel log")
    found: list[Finding] = []
    fault.inject(target)
    try:
        yield found
    finally:
        fault.heal(target)
    found += [finding for finding in (missed(fault, target), after(fault, target, seconds)) if finding]


def _within(seconds: float, when: str, target: Target, ask: Callable[[Target], None]) -> Finding | None:
    what = "the volume takes no write" if ask is _take_write else "the device answers no read"
    try:
        if Call(lambda: ask(target)).is_over(seconds):
            return None
    except OSError as error:
        return unjudged(f"{when} {what}: {error}")
    return unjudged(f"{when} {what}: none within {seconds:g} s")


def _take_write(target: Target) -> None:
    fd = os.open(target.mount, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, bytes(_BLOCK), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _answer_read(target: Target) -> None:
    """With O_DIRECT: what the page cache answers says nothing of the device."""
    if target.disk.device is None:
        raise OSError("the disk is not attached")
    fd = os.open(target.disk.device.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, _BLOCK) as block:  # aligned as O_DIRECT wants it
            os.preadv(fd, [block], 0)
    finally:
        os.close(fd)


def _why_never(part: Part) -> str:
    """Nothing if it struck."""
    if part.hits:
        return ""
    if part.error:
        return f"{part.fault} could not be carried out: {part.error}"
    return f"{part.fault} was never met: {_how_far(part)}"


def _how_far(part: Part) -> str:
    if not part.rules:
        return "its time or condition never came"
    rule = part.rules[-1]
    if part.seen >= rule.nth and rule.action == "signal":
        return f"process {rule.pid} had ended before"
    if part.seen >= rule.nth:
        how = "another fault decided about" if part.fault.by_engine else "it was healed before it could act on"
        return f"{how} what it was for"
    if rule.on == "mark":
        times = f" for the {_ordinal(rule.nth)} time: {part.seen} did" if rule.nth > 1 else ""
        return f"no mark {rule.text!r} came" + times
    where, since = part.fault.where, part.fault.at.start
    which = f"{rule.on}" + (f" to {where}" if where else "") + (f" since {since}" if since else "")
    return f"the {_ordinal(rule.nth)} {which} never came: there were {part.seen}"


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"

"""The kernel's own words about a device, told apart by what they report."""

from collections import Counter
from collections.abc import Sequence

from harness.machine.kmsg import classify
from harness.reporting.text import printable


def classified(line: str) -> str:
    """The line as it can be shown, behind the class of trouble that it reports, if it reports any."""
    kind = classify(line)
    return f"{kind}: {printable(line)}" if kind else printable(line)


def classes(lines: Sequence[str]) -> dict[str, int]:
    """How many lines report which class of trouble."""
    return dict(Counter(kind.value for line in lines if (kind := classify(line))))


def troubles(lines: Sequence[str], limit: int) -> list[str]:
    """The lines that report trouble, each once and classified; the others are counted."""
    told = list(dict.fromkeys(classified(line) for line in lines if classify(line)))[:limit]
    rest = len(lines) - len(told)
    return told + ([f"... and {rest:,} more"] if rest > 0 else [])

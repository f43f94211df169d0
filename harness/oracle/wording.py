"""How findings of the oracle read: which rule, which path, what was expected since which operation, what was found."""

from harness.oracle.expectation import Expectation
from harness.oracle.history import Name
from harness.plan.operations import Sync, Syncfs
from harness.plan.plan import Plan
from harness.verdict import Finding, FindingKind

EVER = 1 << 30
"""A time after every operation."""


class Wording:
    """The words for what is wrong with one recovered volume."""

    def __init__(self, plan: Plan, expected: Expectation) -> None:
        self._operations = plan.all
        self._setup = len(plan.setup)
        self._expected = expected

    def since(self, t: int) -> str:
        """What made durable that which was so at time t."""
        if t <= self._setup:
            return "the setup, which was synced,"
        return f'"{self._operations[t - 1]}" (operation {t - 1})'

    def rule(self, rule: str, t: int) -> str:
        """The rule by which the call before time t promised something: `rule`, unless it promised everything."""
        if t <= self._setup:
            return "setup-synced"
        return "sync-everything" if isinstance(self._operations[t - 1], Sync | Syncfs) else rule

    def spelled(self, name: Name) -> str:
        """A path for people, by the names that its directories were first given."""
        directory, last = name
        if directory < 0:
            return last
        names = next((names for names in self._expected.file(directory).names.between(0, EVER) if names), None)
        return f"{self.spelled(min(names))}/{last}" if names else f"[{directory}]/{last}"


def finding(kind: FindingKind, path: str, what: str, rule: str, output: str = "") -> Finding:
    """One finding, its rule at the end of the summary."""
    return Finding(kind=kind, summary=f"{kind} {path}: {what} [rule {rule}]", output=output)

"""Plans told to the oracle without being run: operations, each with the outcome that it is said to have had."""

from typing import Any

from harness.oracle.expectation import Expectation
from harness.oracle.history import ROOT
from harness.oracle.plan_check import PlanCheck
from harness.plan import operations as op
from harness.plan.operations import Operation, persists
from harness.plan.plan import Outcome, Plan

FOO, BAR, A, B = 12, 13, 14, 15

Told = tuple[Operation, dict[str, Any]]


def ok(operation: Operation, **outcome: Any) -> Told:
    return operation, outcome


def creat(path: str, inode: int) -> Told:
    return ok(op.Creat(path=path), inode=inode)


def write(path: str, inode: int, length: int, offset: int = 0, size: int = 0, how: op.How = "write") -> Told:
    operation = op.Write(path=path, offset=offset, length=length, how=how)
    return ok(operation, inode=inode, value=length, size=size or offset + length)


def check(*told: Told, setup: int = 0, contract: str = "linux") -> PlanCheck:
    operations = tuple(operation for operation, _ in told)
    outcomes = [Outcome(n=n, **outcome) for n, (_, outcome) in enumerate(told)]
    return PlanCheck(Plan(setup=operations[:setup], operations=operations[setup:]), outcomes, contract)


def expected(*told: Told, points: int | None = None, setup: int = 0, contract: str = "linux") -> Expectation:
    """After so many persistence calls; after all of them, where nothing else is said."""
    made = sum(1 for operation, outcome in told if persists(operation) and not outcome.get("errno"))
    return check(*told, setup=setup, contract=contract).expected(made if points is None else points)


def name_sets(found: Expectation, inode: int) -> set[frozenset[tuple[int, str]]]:
    return set(found.name_sets(inode))


def in_root(*names: str) -> frozenset[tuple[int, str]]:
    return frozenset((ROOT, name) for name in names)


SYNC, FSYNC = ok(op.Sync()), ok(op.Fsync(path="foo"))

"""Plans that Hypothesis writes: legal, of every kind, near what broke before, small when they fail, the same in CI."""

import os
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from harness.errors import Misuse
from harness.plan import operations as op
from harness.plan.dependencies import Workload
from harness.plan.operations import Operation, paths_of, persists
from harness.plan.plan import Plan, check_paths, from_json
from harness.plan.strategies import plans, register_profiles

QUIET = settings(
    max_examples=2000,
    database=None,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)

Kinds = tuple[type[Operation], ...]


def drawn(strategy: st.SearchStrategy[Plan], count: int) -> list[Plan]:
    """The first `count` plans of a run that is the same each time."""
    found: list[Plan] = []

    @settings(QUIET, max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def collect(plan: Plan) -> None:
        found.append(plan)

    collect()
    return found


def smallest(condition: Callable[[Plan], bool], strategy: st.SearchStrategy[Plan] | None = None) -> Plan:
    return find(strategy or plans(), condition, settings=QUIET)


@given(plans())
def test_plans_are_legal_and_survive_json(plan: Plan) -> None:
    check_paths(plan)
    assert from_json(plan.to_json()) == plan
    assert 1 <= len(plan.operations) <= 8


@pytest.mark.parametrize(("asked", "least", "most"), [(1, 1, 1), (5, 5, 5), ((2, 3), 2, 3), ((1, 30), 1, 30)])
def test_a_plan_has_as_many_operations_as_asked(asked: int | tuple[int, int], least: int, most: int) -> None:
    lengths = {len(plan.operations) for plan in drawn(plans(operations=asked), 60)}
    assert least <= min(lengths) and max(lengths) <= most


@pytest.mark.parametrize("asked", [0, -1, (0, 2), (3, 2)])
def test_lengths_that_make_no_sense_are_refused(asked: int | tuple[int, int]) -> None:
    with pytest.raises(Misuse, match="do not exist"):
        plans(operations=asked)


def test_every_kind_of_operation_is_drawn() -> None:
    many = [operation for plan in drawn(plans(), 3000) for operation in plan.all]
    assert {type(operation) for operation in many} == set(typing.get_args(Operation))
    assert {each.how for each in many if isinstance(each, op.Write)} == set(typing.get_args(op.How))
    assert {each.mode for each in many if isinstance(each, op.Fallocate)} == set(typing.get_args(op.FallocateMode))
    assert {each.how for each in many if isinstance(each, op.Rename)} == {"plain", "noreplace", "exchange"}


def test_most_plans_persist_something_and_few_have_a_setup() -> None:
    many = drawn(plans(), 500)
    assert sum(any(map(persists, plan.operations)) for plan in many) > len(many) / 2
    assert 0 < sum(bool(plan.setup) for plan in many) < len(many) / 3
    assert not any(plan.setup for plan in drawn(plans(setup=False), 100))


def in_order(plan: Plan, *kinds: type[Operation]) -> list[Operation] | None:
    """The first operations of these kinds that follow one another, others between allowed; or None."""
    rest = iter(plan.operations)
    found = [next((operation for operation in rest if isinstance(operation, kind)), None) for kind in kinds]
    return None if None in found else [operation for operation in found if operation]


def linked_unlinked_and_created_again(plan: Plan) -> bool:
    found = in_order(plan, op.Link, op.Unlink, op.Creat, op.Fsync)
    return found is not None and len({paths_of(each)[-1] for each in found}) == 1


def renamed_over_a_file(plan: Plan) -> bool:
    found = in_order(plan, op.Creat, op.Write, op.Rename, op.Fsync)
    return found is not None and paths_of(found[0])[0] == paths_of(found[2])[1] != paths_of(found[1])[0]


def folder_renamed_and_made_again(plan: Plan) -> bool:
    found = in_order(plan, op.Rename, op.Mkdir, op.Creat, op.Fsync)
    return found is not None and paths_of(found[0])[0] == paths_of(found[1])[0] == paths_of(found[2])[0][:-4]


def reserved_beyond_the_end(plan: Plan) -> bool:
    found = in_order(plan, op.Write, op.Fallocate, op.Fdatasync)
    return (
        found is not None
        and isinstance(found[1], op.Fallocate)
        and found[1].mode == "keep-size"
        and len({paths_of(each)[0] for each in found}) == 1
    )


def synced_twice_with_a_change_between(plan: Plan) -> bool:
    found = in_order(plan, op.Write, op.Fsync, op.Truncate, op.Fsync)
    return found is not None and len({paths_of(each)[0] for each in found}) == 1


def written_by_one_name_and_synced_by_the_other(plan: Plan) -> bool:
    found = in_order(plan, op.Link, op.Write, op.Fsync)
    return found is not None and paths_of(found[0]) == (paths_of(found[2])[0], paths_of(found[1])[0])


def attribute_taken_away(plan: Plan) -> bool:
    found = in_order(plan, op.SetXattr, op.Fsync, op.RemoveXattr, op.Fsync)
    return found is not None and len({paths_of(each)[0] for each in found}) == 1


@pytest.mark.parametrize(
    ("condition", "most"),
    [
        (linked_unlinked_and_created_again, 5),
        (renamed_over_a_file, 5),
        (folder_renamed_and_made_again, 5),
        (reserved_beyond_the_end, 4),
        (synced_twice_with_a_change_between, 5),
        (written_by_one_name_and_synced_by_the_other, 4),
        (attribute_taken_away, 5),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_neighbourhoods_of_known_bugs_are_found_and_shrink(condition: Callable[[Plan], bool], most: int) -> None:
    plan = smallest(condition)
    assert len(plan.operations) <= most, "\n".join(plan.lines())
    assert not plan.setup


def succeeding(plan: Plan) -> Iterator[tuple[Operation, Workload]]:
    """Each operation whose file is there, with the names before it."""
    workload = Workload()
    for operation in plan.all:
        if paths_of(operation) and paths_of(operation)[0] in workload.names:
            yield operation, workload
        workload.add_bare(operation)


def syncs_a_file(plan: Plan) -> bool:
    return any(isinstance(each, op.Fsync) and names.is_file(each.path) for each, names in succeeding(plan))


def unlinks_a_file(plan: Plan) -> bool:
    return any(isinstance(each, op.Unlink) for each, _ in succeeding(plan))


def writes_much(plan: Plan) -> bool:
    return any(isinstance(each, op.Write) and each.length > 700 for each, _ in succeeding(plan))


def renames_over_a_file(plan: Plan) -> bool:
    return any(isinstance(each, op.Rename) and names.is_file(each.new) for each, names in succeeding(plan))


def test_the_simplest_plan_is_one_operation_on_foo() -> None:
    assert list(map(str, smallest(lambda _: True).all)) == ["creat foo"]


@pytest.mark.parametrize(
    ("condition", "count"), [(syncs_a_file, 2), (unlinks_a_file, 2), (writes_much, 2), (renames_over_a_file, 3)]
)
def test_plans_shrink_to_the_least_that_fails(condition: Callable[[Plan], bool], count: int) -> None:
    """So few operations, on the simplest of names. Which of the ways to make a file is left is not asked."""
    plan = smallest(condition)
    assert len(plan.all) == count, "\n".join(plan.lines())
    assert {path for operation in plan.all for path in paths_of(operation)} <= {"foo", "bar"}


def test_some_operations_may_fail() -> None:
    """Most of what an operation needs is put in front of it, but ENOENT is an outcome that the oracle has to bear."""

    def removes_what_is_not_there(plan: Plan) -> bool:
        return isinstance(plan.all[0], op.Unlink)

    assert list(map(str, smallest(removes_what_is_not_there).all)) == ["unlink foo"]
    many = drawn(plans(), 300)
    named = [each for plan in many for each in plan.all if paths_of(each)]
    there = [each for plan in many for each, _ in succeeding(plan)]
    new = [each for each in named if isinstance(each, op.Creat | op.Mkdir | op.Tmpfile | op.Symlink)]
    assert len(named) * 0.85 < len(there) + len(new)


PROFILE_PROGRAM = """
from hypothesis import given, settings
from harness.plan.strategies import plans, register_profiles
register_profiles()
settings.load_profile("ci")
@given(plans())
def collect(plan): print(plan.id)
collect()
"""


def test_the_ci_profile_writes_the_same_plans_in_every_run() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROFILE_PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 50 and len(runs[0]) <= 100


def test_the_profiles_are_what_they_are_called() -> None:
    register_profiles()
    ci, soak = settings.get_profile("ci"), settings.get_profile("soak")
    assert ci.derandomize and ci.database is None and ci.deadline is None and not ci.print_blob
    assert soak.max_examples > 100 * ci.max_examples and soak.database is not None

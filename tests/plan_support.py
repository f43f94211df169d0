"""Operations run where a test can look at what they left: on a fresh ext4, mounted and not recorded."""

from collections.abc import Iterator

import pytest

from harness.machine.image import Image
from harness.plan.interpreter import run_plan
from harness.plan.operations import Operation
from harness.plan.plan import Outcome, Plan
from harness.settings import Settings
from harness.volume import VolumeSpec, make_base, mounted_plain

SPEC = VolumeSpec.of(Settings(fs="ext4", size=16 << 20))


@pytest.fixture(scope="module")
def base() -> Iterator[Image]:
    with make_base(SPEC) as image:
        yield image


@pytest.fixture
def root(base: Image) -> Iterator[str]:
    """The root of a fresh ext4, mounted. That it can be unmounted afterwards is asked for too."""
    with base.copy() as image, mounted_plain(image, SPEC) as path:
        yield path


def run(root: str, *operations: Operation) -> list[Outcome]:
    return run_plan(Plan(operations=operations), root, lambda _: None)


def done(root: str, *operations: Operation) -> list[Outcome]:
    """The same for operations that must all succeed."""
    outcomes = run(root, *operations)
    assert all(outcome.ok for outcome in outcomes), outcomes
    return outcomes


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

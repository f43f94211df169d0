"""The workload of a bundle, ready to be run again with changes: a plan, a litmus test, or a program."""

import re

import msgspec

from harness.advice.plan_subject import PlanSubject
from harness.advice.program_subject import ProgramSubject
from harness.advice.search import Subject
from harness.errors import Misuse
from harness.plan import litmus
from harness.plan.litmus import Litmus
from harness.settings import Settings
from harness.trial.bundle import Bundle


def subject_of(bundle: Bundle, settings: Settings) -> Subject:
    """What a search runs again and again. Raises Misuse, saying why, where the bundle gives nothing to run."""
    manifest = bundle.manifest
    if manifest.plan:
        return PlanSubject.of_plan(manifest.plan, settings)
    test = litmus_of(bundle)
    if test:
        return PlanSubject.of_litmus(test, settings)
    expect_workload(bundle, "the bundle")
    return ProgramSubject.of_bundle(bundle._replace(manifest=msgspec.structs.replace(manifest, settings=settings)))


def expect_workload(bundle: Bundle, name: str) -> None:
    """Raises Misuse where the bundle has no workload that could be run again: a pytest test has made it, say."""
    manifest = bundle.manifest
    if not manifest.commands.workload:
        what = f"made by the test {manifest.test}" if manifest.test else "without a workload"
        raise Misuse(
            f"{name} is a recording {what}: there is nothing that could be run again",
            "give a bundle of harness check, a plan, a litmus test, or --workload and --check",
        )


def litmus_of(bundle: Bundle) -> Litmus | None:
    """The test of a bundle that `harness litmus` made; the repaired one, where that was asked."""
    check = bundle.manifest.commands.check
    if not re.search(r"harness litmus --verify /litmus/", check) or len(bundle.files) != 1:
        return None
    test = litmus.from_json(bundle.files[0].content, bundle.files[0].path)
    if "--repaired" not in check:
        return test
    return msgspec.structs.replace(test, main=test.operations(repaired=True), surprising=test.surprise(repaired=True))

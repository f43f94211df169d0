"""Plans as trials: run one on a recorded volume, and judge its crash states by what the file system owes it."""

import contextlib

from harness.errors import WorkloadFailed
from harness.machine import mounts
from harness.machine.image import Image
from harness.oracle.checks import Checker
from harness.oracle.plan_check import PlanCheck
from harness.plan.interpreter import Writer
from harness.plan.plan import START, Plan, outcomes_of
from harness.settings import Settings
from harness.trial.judging import CheckerFactory
from harness.trial.recorder import expect_room, recording_of
from harness.trial.recording import Recording
from harness.volume import RecordedVolume, VolumeSpec, make_base


def record_plan(settings: Settings, plan: Plan) -> Recording:
    """Run the plan on a fresh volume in a process of its own. Raises as record_on does, and Misuse for bad options."""
    mounts.enter_private_mounts()
    spec = VolumeSpec.of(settings)
    base = make_base(spec)
    with contextlib.closing(Writer(mounts.enter_private_mounts().volume)) as writer:
        return record_on(spec, base, settings, plan, writer)


def record_on(spec: VolumeSpec, base: Image, settings: Settings, plan: Plan, writer: Writer) -> Recording:
    """Run the plan on `base` (which stays as it is); cuts begin where its setup is durable.

    Raises WorkloadFailed (the writer hung or died, the volume is full), BoundExceeded, EngineLost.
    """
    with RecordedVolume(spec, base, log_max=settings.log_max) as volume:
        writer.run(plan, f"{volume.engine.mount_dir}/mark", settings.timeout)
        volume.linger(settings.linger)
        volume.finish()
    if volume.error:
        raise volume.error
    expect_room("plan", volume, "give it a larger one with --size, or shorten the plan")
    recording = recording_of(volume, spec, base)
    begin = recording.log.find(START)
    if begin is None:
        raise WorkloadFailed("the plan's setup was not finished", "run it again")
    return recording._replace(begin=begin)


def plan_check(plan: Plan, recording: Recording, contract: str) -> Checker:
    """The oracle for this run of the plan. Raises BadLog if the log is not that of a whole run."""
    return PlanCheck(plan, outcomes_of(recording.log), contract, file_system=recording.spec.fs)


def plan_checker(plan: Plan, recording: Recording, contract: str) -> CheckerFactory:
    """The same for a Judge."""
    return lambda _workspace: plan_check(plan, recording, contract)

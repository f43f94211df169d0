"""Plans handed out to labs, one each at a time; answers come as they are ready."""

from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Generic, NamedTuple, TypeVar

from harness.plan.plan import Plan
from harness.trial.lab import Judgement, Lab

Key = TypeVar("Key")

_TICK_SECONDS = 0.1


class Job(NamedTuple, Generic[Key]):
    """A plan to judge, and whatever its owner knows it by."""

    key: Key
    plan: Plan


def judged(labs: list[Lab], jobs: Iterable[Job[Key]]) -> Iterator[tuple[Key, Judgement]]:
    """Every job's judgement, in the order in which they are done. A lab that dies or hangs costs its own job alone."""
    source = iter(jobs)
    idle = list(labs)
    busy: list[tuple[Lab, Key]] = []
    while True:
        while idle and (job := next(source, None)) is not None:
            lab = idle.pop()
            lab.submit(job.plan)
            busy.append((lab, job.key))
        if not busy:
            return
        ready = set(wait([end for lab, _ in busy for end in lab.ends], _TICK_SECONDS))
        due = [entry for entry in busy if ready.intersection(entry[0].ends) or entry[0].overdue]
        for entry in due:
            busy.remove(entry)
            idle.append(entry[0])
            yield entry[1], entry[0].collect()

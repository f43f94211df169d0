"""The `plan_judge` fixture's object: plans that Hypothesis draws, recorded and judged in warm labs.

Hypothesis runs a test many times and asks that equal plans behave equally, so what was judged is remembered by plan and
settings. The bundle of a failing test is named for the test: the last one, which Hypothesis has shrunk, stays. So it is
with what a test's properties tell of its plans.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import xxhash

from harness.faults import Fault, parse_fault
from harness.machine import mounts
from harness.plan.plan import Plan
from harness.plugin import options
from harness.plugin.failure import CrashFailure, door
from harness.plugin.text import failure_text, shown_path, struck_text, title_of
from harness.plugin.volume import describe_volume, require
from harness.reporting.terminal import replay_command
from harness.reporting.text import count
from harness.settings import Settings, from_text
from harness.trial import bundle as bundles
from harness.trial.judging import Judge
from harness.trial.kill import KillBench, packed
from harness.trial.lab import Judgement, Lab, open_labs
from harness.trial.plans import plan_checker
from harness.trial.report import Report
from harness.trial.shrink import shrink_state
from harness.verdict import Verdict
from harness.volume import VolumeSpec, make_base

MAX_STATES = 100
"""Crash states a plan is judged by, where nobody says otherwise: Hypothesis draws many plans."""

_RERUNS = 3
_LOST_FEW = 2
"""A state that lost so few writes is small enough; Hypothesis meets many on its way to the smallest plan."""

_REMEMBERED_MAX = 20_000


class _Judged(NamedTuple):
    """What came of one plan: `text` is the failure's, empty where there is none."""

    text: str = ""
    verdict: Verdict = Verdict.INTACT
    states: int = 0
    bundles: tuple[str, ...] = ()


class _OfTest:
    """What one test had judged, and the last of its plans that failed."""

    def __init__(self) -> None:
        self.plans: dict[tuple[str, Settings], _Judged] = {}
        self.last = _Judged()


class PlanJudge:
    """Judges plans. One for a test session; each set of settings gets a lab of its own, which stays warm."""

    def __init__(self, config: pytest.Config) -> None:
        self._ini: Mapping[str, object] = {"max_states": MAX_STATES, **options.ini_values(config)}
        self._reports = options.reports_folder(config)
        self._labs: dict[Settings, Lab] = {}
        self._benches: dict[Settings, KillBench] = {}
        self._remembered: dict[tuple[str, Settings], _Judged] = {}
        self._of_test = _OfTest()
        self._stack = contextlib.ExitStack()
        self.plans = 0
        self.states = 0

    @door
    def verify(self, plan: Plan, **settings: object) -> None:
        """Every disk that a power cut may leave must keep what the file system owes `plan`; else CrashFailure.

        `settings`: any of `harness plan`, by name: fs="xfs", contract="posix", max_states=400. UNKNOWN fails too. A
        finding is looked for again in fresh recordings, and reported with its rate.
        """
        wanted = from_text({**self._ini, **settings})
        self._expect_none((plan.id, wanted), lambda: self._failure(plan, wanted))

    @door
    def strike(self, plan: Plan, fault: Fault | str, **settings: object) -> None:
        """Run the plan live and let `fault` strike it (`remove@op:7`); what had been promised by then must be there.

        Else CrashFailure. A fault that was never met fails too: it proves nothing. `settings` as in verify.
        """
        wanted = from_text({**self._ini, **settings})
        chosen = parse_fault(fault) if isinstance(fault, str) else fault
        self._expect_none((f"{plan.id} {chosen}", wanted), lambda: self._struck(plan, chosen, wanted))

    @door
    def judge(self, plan: Plan, **settings: object) -> Report:
        """As verify, but the report is returned whatever the verdict, and nothing is remembered or saved."""
        return self._lab(from_text({**self._ini, **settings})).judge(plan).report

    def close(self) -> None:
        self._stack.close()

    def take_properties(self) -> list[tuple[str, str | int]]:
        """What a JUnit file and `harness run` are told of the test that just ran; none if it had no plan verified."""
        of_test, self._of_test = self._of_test, _OfTest()
        if not of_test.plans:
            return []
        volumes = Counter(describe_volume(settings) for _, settings in of_test.plans)
        last = of_test.last
        return [
            ("crash_verdict", str(last.verdict)),
            ("crash_states", sum(judged.states for judged in of_test.plans.values())),
            ("crash_expected", str(Verdict.INTACT)),
            ("crash_fs", ", ".join(sorted(volumes))),
            ("crash_scope", f"{count(len(of_test.plans), 'plan')} (a sample)"),
            *((name, text) for path in last.bundles for name, text in _named(path)),
        ]

    def _expect_none(self, key: tuple[str, Settings], judge: Callable[[], _Judged]) -> None:
        """Raises CrashFailure where something was found; what was found out once is remembered."""
        if key not in self._remembered:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[key] = judge()
        judged = self._of_test.plans[key] = self._remembered[key]
        if judged.text:
            self._of_test.last = judged
            raise CrashFailure(judged.text)

    def _struck(self, plan: Plan, fault: Fault, settings: Settings) -> _Judged:
        if settings not in self._benches:
            require(settings.fs)
            mounts.enter_private_mounts()
            bench = KillBench(settings, make_base(VolumeSpec.of(settings)))
            self._benches[settings] = self._stack.enter_context(bench)
        result = self._benches[settings].trial(plan, fault)
        self.plans += 1
        if result.verdict is Verdict.INTACT:
            return _Judged()
        bundle = os.path.join(self._reports, f"{settings.fs}-{_test_name()}{bundles.SUFFIX}")
        try:
            bundles.save(bundle, packed(result, settings))
        except OSError as error:
            result.notes.append(f"the bundle could not be saved: {error}")
            bundle = ""
        text = struck_text(plan, result, shown_path(bundle) if bundle else "")
        return _Judged(text, result.verdict, 0, (bundle,) if bundle else ())

    def _lab(self, settings: Settings) -> Lab:
        if settings not in self._labs:
            require(settings.fs)
            (self._labs[settings],) = self._stack.enter_context(open_labs(settings, 1))
        return self._labs[settings]

    def _failure(self, plan: Plan, settings: Settings) -> _Judged:
        """What is wrong with the plan; nothing if it keeps its contract."""
        lab = self._lab(settings)
        judgement = lab.judge(plan)
        self.plans += 1
        self.states += judgement.report.judged
        if judgement.report.verdict is Verdict.INTACT:
            return _Judged(states=judgement.report.judged)
        if judgement.recording is None:
            why = judgement.report.found[0].finding.summary if judgement.report.found else "nothing was judged"
            return _Judged("\n".join([f"UNKNOWN: {why}", "plan", *plan.lines()]), Verdict.UNKNOWN)
        return self._shown(lab, judgement, settings)

    def _shown(self, lab: Lab, judgement: Judgement, settings: Settings) -> _Judged:
        plan, report, recording = judgement.plan, judgement.report, judgement.recording
        assert recording is not None
        judge = Judge(recording, settings, plan_checker(plan, recording, settings.contract))
        for found in report.found:
            if found.lost > _LOST_FEW and found.deeper is None:
                found.state = shrink_state(judge, found.finding, found.state)
                found.lost = judge.lost(found.state)
        judge.confirm_soundly(report)
        again = sum(lab.judge(plan).report.verdict is report.verdict for _ in range(_RERUNS))
        report.notes.append(f"recorded anew {_RERUNS} times, the verdict was the same {again} times")
        for number, found in enumerate(report.found, 1):
            its = found.deeper or recording
            content = bundles.pack(its, settings, state=found.state, finding=found.finding, plan=plan)
            further = f"-{number}" if number > 1 else ""
            name = f"{settings.fs}-{found.finding.kind.lower()}-{_test_name()}{further}{bundles.SUFFIX}"
            try:
                found.bundle = bundles.save(os.path.join(self._reports, name), content)
            except OSError as error:
                report.notes.append(f"the bundles could not be saved: {error}")
        text = failure_text(title_of(report), report, recording, settings, report.scope, plan)
        saved = tuple(found.bundle for found in report.found if found.bundle)
        return _Judged("\n".join([text, "plan", *plan.lines()]), report.verdict, report.judged, saved)


def _named(path: str) -> list[tuple[str, str]]:
    return [("crash_bundle", path), ("crash_replay", replay_command(shown_path(path)))]


def _test_name() -> str:
    """Short and fit for a file: the name of the test that runs now, and a hash of where it is."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    name = "".join(c if c.isalnum() else "-" for c in test.rpartition("::")[2])[:60]
    return f"{name or 'plan'}-{xxhash.xxh3_64_hexdigest(test.encode())[:6]}"

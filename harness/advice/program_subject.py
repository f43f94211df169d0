"""A recorded program as the subject of a search for missing and superfluous fsyncs.

Each set of changes is tried for real: the program is run again under interposition on a volume of its own, and every
crash state of that recording is judged with the same check.
"""

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence

from harness.advice import call_sites
from harness.advice.advised import Change, Tried
from harness.advice.call_sites import REMOVE, Rule, Shape
from harness.advice.interposed import Prepared, record_interposed
from harness.closing import Closing
from harness.errors import Misuse, TrialUnknown
from harness.machine import mounts, requirements
from harness.machine.calls_seen import Call
from harness.settings import Settings
from harness.trial.bundle import Bundle
from harness.trial.check import command_checker
from harness.trial.commands import Attachment, Commands, materialize
from harness.trial.judging import Judge
from harness.trial.recorder import prepare
from harness.trial.report import Report
from harness.verdict import Verdict

_SCRIPTS = (".py", ".pyz", ".sh", ".pl", ".rb", ".js", ".jar", ".lua", ".php", ".tcl")
_RECORD_IT = "record the program with harness check --workload CMD --check CMD, and take the bundle that it saves"


class ProgramSubject(Closing):
    """Runs a workload with changes to its fsyncs and judges what a power cut may leave of it.

    The calls of the unchanged program are recorded when they are first asked for; they give the places to try.
    """

    def __init__(self, settings: Settings, commands: Commands, *, prepared: Prepared | None = None) -> None:
        """`prepared`: the volume to start from; without it the setup command makes one, once for all recordings.

        Raises Misuse for a workload or settings with no meaning, RequirementMissing.
        """
        if not commands.workload:
            raise Misuse("there is no workload to run again", _RECORD_IT)
        if settings.fault != "none":
            raise Misuse(f"no fsync helps against a device with fault {settings.fault}", "leave --fault out")
        requirements.require(settings.fs)
        self._settings = settings
        self._commands = commands
        self._prepared = prepared
        self._calls: tuple[Call, ...] | None = None
        self._rules: dict[Change, Rule] = {}

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> "ProgramSubject":
        """The program in a bundle, on the volume that it was recorded on, with the bundle's settings and check.

        Raises Misuse, saying why, for a bundle that holds no program: of a plan, a Python test, a foreign log; and
        where a file that its workload names is neither here nor in the bundle.
        """
        manifest = bundle.manifest
        if manifest.plan is not None:
            raise Misuse("the bundle holds a plan, not a program", "a plan's operations are searched themselves")
        if not manifest.commands.workload:
            raise Misuse(_no_program(manifest.test), _RECORD_IT)
        _expect_files(manifest.commands.workload, bundle.files)
        workspace = mounts.enter_private_mounts()
        commands = Commands(
            workload=materialize(manifest.commands.workload, bundle.files, workspace),
            check=materialize(manifest.commands.check, bundle.files, workspace),
        )
        return cls(manifest.settings, commands, prepared=Prepared(manifest.spec, bundle.recording.base))

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of the unchanged program on the volume. Raises as record_interposed."""
        if self._calls is None:
            _, self._calls = record_interposed(self._settings, self._commands, prepared=self._volume())
        return self._calls

    def additions(self) -> Sequence[Change]:
        """The fsyncs that may be missing, most likely first."""
        return self._known(call_sites.additions)

    def removals(self) -> Sequence[Change]:
        """Each place where the program syncs something, left out."""
        return self._known(call_sites.removals)

    def _known(self, propose: Callable[[Sequence[Call]], dict[Change, Rule]]) -> Sequence[Change]:
        rules = propose(self.calls)
        self._rules |= rules
        return tuple(rules)

    def judge(self, changes: Collection[Change] = ()) -> Tried:
        """Run the workload with these changes and judge every state, the control first.

        What prevents a verdict is told in `trouble`. Raises Misuse for a change that is none of this program's,
        RequirementMissing, InternalError; KeyboardInterrupt when the judging was interrupted.
        """
        chosen = tuple(changes)
        rules = [self._rule_of(change) for change in chosen]
        try:
            recording, calls = record_interposed(self._settings, self._commands, rules, prepared=self._volume())
            _expect_effect(rules, calls)
            judge = Judge(recording, self._settings, command_checker(self._commands.check, self._settings))
            judge.control()
            report = judge.all()
        except TrialUnknown as error:
            return Tried(changes=chosen, trouble=error.cause)
        if report.interrupted:
            raise KeyboardInterrupt
        return _tried(chosen, report)

    def _rule_of(self, change: Change) -> Rule:
        if change not in self._rules:
            self.additions()
            self.removals()
        try:
            return self._rules[change]
        except KeyError:
            raise Misuse(
                f"{change.text}: the program has no such place", "take it from additions or removals"
            ) from None

    def _volume(self) -> Prepared:
        if self._prepared is None:
            self._prepared = Prepared(*prepare(self._settings, self._commands.setup))
        return self._prepared

    def close(self) -> None:
        """Let go of the volume. Its memory goes with the last recording that is made of it."""
        self._prepared = None


def _tried(changes: tuple[Change, ...], report: Report) -> Tried:
    convicted = [found for found in report.found if found.finding.verdict is Verdict.CORRUPTED]
    return Tried(
        changes=changes,
        states=report.judged,
        failing=sum(found.states for found in convicted),
        unknown=report.unknown,
        complete=report.complete and report.judged == report.selected,
    )


def _expect_effect(rules: Sequence[Rule], calls: Sequence[Call]) -> None:
    """Raises TrialUnknown where the program, run again, did not come to the places that were to be changed.

    An addition may have nothing left to do where another one has done it before; one of them must do something.
    """
    left_out = {Shape.of(call) for call in calls if call.fate == "left out"}
    removals = [rule for rule in rules if rule.action == REMOVE]
    missed = [rule for rule in removals if rule.shape not in left_out]
    if missed or (len(removals) < len(rules) and not any(call.fate == "added" for call in calls)):
        where = missed[0].shape.text if missed else "any place for what was to be added"
        raise TrialUnknown(f"run again, the program did not come to {where}", "let it do the same in each run")


def _no_program(test: str) -> str:
    if test:
        return f"the bundle was made by the test {test}: its workload is Python code of the test, not a command"
    return "the bundle holds a block log and no workload"


def _expect_files(workload: str, files: Iterable[Attachment]) -> None:
    """Raises Misuse where the workload names a program or script that we do not have."""
    bundled = {file.path for file in files}
    for word in _words(workload):
        meant = os.path.isabs(word) and word.endswith(_SCRIPTS)
        if meant and word not in bundled and not os.path.exists(word):
            raise Misuse(f"the workload needs {word}, which is neither here nor in the bundle", "put it there")


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()

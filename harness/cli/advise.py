"""`harness advise`: the fsync that a workload lacks, and those that it could do without."""

import contextlib
import os
import sys
from typing import Any, NamedTuple

import click
import msgspec
from rich.text import Text

from harness.advice.bundled import expect_workload, litmus_of
from harness.advice.plan_subject import PlanSubject, hopeless
from harness.advice.search import TRIES_MAX, Search, Subject
from harness.cli import exits, options
from harness.cli.usage import need
from harness.cli.verdicts import Desk
from harness.errors import Misuse, TrialUnknown
from harness.machine import requirements
from harness.plan import litmus, plan
from harness.plan.litmus import Litmus
from harness.plan.plan import Plan
from harness.reporting import advice as reporting
from harness.settings import DECLARED, Settings
from harness.trial import bundle as bundles
from harness.trial.bundle import Bundle
from harness.trial.commands import Commands, attachments, resolve
from harness.trial.litmus import Configuration
from harness.trial.recorder import record
from harness.verdict import ExitCode

_ZSTD = b"\x28\xb5\x2f\xfd"


@click.command("advise", epilog=exits.epilog())
@click.argument("file", metavar="[FILE.crash | PLAN.json | LITMUS.json]", default="")
@click.option("--workload", metavar="CMD", default="", help="Shell command that writes to the volume, as for check.")
@click.option("--check", "check_command", metavar="CMD", default="", help="Shell command that exits 0 if it is intact.")
@click.option("--setup", metavar="CMD", default="", help="Shell command that prepares the volume.")
@options.settings_options(DECLARED)
@click.option("--attach", metavar="PATH", multiple=True, help="A file or folder that the check needs.")
@click.option(
    "--tries",
    metavar="N",
    type=click.IntRange(1),
    default=TRIES_MAX,
    show_default=True,
    help="Run and judge the workload at most so often.",
)
@click.option(
    "--superfluous/--no-superfluous", default=True, show_default=True, help="Look for calls that do nothing, too."
)
@options.report_options
def command(
    file: str,
    workload: str,
    check_command: str,
    setup: str,
    attach: tuple[str, ...],
    tries: int,
    superfluous: bool,
    json_path: str,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> ExitCode:
    """Run a workload again and again, each time with an fsync more, judge every run on the real kernel, and name the
    smallest set of calls that makes every judged state intact; then leave out each of its own, to see which do nothing.

    The workload is that of a bundle, a plan, a litmus test, or a command:

    \b
      harness advise found.crash
      harness advise scenarios/litmus/atomic-create-via-rename.json --fs xfs
      harness advise --workload 'python3 app.py write' --check 'python3 app.py verify'
    """
    if bool(file) == bool(workload):
        raise Misuse("there must be one workload", "give a file, or --workload CMD with --check CMD")
    asked = Commands(workload=workload, check=check_command, setup=setup)
    desk = Desk(json_path, quiet=quiet, verbose=verbose)
    with desk.trial(options.settings_of(values), asked) as follower:
        follower.stage("load")
        with contextlib.closing(_Source(file, asked, attach, values)) as source:
            requirements.require(source.settings.fs)
            given = source.open()
            search = Search(
                given.subject,
                tries_max=tries,
                superfluous=superfluous,
                hopeless=hopeless(source.settings, contract=given.contract),
                on_progress=lambda now: follower.tell(Text(reporting.progress(now))),
            )
            found = search.run()
            lines = _lines(given.subject, found.best.changes if found.best else ())
    told = reporting.Told(found, search.tried, lines, interrupted=search.interrupted)
    reporting.show(desk.page, told, given.name, verbose=verbose)
    code = told.exit_code
    if not desk.json(reporting.as_json(told, given.name, source.settings, source.commands, code)):
        code = code if code is not ExitCode.INTACT else TrialUnknown.exit_code
    if search.interrupted:
        print("interrupted", file=sys.stderr)
    return code


def _lines(subject: Subject, changes: Any) -> list[str]:
    return subject.lines(changes) if isinstance(subject, PlanSubject) else []


class _Given(NamedTuple):
    """What is to be searched. `contract`: it is the file system that is on trial, not the workload."""

    subject: Subject
    name: str
    contract: bool = False


class _Source:
    """Where the workload comes from, as the user said it."""

    def __init__(self, file: str, asked: Commands, attach: tuple[str, ...], values: dict[str, Any]) -> None:
        here = os.getcwd()
        self._file = file
        self._attach = attach
        self._given = options.given(values)
        self.commands = Commands(
            workload=resolve(asked.workload, here), check=resolve(asked.check, here), setup=resolve(asked.setup, here)
        )
        self._stack = contextlib.ExitStack()
        self._what = self._read() if file else None
        self.settings = self._settings()

    def close(self) -> None:
        """Let go of the subject."""
        self._stack.close()

    def _read(self) -> Bundle | Plan | Litmus:
        content = _content(self._file)
        if content.startswith(_ZSTD):
            return bundles.load(self._file)
        with contextlib.suppress(msgspec.DecodeError):
            raw: Any = msgspec.json.decode(content)
            if isinstance(raw, dict) and raw.get("kind") == litmus.KIND:
                return litmus.from_json(content, self._file)
        return plan.from_json(content)

    def _settings(self) -> Settings:
        if isinstance(self._what, Litmus):
            plain = Settings(**self._given)
            base = Configuration(plain.fs, plain.mount_options).settings
        elif isinstance(self._what, Bundle):
            for name in options.OF_THE_VOLUME:
                if name in self._given:
                    flag = DECLARED[name].flag
                    raise Misuse(f"{flag} was settled when the bundle was recorded", f"leave {flag} out")
            base = self._what.manifest.settings
        else:
            base = Settings()
        # The recovery of a crash state is not cut again: what is missing shows in the first crash.
        return msgspec.structs.replace(base, **self._given, depth=1)

    def open(self) -> _Given:
        """The subject, with what it needs; close() gives it up. Raises Misuse, and what recording raises."""
        match self._what:
            case None:
                return self._program(self._recorded())
            case Litmus():
                return self._litmus(self._what)
            case Plan():
                return self._plan(self._what)
            case Bundle():
                return self._bundle(self._what)

    def _bundle(self, bundle: Bundle) -> _Given:
        manifest = bundle.manifest
        if manifest.plan:
            return self._plan(manifest.plan)
        test = litmus_of(bundle)
        if test:
            return self._litmus(test)
        expect_workload(bundle, self._file)
        changed = {name: value for name in ("check", "setup") if (value := getattr(self.commands, name))}
        self.commands = msgspec.structs.replace(manifest.commands, **changed)
        manifest = msgspec.structs.replace(manifest, settings=self.settings, commands=self.commands)
        return self._program(bundle._replace(manifest=manifest))

    def _plan(self, given: Plan) -> _Given:
        name = f"plan {given.id}, {self._volume}"
        if self.commands.check:
            subject = PlanSubject.of_plan_and_check(given, self.commands.check, self.settings)
            return _Given(self._stack.enter_context(subject), name)
        subject = PlanSubject.of_plan(given, self.settings)
        return _Given(
            self._stack.enter_context(subject), f"{name}, held to the contract {self.settings.contract}", True
        )

    def _litmus(self, test: Litmus) -> _Given:
        if self.commands.check:
            raise Misuse("a litmus test brings its own check", "leave --check out")
        subject = PlanSubject.of_litmus(test, self.settings)
        name = f"litmus test {test.id} ({test.title}), {self._volume}; it fails where {test.outcome}"
        return _Given(self._stack.enter_context(subject), name)

    def _program(self, bundle: Bundle) -> _Given:
        from harness.advice.program_subject import ProgramSubject

        need("--check", self.commands.check)
        subject = self._stack.enter_context(contextlib.closing(ProgramSubject.of_bundle(bundle)))
        return _Given(subject, f"{bundle.manifest.commands.workload}, {self._volume}")

    def _recorded(self) -> Bundle:
        commands = self.commands
        files = attachments([commands.check, commands.workload], self._attach)
        recording = record(self.settings, commands)
        manifest = bundles.Manifest(
            spec=recording.spec,
            settings=self.settings,
            begin=recording.begin,
            end=recording.end,
            orderly=recording.orderly,
            notes=recording.notes,
            commands=commands,
            files=tuple(file.path for file in files),
        )
        return Bundle(manifest, recording, files)

    @property
    def _volume(self) -> str:
        return f"{self.settings.fs} {self.settings.mount_options or 'default'}"


def _content(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Misuse(f"{path}: {error.strerror}", "give a bundle, a plan or a litmus test") from error

"""From a recording, a crash state and a finding to all that is known of them, ready to be shown. No mounts, no root."""

import shlex
from collections.abc import Sequence
from typing import Any

import msgspec

from harness.crash import CrashState, StateSpace
from harness.explain.breaking import Broken, broken_by
from harness.explain.durable import asked_before, with_states
from harness.explain.evidence import Evidence
from harness.explain.explained import Entry, Explained, Step
from harness.explain.inside import Inside
from harness.explain.story import Tale, tell
from harness.explain.timeline import entries_of, outcomes_at, readable, steps_of
from harness.layout.naming import name_writes
from harness.plan.plan import Outcome, Plan
from harness.settings import Settings, show_size
from harness.trial.bundle import Bundle
from harness.trial.commands import Commands
from harness.trial.recording import Recording, lost_atoms
from harness.verdict import Finding, Verdict

_PROMISES_KEPT = 100
_LINE_MAX = 400


def explained(
    recording: Recording,
    settings: Settings,
    state: CrashState,
    finding: Finding | None,
    *,
    plan: Plan | None = None,
    commands: Commands | None = None,
    bundle: str = "",
) -> Explained:
    """What the cut of `state` lost, which promise that broke, and what each write of the recording was.

    `bundle`: the path of its file, where it has one. Times are event numbers. Sides and advice are left empty.
    """
    space = recording.space(settings)
    atoms = space.epochs[state.epoch].atoms
    lost = frozenset(atoms[n].event for n in lost_atoms(space, state))
    kept = {atom.event for n, atom in enumerate(atoms) if state.kept >> n & 1}
    steps, entries, evidence = _drawn(recording, state.cut, lost, plan, torn=lost & kept)
    made = recording.log.promises(recording.end)
    broken = broken_by(finding, made[: state.promises], steps, plan)
    unit = evidence.inside.block_size
    asked = asked_before(state.cut, steps, plan, _outcomes(recording), unit) if plan else None
    tale = tell(Tale(recording, evidence, steps, finding, broken, state, len(made), plan, asked))
    begin = min([recording.begin, *lost])
    known = _known(recording, settings, space, plan, commands) | {
        "kind": finding.kind if finding else None,
        "verdict": finding.verdict if finding else Verdict.INTACT,
        "summary": readable(finding.summary, _LINE_MAX) if finding else "",
        "output": _printed(finding.output) if finding else "",
        "kernel": tuple(readable(line, _LINE_MAX) for line in finding.kernel) if finding else (),
        "state": state.name or "unnamed",
        "cut": state.cut,
        "epoch": state.epoch,
        "lost": tuple(sorted(lost)),
        "promises_made": state.promises,
        "promises": tuple(readable(promise.raw) for promise in made[: state.promises][-_PROMISES_KEPT:]),
        "broken": broken.text if broken.named else "",
        "bundle": bundle,
        "replay": f"harness replay {shlex.quote(bundle)}" if bundle else "",
    }
    return Explained(
        **known,
        entries=tuple(each for each in entries if each.event >= begin),
        steps=_settled(steps, broken, tale.state),
        headline=tale.headline,
        story=tale.story,
    )


def explain_bundle(bundle: Bundle, path: str) -> Explained:
    """The same for an opened bundle. One without a chosen state has no cut: its writes are named, and that is all."""
    manifest = bundle.manifest
    about = {"harness": manifest.harness, "kernel_version": manifest.kernel, "tools": manifest.tools}
    if manifest.state is None:
        return msgspec.structs.replace(_log_alone(bundle, path), **about)
    found = explained(
        bundle.recording,
        manifest.settings,
        manifest.state.state(),
        manifest.finding,
        plan=manifest.plan,
        commands=manifest.commands,
        bundle=path,
    )
    return msgspec.structs.replace(found, **about)


def _log_alone(bundle: Bundle, path: str) -> Explained:
    recording, manifest = bundle.recording, bundle.manifest
    steps, entries, _ = _drawn(recording, recording.end, frozenset(), manifest.plan)
    return Explained(
        **_known(recording, manifest.settings, recording.space(manifest.settings), manifest.plan, manifest.commands),
        cut=recording.end,
        entries=entries[recording.begin :],
        steps=steps,
        headline="There is no cut: the bundle holds a whole recording, and no crash state was chosen from it.",
        story=(f"Each write of the recording is named below. To judge its crash states: harness judge {path}",),
        bundle=path,
    )


def _drawn(
    recording: Recording, cut: int, lost: frozenset[int], plan: Plan | None, torn: frozenset[int] = frozenset()
) -> tuple[tuple[Step, ...], tuple[Entry, ...], Evidence]:
    """Steps, the entries of the whole log, and what they prove."""
    log, spec = recording.log, recording.spec
    names = name_writes(spec.fs, recording.base.map, log, spec.size, end=recording.end)
    steps = steps_of(recording, plan)
    entries = entries_of(recording, names, cut, lost, steps)
    fua = (at for at in range(recording.end) if log.events[at].fua)
    evidence = Evidence(entries, Inside(recording, entries), cut, fua, torn)
    return with_states(steps, recording, evidence, plan, _outcomes(recording)), entries, evidence


def _outcomes(recording: Recording) -> dict[int, Outcome]:
    return {n: outcome for n, (_, outcome) in outcomes_at(recording.log).items()}


def _known(
    recording: Recording, settings: Settings, space: StateSpace, plan: Plan | None, commands: Commands | None
) -> dict[str, Any]:
    """What is so whatever the state."""
    spec = recording.spec
    return {
        "file_system": spec.fs,
        "volume": f"{spec.fs} of {_size(spec.size)}{spec.options_text}",
        "model": settings.model,
        "begin": recording.begin,
        "epochs": len(space.epochs),
        "promises_total": len(recording.log.promises(recording.end)),
        "notes": recording.notes,
        "workload": tuple(map(readable, plan.lines())) if plan else _lines(commands),
    }


def _size(size: int) -> str:
    """64 MiB."""
    text = show_size(size)
    return f"{text[:-1]} {text[-1]}iB" if text[-1].isalpha() else f"{text} bytes"


def _lines(commands: Commands | None) -> tuple[str, ...]:
    if commands is None:
        return ()
    parts = (("setup", commands.setup), ("workload", commands.workload), ("check", commands.check))
    return tuple(f"{what}: {readable(text, _LINE_MAX)}" for what, text in parts if text)


def _printed(output: str) -> str:
    return "\n".join(readable(line, _LINE_MAX) for line in output.splitlines())


def _settled(steps: Sequence[Step], broken: Broken, state: str) -> tuple[Step, ...]:
    """What the story found out of the stretch whose promise broke: that it wrote something durable may mislead."""
    step = steps[broken.step] if broken.step >= 0 else None
    if step is None or step.result or not broken.named:
        return tuple(steps)
    settled = msgspec.structs.replace(step, state=state)
    return (*steps[: broken.step], settled, *steps[broken.step + 1 :])

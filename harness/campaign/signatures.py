"""From a finding to the bug that it is a sighting of: what is the same each time, and nothing that varies.

Numbers, addresses, hashes and folders are blanked. The block kinds of the journal are one class: which of its blocks
the best state of a recording lost is chance, for without any one of them the transaction is gone.
"""

import os
import re

import msgspec

from harness.campaign.records import BugSignature, Sighting
from harness.layout.kinds import BlockKind, Named
from harness.plan.plan import Plan
from harness.settings import Settings
from harness.trial.commands import Commands
from harness.trial.recording import Recording, lost_atoms
from harness.trial.report import Found, group
from harness.verdict import Finding
from harness.volume import VolumeSpec

NOTHING = "nothing"
UNKNOWN = "unknown"
"""What was lost could not be named."""
_JOURNAL = "journal"
_RULE_MAX = 300
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")  # a word of its own: python3 stays what it is
_HASH = re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{6,}\b", re.IGNORECASE)
_PROCESS = re.compile(r"\bcomm \S+:")  # in a line of the kernel: who happened to run when it noticed
_QUOTED_FOLDER = re.compile(r"(?<=')/[^']*/|(?<=\")/[^\"]*/")
_FOLDER = re.compile(r"(?<![\w.~/])/(?:[^\s/'\"]+/)+")


def signature_of(
    found: Found,
    recording: Recording | None,
    settings: Settings,
    *,
    plan: Plan | None = None,
    commands: Commands | None = None,
    test: str = "",
) -> BugSignature:
    """The bug. `plan`, `test` (a pytest node id) or `commands`: what the workload was, the first that is given.

    `recording` is that of the workload (found.deeper is asked for itself); None where there is none.
    """
    its = found.deeper or recording
    spec = its.spec if its else VolumeSpec.of(settings)
    return BugSignature(
        file_system=file_system_of(settings, spec) + (", second crash" if found.deeper else ""),
        rule=rule_of(found.finding),
        shape=_text(shape_of(plan, commands, test)),
        lost=lost_of(found, its, settings) if its else NOTHING,
    )


def sighting_of(
    found: Found,
    recording: Recording | None,
    settings: Settings,
    *,
    plan: Plan | None = None,
    commands: Commands | None = None,
    test: str = "",
    reports: str = "",
) -> Sighting:
    """The finding as the store keeps it. `reports`: the directory to which its bundle's path is to be relative."""
    again, _, tries = found.reproduced.partition("/")
    path = found.bundle and os.path.relpath(found.bundle, reports) if reports else found.bundle
    return Sighting(
        signature=signature_of(found, recording, settings, plan=plan, commands=commands, test=test),
        kind=found.finding.kind,
        verdict=found.finding.verdict,
        summary=_text(found.finding.summary),
        states=found.states,
        lost=found.lost,
        operations=len(plan.all) if plan else 0,
        tries=int(tries or 0),
        again=int(again or 0) if tries else 0,
        bundle=path,
        size=size_of(found.bundle),
    )


def size_of(bundle: str) -> int:
    """Of a bundle's file, in bytes; 0 if there is none."""
    try:
        return os.path.getsize(bundle) if bundle else 0
    except OSError:
        return 0


def file_system_of(settings: Settings, spec: VolumeSpec | None = None) -> str:
    """`ext4`, `ext4 -o nobarrier`, `xfs torn 512`: what changes the promises. `spec`: the volume, if it is at hand."""
    spec = spec or VolumeSpec.of(settings)
    words = [spec.fs]
    words += ["-o", spec.mount_options] if spec.mount_options else []
    words += ["mkfs", spec.mkfs_options] if spec.mkfs_options else []
    words += ["fault", spec.fault] if spec.fault != "none" else []
    words += [settings.model, str(settings.unit)] if settings.model == "torn" else []
    return _text(" ".join(words))


def rule_of(finding: Finding) -> str:
    """The kind, and the contract's rule or what the check said without what varies: `LOST_ACKED durable-name`."""
    plainer = _HASH.sub("N", _PROCESS.sub("comm:", finding.summary))
    kind, what = group(msgspec.structs.replace(finding, summary=plainer))
    what = what.removeprefix(kind).strip()
    return _text(f"{kind} {what[:_RULE_MAX]}".rstrip())


def shape_of(plan: Plan | None, commands: Commands | None, test: str) -> str:
    """`creat write rename fsync`; a test's id; `python3 app.py write N`, wherever app.py lies."""
    if plan:
        return " ".join(str(type(operation).__struct_config__.tag) for operation in plan.operations)
    if test or commands is None:
        return test
    return _NUMBER.sub("N", without_folders(commands.workload or commands.check))


def without_folders(command: str) -> str:
    """`python3 app.py write` for `python3 /home/me/app.py write`."""
    return _FOLDER.sub("", _QUOTED_FOLDER.sub("", command))


def lost_of(found: Found, recording: Recording, settings: Settings) -> str:
    """The kinds of the blocks that the state lost: `data, inode table`; `nothing`; `unknown`. `recording`: its own."""
    space = recording.space(settings)
    lost = [space.epochs[found.state.epoch].atoms[n] for n in lost_atoms(space, found.state)]
    if not lost:
        return NOTHING
    try:
        names = _names(recording)
    except Exception:  # a log that the naming of blocks trips over must not keep the finding out of the store
        return UNKNOWN
    pieces = [
        piece
        for atom in lost
        for piece in names.get(atom.event, ())
        if piece.offset < atom.offset + atom.length and atom.offset < piece.offset + piece.length
    ]
    kinds = {_class(piece) for piece in pieces if piece.kind is not BlockKind.UNKNOWN}
    return ", ".join(sorted(kinds)) or UNKNOWN


def _names(recording: Recording) -> dict[int, tuple[Named, ...]]:
    from harness.layout.naming import name_writes

    spec = recording.spec
    return name_writes(spec.fs, recording.base.map, recording.log, spec.size, end=recording.end)


def _class(piece: Named) -> str:
    return _JOURNAL if piece.kind.startswith(_JOURNAL) else str(piece.kind)


def _text(text: str) -> str:
    """What UTF-8 can hold, so that it can be stored and compared anywhere."""
    return text.encode("utf-8", "backslashreplace").decode()

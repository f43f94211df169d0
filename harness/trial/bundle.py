"""A bundle: everything that is needed to have the same disk again, in one file.

The file is a zstd-compressed tar archive (`tar --zstd -tvf found.crash` lists it):

- `manifest.json`: schema, versions, volume, model, the chosen state, the finding, the commands, digests of the rest
- `base.raw`: the non-zero extents of the volume before the recording; the manifest says where each belongs
- `log.dmlw`: the block log in the dm-log-writes format
- `files/N`: the files that the commands name
"""

import io
import os
import platform
import tarfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import xxhash
import zstandard

import harness
from harness.blocklog import BlockLog, Kind
from harness.crash import CrashState
from harness.errors import BadBundle, BadLog, Misuse
from harness.machine import process, requirements
from harness.machine.files import write_atomically
from harness.machine.image import Image
from harness.plan.plan import Plan, check_paths
from harness.settings import Settings
from harness.trial.commands import Attachment, Commands
from harness.trial.recording import ChosenState, Count, Recording
from harness.verdict import Finding
from harness.volume import VolumeSpec

SCHEMA = 2
"""1: no plans. A bundle of a plan in the hands of a reader that knows none would be judged by mount and fsck alone."""
SUFFIX = ".crash"
_LEVEL = 6
_COPY_AGAIN = "copy it again from where it came"
_MEMBER_MAX = 64 << 30


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself. A reader refuses a schema newer than it knows."""

    schema: int = SCHEMA
    kind: str = "crash-harness bundle"
    harness: str = ""
    kernel: str = ""
    tools: dict[str, str] = {}
    spec: VolumeSpec
    settings: Settings
    begin: Count
    end: Count
    orderly: bool
    notes: tuple[str, ...] = ()
    extents: tuple[tuple[Count, Count], ...] = ()
    state: ChosenState | None = None
    finding: Finding | None = None
    commands: Commands = Commands()
    test: str = ""
    """The pytest node id, for a recording made by the `crash_volume` fixture."""
    plan: Plan | None = None
    """The workload, where it was a plan: the check is then what the file system owes it (settings.contract)."""
    files: tuple[str, ...] = ()
    digests: dict[str, str] = {}


class Bundle(NamedTuple):
    """An opened bundle. `recording` holds the disk and the log; `manifest` everything else."""

    manifest: Manifest
    recording: Recording
    files: tuple[Attachment, ...]


def pack(
    recording: Recording,
    settings: Settings,
    *,
    state: CrashState | None = None,
    finding: Finding | None = None,
    commands: Commands | None = None,
    files: Sequence[Attachment] = (),
    test: str = "",
    plan: Plan | None = None,
) -> bytes:
    """The bundle's bytes: the same input gives the same bytes."""
    extents = tuple(recording.base.nonzero_extents())
    members = {
        "base.raw": b"".join(recording.base.read(offset, length) for offset, length in extents),
        "log.dmlw": bytes(recording.log.view[: recording.log.size]),
    }
    members |= {f"files/{n}": file.content for n, file in enumerate(files)}
    manifest = Manifest(
        harness=harness.__version__,
        kernel=platform.release(),
        tools=_tools(recording.spec),
        spec=recording.spec,
        settings=settings,
        begin=recording.begin,
        end=recording.end,
        orderly=recording.orderly,
        notes=recording.notes,
        extents=extents,
        state=ChosenState.of(state) if state else None,
        finding=finding,
        commands=commands or Commands(),
        test=test,
        plan=plan,
        files=tuple(file.path for file in files),
        digests={name: xxhash.xxh3_128_hexdigest(content) for name, content in members.items()},
    )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
        for name, content in members.items():
            _add(archive, name, content)
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    return compressor.compress(packed.getvalue())


def _tools(spec: VolumeSpec) -> dict[str, str]:
    """Versions of what made and checked the file system, as far as it is installed here."""
    programs = (spec.file_system.mkfs_program, spec.file_system.fsck_program)
    return {program: requirements.version_of(program) for program in programs if process.find(program)}


def save(path: str, content: bytes) -> str:
    """Write a bundle; a file of that name is replaced whole or not at all. Returns the path."""
    write_atomically(path, content)
    return path


def load(path: str) -> Bundle:
    """Open a bundle. Raises BadBundle (truncated, damaged, foreign or newer: it says which), Misuse if absent."""
    members = _members(path, _decompressed(path))
    manifest = _manifest(path, members)
    for name in ("base.raw", "log.dmlw", *(f"files/{n}" for n in range(len(manifest.files)))):
        if name not in members or xxhash.xxh3_128_hexdigest(members[name]) != manifest.digests.get(name):
            raise BadBundle(f"{path}: {name} in it is missing or damaged", _COPY_AGAIN)
    try:
        log = BlockLog.parse(members["log.dmlw"])
    except BadLog as error:
        raise BadBundle(f"{path}: {error.cause}", _COPY_AGAIN) from error
    _check_fits(path, manifest, log)
    if manifest.plan:
        check_paths(manifest.plan)
    recording = Recording(
        spec=manifest.spec,
        base=_base_image(path, manifest, members["base.raw"]),
        log=log,
        begin=manifest.begin,
        end=manifest.end,
        orderly=manifest.orderly,
        notes=manifest.notes,
    )
    files = tuple(Attachment(name, members[f"files/{n}"]) for n, name in enumerate(manifest.files))
    return Bundle(manifest, recording, files)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _decompressed(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        raise Misuse(f"{path}: no such file", "give the path of a bundle, as printed with the finding") from None
    except OSError as error:
        raise Misuse(f"{path}: {error.strerror}", "give the path of a bundle, as printed with the finding") from error
    if not raw.startswith(zstandard.FRAME_HEADER):
        raise BadBundle(f"{path} is not a crash bundle", "bundles are made by harness check; their names end in .crash")
    try:
        size = zstandard.frame_content_size(raw)
        if size > _MEMBER_MAX:
            raise BadBundle(f"{path} claims to hold {size} bytes", "this is no bundle that harness made")
        return zstandard.ZstdDecompressor().decompress(raw)
    except zstandard.ZstdError as error:
        raise BadBundle(f"{path} is truncated or damaged ({error})", _COPY_AGAIN) from error


def _members(path: str, content: bytes) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {info.name: archive.extractfile(info) for info in archive.getmembers() if info.isfile()}
            return {name: file.read() for name, file in files.items() if file}
    except tarfile.TarError as error:
        raise BadBundle(f"{path} is not a crash bundle ({error})", "bundles are made by harness check") from error


def _manifest(path: str, members: dict[str, bytes]) -> Manifest:
    try:
        raw: Any = msgspec.json.decode(members["manifest.json"])
        schema = int(raw["schema"])
        known = "crash-harness" in raw["kind"]
    except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise BadBundle(
            f"{path} is not a crash bundle (no readable manifest)", "bundles are made by harness check"
        ) from error
    if not known:
        raise BadBundle(f"{path} is not a crash bundle", "bundles are made by harness check")
    if schema > SCHEMA:
        made_by = raw.get("harness", "a newer harness")
        raise BadBundle(
            f"{path} has schema {schema}; this harness reads up to {SCHEMA}",
            f"upgrade: pip install -U crash-harness (the bundle was made by {made_by})",
        )
    try:
        return msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise BadBundle(f"{path}: its manifest is damaged ({error})", _COPY_AGAIN) from error


def _check_fits(path: str, manifest: Manifest, log: BlockLog) -> None:
    """What the manifest says of the log and of the volume must be possible: a digest does not vouch for that."""
    state = manifest.state
    flushes = sum(event.kind is Kind.FLUSH for event in log.events)
    fits = manifest.begin <= manifest.end <= len(log.events)
    fits &= all(offset + length <= manifest.spec.size for offset, length in manifest.extents)
    fits &= state is None or (state.cut <= manifest.end and state.epoch <= flushes)
    if not fits:
        raise BadBundle(f"{path}: its manifest does not fit its log and volume", _COPY_AGAIN)


def _base_image(path: str, manifest: Manifest, content: bytes) -> Image:
    if sum(length for _, length in manifest.extents) != len(content):
        raise BadBundle(f"{path}: the base image does not fit its extents", _COPY_AGAIN)
    image = Image.create(manifest.spec.size, "base")
    at = 0
    for offset, length in manifest.extents:
        os.pwrite(image.fd, content[at : at + length], offset)
        at += length
    return image

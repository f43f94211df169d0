"""Bundles: the same disk and the same verdict anywhere; what is damaged, foreign or newer is refused in words."""

import io
import random
import shutil
import tarfile
from pathlib import Path

import msgspec
import pytest
import zstandard
from trial_support import SMALL, recorded, with_settings

from harness.crash import StateSpace
from harness.errors import BadBundle, Misuse
from harness.settings import Settings
from harness.trial import bundle as bundles
from harness.trial.check import command_checker, judge, replay, save_findings
from harness.trial.commands import Commands, attachments
from harness.trial.foreign import export, load_foreign
from harness.trial.recorder import record
from harness.trial.recording import Recording
from harness.trial.report import Found, Report
from harness.verdict import Finding, FindingKind, Verdict

pytestmark = pytest.mark.root

SCRIPT = """
made=$(tail -n 1 $HARNESS_PROMISES)
have=$(tail -n 1 ledger 2> /dev/null)
[ "${made:-0}" -le "${have:-0}" ] || { echo "LOST_ACKED promised $made, have $have"; exit 1; }
"""
WORKLOAD = "for n in 1 2 3 4 5; do echo $n >> ledger; echo $n > $HARNESS_PROMISE; done"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of a real finding, whose check is a script beside it."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "check.sh").write_text(SCRIPT)
    commands = Commands(workload=WORKLOAD, check=f"sh {folder}/check.sh")
    settings = with_settings(fsck=True)
    recording = record(settings, commands)
    report = judge(recording, settings, command_checker(commands.check, settings))
    assert report.verdict is Verdict.CORRUPTED
    files = attachments([commands.check])
    save_findings(report, recording, settings, str(folder / "reports"), commands=commands, files=files)
    return report.found[0].bundle


def test_replay_gives_the_recorded_verdict_twenty_times_of_twenty(found: str) -> None:
    bundle = bundles.load(found)
    replays = [replay(bundle) for _ in range(20)]
    assert all(r.same and r.verdict is Verdict.CORRUPTED for r in replays)
    assert {r.findings[0].summary for r in replays} == {
        bundle.manifest.finding.summary if bundle.manifest.finding else ""
    }


def test_it_needs_no_other_file(found: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.crash"
    shutil.copy(found, elsewhere)
    script = Path(found).parent.parent / "check.sh"
    script.rename(script.with_suffix(".hidden"))
    try:
        replayed = replay(bundles.load(str(elsewhere)))
    finally:
        script.with_suffix(".hidden").rename(script)
    assert replayed.same
    assert replayed.findings[0].kind == "LOST_ACKED"


def test_the_same_content_gives_the_same_bytes_and_reads_back(found: str) -> None:
    bundle = bundles.load(found)
    manifest = bundle.manifest
    again = bundles.pack(
        bundle.recording,
        manifest.settings,
        state=manifest.state.state() if manifest.state else None,
        finding=manifest.finding,
        commands=manifest.commands,
        files=bundle.files,
    )
    assert again == Path(found).read_bytes()


def test_other_tools_can_open_it(found: str) -> None:
    plain = zstandard.ZstdDecompressor().decompress(Path(found).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert archive.getnames() == ["manifest.json", "base.raw", "log.dmlw", "files/0"]


def test_damage_anywhere_is_refused_never_misread(found: str, tmp_path: Path) -> None:
    content = Path(found).read_bytes()
    whole = bundles.load(found)
    damaged = tmp_path / "damaged.crash"
    chance = random.Random(11)
    for _ in range(60):
        at = chance.randrange(len(content))
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])
        try:
            read = bundles.load(str(damaged))
        except BadBundle:
            continue
        # A few bits of a zstd frame mean nothing: what was read then is what was written.
        assert (read.manifest, read.files) == (whole.manifest, whole.files)
        assert bytes(read.recording.log.view) == bytes(whole.recording.log.view)
        assert read.recording.base.map[:] == whole.recording.base.map[:]
    for at in [*range(12), *(chance.randrange(len(content)) for _ in range(30)), len(content) - 1]:
        damaged.write_bytes(content[:at])
        with pytest.raises(BadBundle):
            bundles.load(str(damaged))


def repacked(found: str, change: dict[str, object], drop: str = "", alter: str = "") -> bytes:
    """The bundle with its manifest changed, a member dropped or altered, packed as another tool would."""
    members = {}
    plain = zstandard.ZstdDecompressor().decompress(Path(found).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        for info in archive.getmembers():
            file = archive.extractfile(info)
            members[info.name] = file.read() if file else b""
    members["manifest.json"] = msgspec.json.encode(msgspec.json.decode(members["manifest.json"]) | change)
    members.pop(drop, None)
    if alter:
        members[alter] = members[alter][:-1] + bytes([members[alter][-1] ^ 1])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return zstandard.ZstdCompressor().compress(packed.getvalue())


@pytest.mark.parametrize(
    ("change", "drop", "words"),
    [
        ({"schema": 99, "harness": "9.9"}, "", "schema 99"),
        ({"kind": "shopping list"}, "", "not a crash bundle"),
        ({"state": {"epoch": "many"}}, "", "manifest is damaged"),
        ({"state": {"epoch": 0, "cut": 1, "kept": "zz", "promises": 0, "name": ""}}, "", "manifest is damaged"),
        ({}, "log.dmlw", "missing or damaged"),
        ({}, "manifest.json", "not a crash bundle"),
        ({"digests": {}}, "base.raw", "missing or damaged"),
        ({"extents": [[0, 10]]}, "", "does not fit"),
        ({"extents": [[-4096, 4096]]}, "", "manifest is damaged"),
        ({"begin": -5}, "", "manifest is damaged"),
        ({"begin": 10**6}, "", "does not fit"),
    ],
)
def test_foreign_newer_and_inconsistent_manifests(
    found: str, tmp_path: Path, change: dict[str, object], drop: str, words: str
) -> None:
    path = tmp_path / "odd.crash"
    path.write_bytes(repacked(found, change, drop))
    with pytest.raises(BadBundle, match=words) as caught:
        bundles.load(str(path))
    assert caught.value.remedy


@pytest.mark.parametrize("member", ["base.raw", "log.dmlw", "files/0"])
def test_a_member_that_was_altered_is_named(found: str, tmp_path: Path, member: str) -> None:
    path = tmp_path / "altered.crash"
    path.write_bytes(repacked(found, {}, alter=member))
    with pytest.raises(BadBundle, match=f"{member} in it is missing or damaged"):
        bundles.load(str(path))


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    (tmp_path / "text.crash").write_text("hello")
    (tmp_path / "other.crash").write_bytes(zstandard.compress(b"just some compressed bytes"))
    for name in ("text.crash", "other.crash"):
        with pytest.raises(BadBundle, match="not a crash bundle"):
            bundles.load(str(tmp_path / name))
    with pytest.raises(Misuse, match="no such file"):
        bundles.load(str(tmp_path / "missing.crash"))
    with pytest.raises(Misuse):
        bundles.load(str(tmp_path))


def test_a_64_mib_volume_with_1_mib_of_log_stays_under_2_mib() -> None:
    settings = Settings()
    workload = "dd if=/dev/urandom of=data bs=4k count=240 conv=fsync 2> /dev/null"
    recording = record(settings, Commands(workload=workload))
    assert recording.spec.size == 64 << 20
    assert recording.log.size > 1_000_000
    assert len(bundles.pack(recording, settings)) < 2 << 20


def names(recording: Recording, settings: Settings) -> tuple[int, set[tuple[str, int]]]:
    space: StateSpace = recording.space(settings)
    return space.allowed, {(state.name, state.promises) for state in space.states(500, 3).states}


def test_an_exported_log_gives_the_same_states_when_it_is_imported(tmp_path: Path) -> None:
    recording = recorded()
    packed = tmp_path / "whole.crash"
    bundles.save(str(packed), bundles.pack(recording, SMALL))
    export(bundles.load(str(packed)), b"{}", str(tmp_path / "out"))
    again = load_foreign(
        str(tmp_path / "out" / "base.img"), str(tmp_path / "out" / "log.dmlw"), SMALL, sector_size=4096
    )
    assert (again.begin, again.end) == (recording.begin, recording.end)
    assert names(again, SMALL) == names(recording, SMALL)
    assert names(again, with_settings(model="torn")) == names(recording, with_settings(model="torn"))


def test_findings_on_one_disk_with_different_promises_do_not_overwrite_each_other(tmp_path: Path) -> None:
    recording = recorded(fsync=False)
    states = recording.space(SMALL).states(500, 0).states
    twins = next((a, b) for a in states for b in states if a.name == b.name and a.promises < b.promises)
    finding = Finding(kind=FindingKind.CHECK, summary="one")
    report = Report(model="subset", seed=0, allowed=1, selected=1, complete=True)
    report.found = [Found(finding=finding, state=state, lost=0) for state in twins]
    save_findings(report, recording, SMALL, str(tmp_path))
    assert len({found.bundle for found in report.found}) == 2

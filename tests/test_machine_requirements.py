"""Requirements: asked of this machine, and of this machine with its powers taken away."""

import json
import os
import subprocess
import sys

import pytest

from harness.errors import Misuse
from harness.machine import kernel, probes, requirements
from harness.machine.filesystems import FILE_SYSTEMS
from harness.machine.requirements import EVERYTHING, REQUIREMENTS, Row, State

_ASK = """
import json
from harness.machine import requirements
rows = {row.name: row.state for row in requirements.doctor()}
print(json.dumps([rows, [list(missing) for missing in requirements.check("ext4")]]))
"""


def row(package: str | None, state: State = State.MISSING) -> Row:
    return Row("a program", state, "not installed", "it is needed", "install it", package, (EVERYTHING,))


def ask_without(*limits: str) -> tuple[dict[str, str], list[list[str]]]:
    """What doctor and check say in a process that util-linux has limited."""
    done = subprocess.run([*limits, sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    rows, missing = json.loads(done.stdout)
    return rows, missing


def test_every_requirement_says_why_and_how_to_meet_it() -> None:
    names = [need.name for need in REQUIREMENTS]
    assert len(set(names)) == len(names)
    for need in REQUIREMENTS:
        assert need.why and need.remedy
        assert set(need.needed_for) <= {EVERYTHING, *FILE_SYSTEMS}


def test_every_file_system_needs_the_kernel_its_mkfs_and_its_fsck() -> None:
    for fs in FILE_SYSTEMS.values():
        needs = {need.name for need in REQUIREMENTS if fs.name in need.needed_for and not need.optional}
        assert needs == {f"{fs.name} in the kernel", fs.mkfs_program, fs.fsck_program}


@pytest.mark.root
@pytest.mark.parametrize("fs", list(FILE_SYSTEMS))
def test_a_machine_that_runs_these_tests_lacks_nothing(fs: str) -> None:
    requirements.require(fs)


@pytest.mark.root
def test_doctor_has_a_row_for_each_requirement_with_versions() -> None:
    rows = {found.name: found for found in requirements.doctor()}
    assert list(rows) == [need.name for need in REQUIREMENTS]
    assert rows["Linux"].detail == os.uname().release
    assert "mke2fs 1." in rows["mkfs.ext4"].detail
    assert all(found.state in (State.OK, State.OPTIONAL_MISSING) for found in rows.values())


@pytest.mark.root
def test_probes_leave_nothing_behind() -> None:
    def traces() -> tuple[str, set[str]]:
        with open("/proc/self/mountinfo") as mounts:
            return mounts.read(), set(os.listdir("/proc/self/fd"))

    before = traces()
    assert probes.namespaces() is None
    assert probes.loop_devices() is None
    probes.tracepoints()
    assert traces() == before


@pytest.mark.root
def test_without_the_capability_only_that_is_missing_and_the_rest_is_unknown() -> None:
    rows, missing = ask_without("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    assert rows["root"] == State.MISSING
    assert rows["loop devices"] == rows["namespaces"] == rows["/dev/fuse"] == State.UNKNOWN
    assert [what for what, _, _ in missing] == ["root"]
    assert "CAP_SYS_ADMIN" in missing[0][1]


@pytest.mark.root
def test_everything_that_is_missing_is_named_at_once() -> None:
    script = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "$0" "$@"'
    rows, missing = ask_without("unshare", "--mount", "sh", "-c", script)
    assert [what for what, _, _ in missing] == ["loop devices", "/dev/fuse"]
    assert rows["/dev/kmsg"] == State.OPTIONAL_MISSING
    assert all(remedy for _, _, remedy in missing)


def test_an_unknown_file_system_is_misuse() -> None:
    with pytest.raises(Misuse, match="unknown file system"):
        requirements.check("zfs")


def test_the_kernel_is_asked_for_file_systems() -> None:
    assert kernel.has_file_system("proc")
    assert not kernel.has_file_system("nonesuchfs")
    assert "nonesuchfs" in (probes.file_system("nonesuchfs") or "")


def test_nothing_missing_means_nothing_installed() -> None:
    assert requirements.install([row("e2fsprogs", State.OK), row(None), row("xfsprogs", State.UNKNOWN)]) == []


@pytest.mark.root
def test_installing_without_apt_get_names_the_packages() -> None:
    hide = 'tool=$(command -v apt-get) && mount --bind /dev/null "$tool"; exec "$0" "$@"'
    program = """
from harness.errors import RequirementMissing
from harness.machine.requirements import Row, State, install
rows = [Row("x", State.MISSING, "", "", "", package, ()) for package in ("e2fsprogs", "btrfs-progs")]
try:
    install(rows)
except RequirementMissing as error:
    print(error)
"""
    argv = ["unshare", "--mount", "sh", "-c", hide, sys.executable, "-c", program]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "apt-get: packages are installed with it" in said
    assert "wanted: btrfs-progs e2fsprogs" in said

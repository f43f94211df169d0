"""What a user installs: the wheel holds `harness` alone, its doors open, and the version stands in one place."""

import email
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import harness

ROOT = Path(__file__).parent.parent
DISTRIBUTION = "crash-harness"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def _in_wheel(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"crash_harness-{harness.__version__}.dist-info/{name}").decode()


def _project() -> dict[str, object]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(project, dict)
    return project


def test_the_wheel_holds_the_package_alone(wheel: zipfile.ZipFile) -> None:
    information = f"crash_harness-{harness.__version__}.dist-info"
    assert {name.partition("/")[0] for name in wheel.namelist()} == {"harness", information}


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "harness").rglob("*") if _is_source(path)}
    assert {name for name in wheel.namelist() if name.startswith("harness/")} == written
    assert "harness/py.typed" in written


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def test_the_wheel_brings_licence_and_readme(wheel: zipfile.ZipFile) -> None:
    assert _in_wheel(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    described = email.message_from_string(_in_wheel(wheel, "METADATA"))
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Requires-Python"] == ">=3.11"
    assert (ROOT / "README.md").read_text().strip() in str(described.get_payload())


def test_the_version_stands_in_one_place(wheel: zipfile.ZipFile) -> None:
    described = email.message_from_string(_in_wheel(wheel, "METADATA"))
    assert described["Version"] == harness.__version__ == metadata.version(DISTRIBUTION)
    assert "version" not in _project()


def test_a_user_gets_lower_bounds_and_no_upper_ones(wheel: zipfile.ZipFile) -> None:
    """Tools of this repository (the extra `test`) may be pinned: a newer linter has new rules."""
    described = email.message_from_string(_in_wheel(wheel, "METADATA"))
    requirements = [text for text in described.get_all("Requires-Dist") or [] if "extra ==" not in text]
    assert requirements
    assert all(">=" in text and "<" not in text and "==" not in text for text in requirements)


def test_tox_tests_what_was_installed() -> None:
    if "TOX_ENV_NAME" in os.environ:
        assert "site-packages" in Path(harness.__file__).parts


def test_the_console_script_answers() -> None:
    script = Path(sys.executable).with_name("harness")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert harness.__version__ in done.stdout


def test_every_entry_point_loads() -> None:
    ours = metadata.distribution(DISTRIBUTION).entry_points
    assert {(point.group, point.name) for point in ours} == {
        ("console_scripts", "harness"),
        ("pytest11", DISTRIBUTION),
    }
    for point in ours:
        assert point.load()


def test_pytest_finds_the_fixture_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--fixtures", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "crash_volume" in done.stdout

"""The plugin as a test run meets it: options, ini keys and marker, replay, skipping, several processes, cost."""

import os
import re
import sys

import pytest
from plugin_app import APP, GONE, run, text

pytest_plugins = ["pytester"]
root = pytest.mark.root

PAIR = """
def test_good(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume)
    print("SETTINGS", crash_volume.settings)
    crash_volume.verify(kept)

def test_bad(crash_volume):
    with crash_volume.record() as volume:
        ledger(volume, sync=False)
    crash_volume.verify(kept)
"""


@root
def test_marker_over_ini_over_default_and_using_over_all(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nharness_model = prefix\nharness_max_states = 7\nharness_size = 48M\nharness_fsck = no")
    body = """
@pytest.mark.crash_volume(model="torn", size="32M")
class TestAll:
    @pytest.mark.crash_volume(size="40M", mount_options="noatime")
    def test_settings(self, crash_volume):
        s = crash_volume.settings
        assert (s.model, s.max_states, s.size, s.fsck, s.seed) == ("torn", 7, 40 << 20, False, 9)
        other = crash_volume.using(model="flushed", size="24M", timeout=5)
        assert (other.settings.model, other.settings.size, other.settings.timeout) == ("flushed", 24 << 20, 5.0)
        with other.record() as volume:
            ledger(volume)
        report = other.verify(kept)
        assert report.model == "flushed" and report.seed == 9
        from harness.errors import Misuse
        with pytest.raises(Misuse, match="unknown setting 'filesystem'"):
            crash_volume.using(filesystem="xfs")
"""
    run(pytester, body, "--harness-seed=9").assert_outcomes(passed=1)


@root
def test_each_volume_of_a_test_is_told_of(pytester: pytest.Pytester) -> None:
    body = """
def test_two(crash_volume):
    for options in ("", "data=journal"):
        volume_of = crash_volume.using(mount_options=options)
        with volume_of.record() as volume:
            ledger(volume)
        volume_of.verify(kept)
    print([value for name, value in crash_volume._case.item.user_properties if name == "crash_fs"])
"""
    result = run(pytester, body + GONE)
    result.assert_outcomes(passed=2)
    assert "['ext4', 'ext4 -o data=journal']" in text(result)


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("filesystem='xfs'", "unknown setting 'filesystem'"),
        ("'xfs'", "takes names only"),
        ("model='exact'", "choose one of flushed, prefix, subset, torn"),
        ("size='big'", "'big' is not a size"),
    ],
)
def test_a_wrong_marker_is_a_usage_error(pytester: pytest.Pytester, marker: str, told: str) -> None:
    body = f"@pytest.mark.crash_volume({marker})\ndef test_it(crash_volume):\n    pass\n"
    result = run(pytester, body)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join(result.errlines)
    assert told in said and "test_it.py::test_it" in said and "Traceback" not in said


@root
def test_an_unknown_file_system_names_the_known_ones(pytester: pytest.Pytester) -> None:
    result = run(pytester, "@pytest.mark.crash_volume(fs='zfs')\ndef test_it(crash_volume):\n    pass\n")
    result.assert_outcomes(errors=1)
    assert "ext4" in text(result) and "harness/" not in text(result)


@root
def test_replay_judges_the_one_state_of_the_bundle(pytester: pytest.Pytester) -> None:
    result = run(pytester, PAIR, "--harness-reports=kept")
    result.assert_outcomes(passed=1, failed=1)
    bundle = str(next(pytester.path.glob("kept/*.crash")))
    again = run(pytester, PAIR, "test_it.py::test_bad", f"--harness-replay={bundle}")
    assert again.ret == 1
    shown = text(again)
    assert "the one state in " in shown and "1 crash state of 1" in shown
    assert "test_it.py::test_bad: CORRUPTED: the verdict that is recorded in the bundle" in shown

    harness = os.path.join(os.path.dirname(sys.executable), "harness")
    by_command = pytester.run(harness, "replay", bundle, timeout=120)
    assert by_command.ret == 1
    assert "CORRUPTED: the verdict that is recorded in the bundle" in text(by_command)

    forgiving = run(
        pytester, PAIR.replace("verify(kept)", "verify(lambda s: True)"), "-k", "bad", f"--harness-replay={bundle}"
    )
    assert forgiving.ret == 0
    assert "INTACT: the bundle says CORRUPTED" in text(forgiving)

    other = run(pytester, "def test_bad(): pass\n", f"--harness-replay={bundle}")
    assert other.ret == 1
    assert "no test replayed the bundle" in text(other)


@root
def test_replay_finds_its_volume_among_several(pytester: pytest.Pytester) -> None:
    body = """
def test_several(crash_volume):
    for sync in (True, False):
        with crash_volume.record() as volume:
            ledger(volume, sync=sync)
        crash_volume.verify(lambda state: True)
        if sync:
            crash_volume.verify(kept)
        else:
            crash_volume.convict(kept)
"""
    run(pytester, body).assert_outcomes(passed=1)
    bundle = next(pytester.path.glob("reports/*.crash"))
    again = run(pytester, body, f"--harness-replay={bundle}")
    assert again.ret == 1
    again.stdout.re_match_lines([r">\s+crash_volume.convict\(kept\)", r"E\s+CrashFailure: CORRUPTED"])


@root
def test_a_file_that_is_no_bundle(pytester: pytest.Pytester) -> None:
    for path in ("missing.crash", "test_it.py"):
        result = run(pytester, PAIR, f"--harness-replay={path}")
        result.assert_outcomes(errors=2)
        assert path in text(result) and "harness/" not in text(result).replace("harness/plugin", "")


@root
def test_several_pytest_processes(pytester: pytest.Pytester) -> None:
    body = "\n".join(PAIR.replace("test_good", f"test_good{n}").replace("test_bad", f"test_bad{n}") for n in range(3))
    result = run(pytester, body, "-n", "2")
    result.assert_outcomes(passed=3, failed=3)
    assert len(re.findall(r"E\s+replay\s+harness replay ", text(result))) >= 3


@root
def test_a_wrong_marker_under_xdist_is_told_by_the_test(pytester: pytest.Pytester) -> None:
    body = "@pytest.mark.crash_volume(filesystem='xfs')\ndef test_it(crash_volume):\n    pass\n"
    result = run(pytester, body, "-n", "1")
    result.assert_outcomes(errors=1)
    assert "unknown setting 'filesystem'" in text(result)


def without_root(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *args: str) -> pytest.RunResult:
    """The pair of tests, without any capability if we are root."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pytester.makepyfile(app=APP, test_it=f"from app import *\n{PAIR}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    return pytester.run(*command, timeout=60)


def test_without_root_it_skips_with_every_reason_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_NO_SKIP", raising=False)
    result = without_root(pytester, monkeypatch)
    assert result.ret == 0
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        [
            "*2 crash tests skipped*",
            "crash_volume cannot work on this machine:",
            "  root: *",
            "    remedy: run it as root*",
        ]
    )
    assert text(result).count("cannot work on this machine") == 1


@pytest.mark.parametrize("switch", ["flag", "env", "ini"])
def test_where_skipping_is_forbidden_it_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("HARNESS_NO_SKIP", "1" if switch == "env" else "0")
    if switch == "ini":
        pytester.makeini("[pytest]\nharness_no_skip = true")
    result = without_root(pytester, monkeypatch, *(["--harness-no-skip"] if switch == "flag" else []))
    assert result.ret == 1
    result.assert_outcomes(errors=2)
    assert "remedy: run it as root" in text(result)


def test_loading_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    script = pytester.makepyfile(
        """
        import pytest, sys
        import harness.pytest_plugin
        print(sorted(name for name in sys.modules if name.startswith("harness")))
        """
    )
    result = pytester.runpython(script)
    loaded = {
        "errors",
        "settings",
        "verdict",
        "plugin",
        "plugin.options",
        "plugin.skips",
        "plugin.failure",
        "pytest_plugin",
    }
    assert text(result) == str(sorted({"harness", *(f"harness.{name}" for name in loaded)}))

"""A small program under test, and a runner, for the tests of the pytest plugin: they play the user."""

import pytest

APP = """
import os


def append(path, line, sync=True):
    fd = os.open(path + "/log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(fd, line.encode() + b"\\n")
    if sync:
        os.fsync(fd)
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    os.close(fd)


def lines(path):
    try:
        with open(path + "/log") as log:
            return log.read().splitlines()
    except FileNotFoundError:
        return []


def kept(state):
    found = lines(state.path)
    assert found[: len(state.promises)] == state.promises


def ledger(volume, sync=True, count=3):
    for n in range(count):
        append(volume.path, str(n), sync)
        volume.promise(str(n))
"""

GONE = """
def test_nothing_is_left():
    import gc, os
    gc.collect()
    with open("/proc/self/mounts") as mounts:
        assert "/volume" not in mounts.read()
    with os.scandir("/proc/self/fd") as entries:
        held = [os.readlink(entry.path) for entry in entries]
    assert not [name for name in held if "crash-harness" in name]
"""
"""A test that comes after the others, in their process: what they left would break it."""


def run(pytester: pytest.Pytester, body: str, *args: str) -> pytest.RunResult:
    """Run a test module of this body in a pytest process of its own."""
    pytester.makepyfile(app=APP)
    pytester.makepyfile(test_it=f"import pytest\npytest.register_assert_rewrite('app')\nfrom app import *\n\n{body}")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rA", *args, timeout=120)


def text(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines)

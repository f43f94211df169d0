"""Litmus tests on the disk: their files read in, and their predicates asked of a recovered volume."""

import os
import stat

from harness.errors import Misuse
from harness.oracle.checks import RecoveredState
from harness.plan.litmus import Litmus, Predicate, Read, describe, files_of, from_json
from harness.verdict import Finding, FindingKind

_SURPRISING = "surprising: "


def read_tests(path: str) -> list[Litmus]:
    """The tests in a folder, by file name, or the one in a file. Raises Misuse for no tests, bad ones, equal ids."""
    paths = sorted(_json_files(path)) if os.path.isdir(path) else [path]
    if not paths:
        raise Misuse(f"{path} holds no litmus test", "name a folder with .json files, or one such file")
    tests = [read_test(each) for each in paths]
    for number, test in enumerate(tests):
        first = next(n for n, other in enumerate(tests) if other.id == test.id)
        if first != number:
            raise Misuse(f"{paths[first]} and {paths[number]} both have the id {test.id}", "give each an id of its own")
    return tests


def _json_files(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".json")]


def read_test(path: str) -> Litmus:
    """The test in a file. Raises Misuse."""
    try:
        with open(path, "rb") as file:
            return from_json(file.read(), path)
    except OSError as error:
        raise Misuse(f"{path}: {error.strerror}", "name a folder of litmus tests, or one test's .json file") from None


def reader(root: str) -> Read:
    """Reads files of a volume for predicates: None where there is none of that name.

    What stands there and is no file (a directory in its place, say) raises IsADirectoryError or OSError: no pattern
    makes such a thing, so the volume, not the pattern, is to be looked at.
    """

    def read(path: str) -> bytes | None:
        try:
            fd = os.open(os.path.join(root, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError(f"{path} is no regular file")
            return file.read()

    return read


def surprise(predicate: Predicate, root: str, promised: int) -> str:
    """What is found where it holds, in one line; an empty string where it does not hold."""
    read = reader(root)
    if not predicate.holds(read, promised):
        return ""
    found = "; ".join(f"{path} is {describe(read(path))}" for path in files_of(predicate))
    made = f" after {promised} promise{'' if promised == 1 else 's'}" if promised else ""
    return f"{_SURPRISING}{found}{made}"


def is_surprise(finding: Finding) -> bool:
    """Whether a finding is the outcome that the test asks for, and not a volume that is broken in another way."""
    return finding.kind is FindingKind.CHECK and finding.summary.startswith(_SURPRISING)


class LitmusCheck:
    """A check for a Judge: the surprising predicate does not hold. Never raises for what it finds."""

    def __init__(self, test: Litmus, *, repaired: bool = False) -> None:
        self._predicate = test.surprise(repaired=repaired)

    def __call__(self, state: RecoveredState) -> list[Finding]:
        try:
            found = surprise(self._predicate, state.path, len(state.made))
        except OSError as error:
            return [Finding(kind=FindingKind.UNAVAILABLE, summary=f"the files cannot be read: {error}")]
        return [Finding(kind=FindingKind.CHECK, summary=found)] if found else []

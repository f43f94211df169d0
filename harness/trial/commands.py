"""Workload and check commands: they run inside the volume, so the files that they name are found where the user stood.

A word of a command that names a program or script under the user's directory is given its full path, and the file goes
along in the bundle, so that a check written as `python3 app.py verify` means the same in a replay on another machine.
"""

import glob
import os
import re
import shlex
from collections.abc import Iterable

import msgspec

from harness.errors import Misuse
from harness.machine.mounts import Workspace

# What stands between words of a shell command; a file name with one of these must be given in full by the user.
_WORD = re.compile(r"""[^\s'"`;|&<>()$\\*?\[\]{}=]+""")
_SCRIPTS = (".py", ".pyz", ".sh", ".pl", ".rb", ".js", ".jar", ".lua", ".php", ".tcl")
_FILE_MAX = 4 << 20
_BESIDE_MAX = 1 << 20


class Attachment(msgspec.Struct, frozen=True):
    """A file that a command needs: where it was, and its content."""

    path: str
    content: bytes


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """The three commands of a trial, as they are run: in /bin/sh, in the volume's root."""

    workload: str = ""
    check: str = ""
    setup: str = ""


def resolve(command: str, directory: str) -> str:
    """The command with each relative word that names a program or script in `directory` made absolute.

    A word counts if the file is executable, is a script by its name, or is written with a slash; not behind `>`. So
    `ledger.db` is meant to lie on the volume, even if the user's directory has one too.
    """
    here = os.path.abspath(directory)

    def absolute(match: re.Match[str]) -> str:
        word = match[0]
        path = os.path.normpath(os.path.join(here, word))
        written_to = command[: match.start()].rstrip().endswith(">")
        meant = not written_to and not os.path.isabs(word) and _is_program(word, path)
        return shlex.quote(path) if meant else word

    return _WORD.sub(absolute, command)


def _is_program(word: str, path: str) -> bool:
    return os.path.isfile(path) and ("/" in word or os.access(path, os.X_OK) or word.endswith(_SCRIPTS))


def attachments(commands: Iterable[str], extra: Iterable[str] = ()) -> tuple[Attachment, ...]:
    """The files that the commands name, with a Python script's neighbours, and `extra` ones (files or folders).

    Programs of the system (/usr, /bin) and files over 4 MiB are left out: they must be there wherever it is replayed.
    """
    paths: dict[str, None] = {}
    for command in commands:
        for word in _WORD.findall(command):
            if os.path.isabs(word) and os.path.isfile(word) and not _of_the_system(word):
                paths[word] = None
                paths.update(dict.fromkeys(_beside(word)))
    for path in extra:
        if not os.path.exists(path):
            raise Misuse(f"--attach {path}: no such file", "name a file or a folder that the check needs")
        paths.update(dict.fromkeys(_all_files(os.path.abspath(path))))
    return tuple(Attachment(path, _read(path)) for path in paths if os.path.getsize(path) <= _FILE_MAX)


def materialize(command: str, files: Iterable[Attachment], workspace: Workspace) -> str:
    """The command with attached files that are not here, or not the same here, put into the private workspace."""
    root = workspace.path("files")
    for file in files:
        if _same_here(file):
            continue
        target = f"{root}{file.path}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as out:
            out.write(file.content)
        os.chmod(target, 0o755)
        command = command.replace(file.path, target)
    return command


def _same_here(file: Attachment) -> bool:
    try:
        return _read(file.path) == file.content
    except OSError:
        return False


def _of_the_system(path: str) -> bool:
    return path.startswith(("/usr/", "/bin/", "/sbin/", "/lib", "/dev/", "/proc/", "/sys/", "/etc/"))


def _beside(path: str) -> list[str]:
    """A Python script imports what lies beside it; so those modules are part of the check."""
    if not path.endswith(".py"):
        return []
    beside = sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "*.py")))
    return beside if sum(map(os.path.getsize, beside)) <= _BESIDE_MAX else []


def _all_files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in sorted(os.walk(path)) for name in sorted(names)]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

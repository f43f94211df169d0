"""The rules of the house are tests: lint, types, which room may import which, sizes, docstrings, words.

Each checker takes source text and answers with what is wrong, and each has a planted violation that it must find.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from harness.verdict import ExitCode, FindingKind

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "harness").rglob("*.py"))
CODE = sorted(
    path for folder in ("harness", "tests", "scenarios", "fixtures") for path in (ROOT / folder).rglob("*.py")
)

FLOORS = (
    ("verdict", "extents", "closing"),
    ("errors",),
    ("settings",),
    ("machine", "blocklog"),
    ("engine", "crash", "layout"),
    ("volume", "plan"),
    ("faults",),
    ("oracle",),
    ("trial",),
    ("advice",),
    ("explain",),
    ("campaign",),
    ("reporting",),
    ("cli", "plugin"),
)
"""The rooms of harness/ from the ground up. A room imports from the floors below it, and from itself."""

PURE = ("blocklog", "crash", "layout", "extents", "verdict", "errors", "settings")
IMPURE = frozenset(
    {
        "asyncio",
        "ctypes",
        "fcntl",
        "multiprocessing",
        "os",
        "pathlib",
        "select",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "tempfile",
        "threading",
    }
)
"""What a pure room may not import: it turns bytes into bytes, and touches no file, process or device."""

MODULE_LINES = 400
FUNCTION_LINES = 60
SELF_EVIDENT_LINES = 5
"""A public function of no more lines than this may go without a docstring."""

RECORDS = ("msgspec.Struct", "NamedTuple", "Protocol", "ABC", "Generic", "enum.Enum", "enum.StrEnum", "enum.IntEnum")

BY_SYSCALL = re.compile(r"^(/\S*/)?(losetup|mount|umount|dmsetup)(\s|$)")
RUNNERS = frozenset(
    {
        "run",
        "run_shell",
        "system",
        "Popen",
        "call",
        "check_call",
        "check_output",
        "execvp",
        "execv",
        "posix_spawn",
        "spawn",
    }
)

SYSTEM_MODULES = IMPURE | {"syscalls", "mmap", "time"}
"""Modules that a test may not patch: a call of the system that is not made proves nothing."""

Checker = Callable[[str, str], list[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def room_of(module: str) -> str:
    """The room of a dotted module name: harness.machine.loop -> machine. The plugin's two spellings are one room."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else ""
    return "plugin" if name == "pytest_plugin" else name


def floor_of(room: str) -> int | None:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, also those inside functions and of names: `from harness import x`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def wrong_imports(module: str, source: str) -> list[str]:
    room = room_of(module)
    if room and floor_of(room) is None:
        return [f"{module}: room {room!r} stands on no floor: add it to FLOORS"]
    return [
        f"{module}:{line}: {problem}: {name}"
        for line, name in imports_of(source)
        if (problem := _wrong_import(room, name))
    ]


def _wrong_import(room: str, name: str) -> str:
    if name.startswith("."):
        return "relative import"
    if room in PURE and name.partition(".")[0] in IMPURE:
        return "a pure room touches the system"
    target = room_of(name)
    # `from harness import __version__` needs no floor: the package itself imports nothing.
    if name.partition(".")[0] != "harness" or target in ("", "__version__") or target == room:
        return ""
    above, own = floor_of(target), floor_of(room)
    if above is None:
        return "no such room"
    return "import from above, or from beside" if own is None or above >= own else ""


def too_long(module: str, source: str) -> list[str]:
    lines = source.count("\n")
    problems = [f"{module}: {lines} lines: what is it really two of?"] if lines >= MODULE_LINES else []
    for node in functions_of(ast.parse(source)):
        length = lines_of(node)
        if length >= FUNCTION_LINES:
            problems.append(f"{module}:{node.lineno}: {node.name} has {length} lines: what is it really two of?")
    return problems


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def without_docstring(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    problems = [f"{module}: no module docstring"] if tree.body and not ast.get_docstring(tree) else []
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            problems += _of_class(module, node, classes)
        elif isinstance(node, Function):
            problems += _of_function(module, node)
    return problems


def _of_class(module: str, node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """inspect.getdoc finds what the base of a class or method says; of bases in other modules nothing is asked here."""
    bases = _bases(node, classes)
    inherited = {name for base in bases for name in _documented(base)}
    if not any(ast.get_docstring(each) for each in (node, *bases)):
        yield f"{module}:{node.lineno}: class {node.name} has no docstring"
    foreign = any(ast.unparse(base) not in {*classes, *RECORDS} for base in node.bases)
    for member in node.body:
        if isinstance(member, Function) and not foreign and member.name not in inherited:
            yield from _of_function(module, member)


def _of_function(module: str, node: Function) -> Iterator[str]:
    # pytest documents its own hooks.
    private = node.name.startswith(("_", "pytest_"))
    if not private and lines_of(node) > SELF_EVIDENT_LINES and not ast.get_docstring(node):
        yield f"{module}:{node.lineno}: {node.name} has no docstring"


def _bases(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """The classes of the same module that this one derives from, at any distance."""
    direct = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return [*direct, *(base for parent in direct for base in _bases(parent, classes))]


def _documented(node: ast.ClassDef) -> set[str]:
    return {member.name for member in node.body if isinstance(member, Function) and ast.get_docstring(member)}


def unfinished(module: str, source: str) -> list[str]:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b")
    lines = enumerate(source.splitlines(), 1)
    return [f"{module}:{number}: {line.strip()}" for number, line in lines if words.search(line)]


def mocked(module: str, source: str) -> list[str]:
    """Mock objects, and functions of the system replaced by others: the kernel in these tests is the real one."""
    imported = [(line, name) for line, name in imports_of(source) if name.startswith("unittest.mock")]
    replaced = [
        (node.lineno, ast.unparse(node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and node.args and _replaces(node.func) and _of_the_system(node.args[0])
    ]
    return [f"{module}:{line}: {what}" for line, what in imported + replaced]


def _replaces(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr in ("setattr", "delattr")


def _of_the_system(target: ast.expr) -> bool:
    """`os`, `machine.syscalls`, "os.open": what a test would patch."""
    name = str(target.value) if isinstance(target, ast.Constant) else ast.unparse(target)
    return not SYSTEM_MODULES.isdisjoint(name.split("."))


def by_program(module: str, source: str) -> list[str]:
    """Loop devices and mounts made by running losetup and mount: a process each, and they can leave things behind."""
    return [
        f"{module}:{word.lineno}: runs a program where a system call belongs"
        for node in ast.walk(ast.parse(source))
        for word in _command_words(node)
        if isinstance(word, ast.Constant) and isinstance(word.value, str) and BY_SYSCALL.match(word.value)
    ]


def _command_words(node: ast.AST) -> Iterable[ast.expr]:
    """Where the name of a program would stand: first in a list, or as the command line given to a runner."""
    if isinstance(node, ast.List) and node.elts:
        return node.elts[:1]
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return node.args[:1] if name in RUNNERS else ()
    return ()


def problems_of(checker: Checker, paths: Iterable[Path]) -> list[str]:
    found = []
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found += checker(module, path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("checker", "paths"),
    [
        pytest.param(wrong_imports, PACKAGE, id="rooms-import-from-below"),
        pytest.param(too_long, CODE, id="small-rooms"),
        pytest.param(without_docstring, PACKAGE, id="public-names-are-explained"),
        pytest.param(unfinished, CODE, id="nothing-unfinished"),
        pytest.param(mocked, CODE, id="real-kernel"),
        pytest.param(by_program, PACKAGE, id="devices-by-system-call"),
    ],
)
def test_the_house_follows_its_rules(checker: Checker, paths: list[Path]) -> None:
    assert paths
    problems = problems_of(checker, paths)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("checker", "module", "source"),
    [
        pytest.param(wrong_imports, "harness.machine.x", "from harness.engine import start_engine", id="above"),
        pytest.param(wrong_imports, "harness.engine.x", "import harness.crash", id="beside"),
        pytest.param(wrong_imports, "harness.oracle.x", "def f():\n    from harness import trial", id="in-a-function"),
        pytest.param(wrong_imports, "harness.crash.x", "import os", id="impure"),
        pytest.param(wrong_imports, "harness.blocklog.x", "from harness.machine import loop", id="pure-beside"),
        pytest.param(wrong_imports, "harness.trial.x", "from . import report", id="relative"),
        pytest.param(wrong_imports, "harness.attic.x", "import os", id="unknown-room"),
        pytest.param(wrong_imports, "harness.cli.x", "import harness.attic", id="unknown-target"),
        pytest.param(wrong_imports, "harness", "from harness import cli", id="the-package-itself"),
        pytest.param(too_long, "m", "\n" * 400, id="module"),
        pytest.param(too_long, "m", "def f():\n" + "    1\n" * 60, id="function"),
        pytest.param(too_long, "m", "class C:\n  async def f():\n" + "    1\n" * 60, id="method"),
        pytest.param(without_docstring, "m", "import os", id="module-docstring"),
        pytest.param(without_docstring, "m", '"""M."""\nclass C:\n    a: int', id="class-docstring"),
        pytest.param(without_docstring, "m", '"""M."""\ndef f():\n' + "    1\n" * 6, id="function-docstring"),
        pytest.param(
            without_docstring,
            "m",
            '"""M."""\nclass A:\n  """A."""\n  def g(self):\n    1\nclass B(A):\n  """B."""\n  def g(self):\n'
            + "    1\n" * 6,
            id="undocumented-base",
        ),
        pytest.param(unfinished, "m", "a = 1  # TO" + "DO: two", id="unfinished"),
        pytest.param(mocked, "m", "from unittest import mock", id="mock"),
        pytest.param(mocked, "m", "import unittest.mock as u", id="mock-module"),
        pytest.param(
            mocked, "m", "def test(patch):\n    patch.setattr('harness.machine.syscalls.mount', f)", id="syscall"
        ),
        pytest.param(mocked, "m", "def test(monkeypatch):\n    monkeypatch.setattr(os, 'open', 1)", id="patched"),
        pytest.param(by_program, "m", "run(['losetup', '-a'])", id="losetup"),
        pytest.param(by_program, "m", "argv = ['/sbin/mount', '-o', 'ro']", id="mount"),
        pytest.param(by_program, "m", "subprocess.run('umount /mnt', shell=True)", id="umount"),
    ],
)
def test_a_planted_violation_is_found(checker: Checker, module: str, source: str) -> None:
    assert checker(module, source)


@pytest.mark.parametrize(
    ("checker", "module", "source"),
    [
        pytest.param(wrong_imports, "harness.engine.x", "import os\nfrom harness.machine import loop", id="below"),
        pytest.param(wrong_imports, "harness.trial.x", "import harness\nfrom harness.trial.y import z", id="itself"),
        pytest.param(wrong_imports, "harness.pytest_plugin", "from harness.plugin import x", id="one-plugin"),
        pytest.param(without_docstring, "m", '"""M."""\ndef _f():\n' + "    1\n" * 6, id="private"),
        pytest.param(
            without_docstring,
            "m",
            '"""M."""\nclass A:\n  """A."""\n  def g(self):\n    """G."""\nclass B(A):\n  """B."""\n  def g(self):\n'
            + "    1\n" * 6,
            id="documented-base",
        ),
        pytest.param(mocked, "m", "def test(monkeypatch):\n    monkeypatch.setenv('A', 'b')", id="environment"),
        pytest.param(
            mocked, "m", "def test(monkeypatch):\n    monkeypatch.setattr(kmsg, '_PATH', '/no')", id="constant"
        ),
        pytest.param(by_program, "m", "raise OSError('mount failed')\nmount('a', 'b')", id="words"),
    ],
)
def test_what_is_allowed_is_left_alone(checker: Checker, module: str, source: str) -> None:
    assert not checker(module, source)


@pytest.mark.parametrize(
    "words",
    [("ruff", "check", "--no-cache"), ("ruff", "format", "--check", "--no-cache"), ("mypy", "--strict")],
    ids=["lint", "format", "types"],
)
def test_tools_have_no_complaint(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tools_find_a_planted_violation(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("import os\ndef f( a ): return a\n")
    config = f"--config={ROOT / 'pyproject.toml'}"
    for words in (
        ("ruff", "check", "--no-cache", config),
        ("ruff", "format", "--check", "--no-cache", config),
        ("mypy", "--strict", "--cache-dir=/dev/null"),
    ):
        command = [sys.executable, "-m", *words, "planted.py"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1, words


def test_every_kind_of_finding_has_a_meaning_of_its_own() -> None:
    meanings = [kind.meaning for kind in FindingKind]
    assert all(meanings) and len(set(meanings)) == len(meanings)


def test_help_shows_every_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    for code in ExitCode:
        assert re.search(rf"\b{code.value}\b.*{code.name.lower().replace('_', '.')}", done.stdout.lower()), code

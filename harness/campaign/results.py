"""What came of each sequence, one line of JSON each, so that a run that was stopped goes on where it stopped.

A line is written whole by one write(2) to a file opened with O_APPEND. What SIGKILL or a full disk leaves of a last
line is no result, and is left out when the file is read.
"""

import os
import platform
from collections.abc import Iterator

import msgspec
import xxhash

import harness
from harness.closing import Closing
from harness.errors import Misuse
from harness.settings import Settings
from harness.verdict import Verdict

SCHEMA = 1
KIND = "crash-harness enumeration"
_NOT_OF_THE_RESULT = ("workers", "scratch", "timeout", "log_max")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One distinct finding of one sequence."""

    kind: str
    summary: str
    group: str
    states: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one sequence."""

    id: str
    number: int
    text: str
    verdict: Verdict
    judged: int
    recoveries: int = 0
    complete: bool = False
    seconds: float = 0.0
    findings: tuple[Seen, ...] = ()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the results are of. Only results with the same header may stand in one file."""

    schema: int = SCHEMA
    kind: str = KIND
    harness: str
    kernel: str
    ops: int
    nested: bool
    wide: bool
    shard: str
    settings: Settings

    @classmethod
    def of(cls, ops: int, nested: bool, wide: bool, shard: tuple[int, int], settings: Settings) -> "Header":
        """For a run on this machine. Settings that change no result (workers, …) are left at their defaults."""
        plain = Settings()
        same = {name: getattr(plain, name) for name in _NOT_OF_THE_RESULT}
        return cls(
            harness=harness.__version__,
            kernel=platform.release(),
            ops=ops,
            nested=nested,
            wide=wide,
            shard=f"{shard[0]}/{shard[1]}",
            settings=msgspec.structs.replace(settings, **same),
        )

    @property
    def file_name(self) -> str:
        """`enumerate-1-ext4-3f2a….jsonl`: ends with a hash of all that the results depend on."""
        digest = xxhash.xxh3_64_hexdigest(msgspec.json.encode(self))[:10]
        return f"enumerate-{self.ops}-{self.settings.fs}-{digest}.jsonl"


class Results(Closing):
    """The file of one run, open for appending."""

    def __init__(self, folder: str, header: Header, *, resume: bool) -> None:
        """Without `resume` earlier results of the same run are dropped. Raises Misuse for a file of something else."""
        self.path = os.path.join(folder, header.file_name)
        self.done: dict[str, Result] = {}
        os.makedirs(folder, exist_ok=True)
        if resume:
            self.done = {result.id: result for result in _read(self.path, header)}
        else:
            _drop(self.path)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if os.fstat(self._fd).st_size == 0:
            self._append(header)

    def add(self, result: Result) -> None:
        """Keep it. Raises OSError (ENOSPC, …)."""
        self.done[result.id] = result
        self._append(result)

    def _append(self, record: msgspec.Struct) -> None:
        line = msgspec.json.encode(record) + b"\n"
        if os.write(self._fd, line) != len(line):
            raise OSError(28, os.strerror(28), self.path)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _drop(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _read(path: str, header: Header) -> Iterator[Result]:
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) != len(content):
        os.truncate(path, len(whole))
    lines = whole.splitlines()
    if not lines:
        return
    try:
        if msgspec.json.decode(lines[0], type=Header) != header:
            raise Misuse(f"{path} holds results of another run", "give the same options, or leave out --resume")
        for line in lines[1:]:
            result = msgspec.json.decode(line, type=Result)
            if result.verdict is not Verdict.UNKNOWN:  # that one is owed another try
                yield result
    except msgspec.DecodeError as error:
        raise Misuse(f"{path} is damaged: {error}", "leave out --resume, or remove the file") from None

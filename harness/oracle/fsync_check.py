"""What a successful fsync has promised, asked of a recovered volume: does the file hold every block that it covered?

A promise is the mark that follows an fsync which returned 0: its number, and what the file held then. That is what an
application relies on which tries again until fsync succeeds.
"""

import os
from collections.abc import Iterable

import msgspec

from harness.oracle.checks import RecoveredState
from harness.verdict import Finding, FindingKind

BLOCK = 4096
FILE = "file"
ABSENT = "absent"
"""The file ends before the block."""

WORDS = {"old": b"o", "new": b"n", "next": b"m", "stale": b"s", "zeros": b"\0"}
"""What a block may hold, by what it is filled with. `stale` stood in the free space before the file system did."""


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """An fsync that returned 0: its number, from 1, and the blocks written before it as (offset, word)."""

    fsync: int
    blocks: tuple[tuple[int, str], ...]


def fill(word: str) -> bytes:
    """A whole block of it."""
    return WORDS[word] * BLOCK


def word_of(block: bytes) -> str:
    """What a block read from the file is, in one word; `mixed` for what is none of the fills throughout."""
    if len(block) < BLOCK:
        return ABSENT
    return next((word for word, letter in WORDS.items() if block == letter * BLOCK), "mixed")


def read_block(path: str, offset: int) -> str:
    """What the file at `path` holds at `offset`. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
    try:
        return word_of(os.pread(fd, BLOCK, offset))
    finally:
        os.close(fd)


def broken(promises: Iterable[bytes], root: str) -> str:
    """The last promise that the file below `root` does not keep, in one line; an empty string if it keeps all.

    Raises msgspec.MsgspecError for a promise that is none, OSError for a file that cannot be read.
    """
    found = ""
    for promise in promises:
        covered = msgspec.json.decode(promise, type=Covered)
        for offset, wanted in covered.blocks:
            word = read_block(os.path.join(root, FILE), offset)
            if word != wanted:
                found = f"fsync {covered.fsync} returned 0; the block at {offset} of {FILE} is {word}, not {wanted}"
    return found


class FsyncCheck:
    """A check for an Examiner: what each successful fsync covered is there. FALSE_SUCCESS where it is not."""

    def __call__(self, state: RecoveredState) -> list[Finding]:
        try:
            found = broken((promise.raw for promise in state.made), state.path)
        except OSError as error:
            return [Finding(kind=FindingKind.UNAVAILABLE, summary=f"{FILE} cannot be read: {error}")]
        kind = FindingKind.FALSE_SUCCESS
        return [Finding(kind=kind, summary=f"{kind} {found}")] if found else []

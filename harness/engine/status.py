"""One shared page in which the engine says how it fares, readable by its parent even after the engine was killed."""

import mmap
import struct

from harness.engine.rules import RULES_MAX, Count

_PAGE = 4096
_WORDS = 64
_TEXT_AT = _WORDS * 8
_TEXT_MAX = _PAGE - _TEXT_AT

# Words of the page. Each has one writer, the engine, and is written whole.
SERVING, BYTES, FULL, DISK_HANDLES, ERROR_LENGTH, SIZE = range(6)
SEEN, HIT = 16, 16 + RULES_MAX
"""Where the counts of the rules begin: one word for each rule."""

_NR_ENTRIES = struct.Struct("<16xQ")  # struct log_write_super: magic, version, nr_entries


class Status:
    """Counters and flags of one engine. `words` is what the engine writes; the properties are for its parent."""

    def __init__(self, log: mmap.mmap) -> None:
        self._page = mmap.mmap(-1, _PAGE)  # anonymous and shared: fork keeps it common
        self._log = log
        self.words = memoryview(self._page)[:_TEXT_AT].cast("Q")

    @property
    def serving(self) -> bool:
        """INIT has been answered."""
        return self.words[SERVING] != 0

    @property
    def size(self) -> int:
        """Bytes of the disk; 0 until it serves."""
        return self.words[SIZE]

    @property
    def entries(self) -> int:
        """Entries in the log, marks included."""
        (entries,) = _NR_ENTRIES.unpack_from(self._log)
        return int(entries)

    @property
    def bytes(self) -> int:
        """Bytes of the log that hold entries."""
        return self.words[BYTES]

    @property
    def full(self) -> bool:
        """The log reached its bound; what came after was refused and is not in it."""
        return self.words[FULL] != 0

    @property
    def disk_handles(self) -> int:
        """Open files on `disk`: 0 once the loop device has let go of it."""
        return self.words[DISK_HANDLES]

    def counts(self, rules: int) -> list[Count]:
        """What the last `rules` rules that were armed have met so far."""
        return [Count(self.words[SEEN + n], self.words[HIT + n]) for n in range(rules)]

    @property
    def error(self) -> str:
        """Why the engine gave up, or the empty text."""
        length = self.words[ERROR_LENGTH]
        return self._page[_TEXT_AT : _TEXT_AT + length].decode(errors="replace")

    def fail(self, text: str) -> None:
        """Called by the engine, once, before it exits."""
        raw = text.encode(errors="replace")[:_TEXT_MAX]
        self._page[_TEXT_AT : _TEXT_AT + len(raw)] = raw
        self.words[ERROR_LENGTH] = len(raw)

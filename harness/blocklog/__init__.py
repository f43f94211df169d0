"""The block log: what the device saw, in order, in the kernel's dm-log-writes format. Pure: no kernel, no files."""

from harness.blocklog.format import Entry, Flag
from harness.blocklog.reader import BlockLog, Event, Kind, Mark, Promise
from harness.blocklog.writer import LogWriter

__all__ = ["BlockLog", "Entry", "Event", "Flag", "Kind", "LogWriter", "Mark", "Promise"]

"""The recording engine: a process that serves a volume through FUSE and logs, in order, whatever its device is told."""

from harness.engine.client import Engine, start_engine
from harness.engine.status import Status

__all__ = ["Engine", "Status", "start_engine"]

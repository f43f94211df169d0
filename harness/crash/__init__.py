"""Which disks a power cut may leave: enumeration, sampling, names, building. Pure: bytes in, bytes out.

The law is docs/crash-model.md. A state is a disk together with the promises that were made before the cut.
"""

from harness.crash.builder import DiskBuilder
from harness.crash.model import Atom, CrashState, Epoch, Model, Selection, show_count
from harness.crash.space import StateSpace

__all__ = ["Atom", "CrashState", "DiskBuilder", "Epoch", "Model", "Selection", "StateSpace", "show_count"]

"""The files that an engine shows: the disk, and those through which it is spoken to."""

import stat

from harness.machine import fuse
from harness.machine.fuse import Attributes

DISK_NODE, PROMISE_NODE, MARK_NODE, CONTROL_NODE = 2, 3, 4, 5

DISK = "crash-harness-disk-"
"""How the disk's name begins. What stands behind it tells it, in sysfs, from the disks of other engines."""

_NAMES = {b"promise": PROMISE_NODE, b"mark": MARK_NODE, b"control": CONTROL_NODE}


class Tree:
    """A root folder with four files. `size`: of the disk, in bytes."""

    def __init__(self, size: int) -> None:
        files = {DISK_NODE: (size, 0o600), PROMISE_NODE: (0, 0o666), MARK_NODE: (0, 0o600), CONTROL_NODE: (0, 0o600)}
        self.attributes = {
            fuse.ROOT_ID: Attributes(fuse.ROOT_ID, 0, stat.S_IFDIR | 0o755),
            **{node: Attributes(node, length, stat.S_IFREG | mode) for node, (length, mode) in files.items()},
        }

    def find(self, folder: int, name: bytes) -> Attributes | None:
        """What the folder has under this name. The disk is found under every name that begins as it should."""
        if folder != fuse.ROOT_ID:
            return None
        node = DISK_NODE if name.startswith(DISK.encode()) else _NAMES.get(name)
        return self.attributes[node] if node else None

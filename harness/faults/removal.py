"""A device that goes away, in whole or in part, while its volume is in use.

On a served disk nothing reaches the medium from the instant of the deed on, and the request that was the address does
not either: LOOP_SET_STATUS64 alone would first write out the block device's dirty pages (sync_blockdev in
drivers/block/loop.c). Of a plain disk they are written.
"""

from typing import Annotated

import msgspec

from harness.errors import Misuse
from harness.extents import Extent
from harness.faults.fault import SingleFault
from harness.faults.target import Target
from harness.machine import syscalls

_NONE = 1
"""lo_sizelimit: 0 is no limit, and less than a sector is no capacity."""


class Remove(SingleFault, frozen=True, tag="remove"):
    """The device is pulled out, and comes back with the heal: "attempt to access beyond end of device"."""

    takes_device = True

    def refusals(self, target: Target) -> list[Extent] | None:  # noqa: ARG002
        """See SingleFault."""
        return []

    def act(self, target: Target) -> None:
        """See SingleFault."""
        target.disk.remove()

    def undo(self, target: Target) -> None:
        """See SingleFault. A disk that was detached meanwhile has no limit any more."""
        if target.disk.device:
            target.disk.restore()


class ForceDetach(Remove, frozen=True, tag="force-detach"):
    """The device is pulled out, and the mount is taken out of sight (MNT_DETACH, in our mount namespace).

    The file system lives on without a device as long as files on it are open. The heal brings back the device alone.
    """

    needs_mount = True

    def act(self, target: Target) -> None:
        """See SingleFault."""
        super().act(target)
        syscalls.umount(target.mount, syscalls.MNT_DETACH)


class Capacity(SingleFault, frozen=True, tag="capacity"):
    """The device has only its first `size` bytes. With none left the kernel fails requests and does not say why."""

    size: Annotated[int, msgspec.Meta(ge=0)] = 0

    takes_device = True

    def refusals(self, target: Target) -> list[Extent] | None:
        """See SingleFault."""
        left = target.spec.size - self.size
        if left <= 0:
            raise Misuse(f"{self}: that is past the end of the device ({target.spec.size} bytes)", "give less")
        return [(self.size, left)] if self.size else []

    def act(self, target: Target) -> None:
        """See SingleFault."""
        target.disk.attached.limit(self.size or _NONE)

    def undo(self, target: Target) -> None:
        """See SingleFault."""
        if target.disk.device:
            target.disk.restore()

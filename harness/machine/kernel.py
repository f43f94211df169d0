"""What this kernel can do, asked of the kernel itself."""

import contextlib
import ctypes
import os

from harness.machine import syscalls

_FSOPEN = 430  # fsopen(2) has one number on every architecture
_FSOPEN_CLOEXEC = 1


def has_file_system(fs_type: str) -> bool:
    """Whether `fs_type` can be mounted: in /proc/filesystems, or there once the kernel was made to load its module.

    fsopen(2) asks for the module as mount(2) would, and needs neither a device nor a mount point.
    """
    if fs_type in _registered():
        return True
    with contextlib.suppress(OSError):
        os.close(syscalls.call(_FSOPEN, ctypes.create_string_buffer(fs_type.encode()), _FSOPEN_CLOEXEC))
    return fs_type in _registered()


def _registered() -> set[str]:
    with open("/proc/filesystems", encoding="utf-8") as lines:
        return {line.split()[-1] for line in lines if line.strip()}

"""What a volume is made of, and a fresh file system of that kind."""

import msgspec

from harness.engine.rules import Rule
from harness.machine.filesystems import FileSystem, lookup, make_image
from harness.machine.image import Image
from harness.settings import Settings

LYING_FLUSH = "lying-flush"
LYING = Rule(action="lie", on="flush", count=0)


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume is made of; size and sector_size in bytes. Part of every bundle."""

    fs: str
    size: int
    mount_options: str = ""
    mkfs_options: str = ""
    sector_size: int = 4096
    fault: str = "none"
    """What is wrong with the device: `lying-flush` acknowledges flushes and does not do them."""

    @classmethod
    def of(cls, settings: Settings) -> "VolumeSpec":
        """From the settings of a trial; size 0 becomes the file system's default. Raises Misuse for an unknown one."""
        return cls(
            fs=settings.fs,
            size=settings.size or lookup(settings.fs).default_size,
            mount_options=settings.mount_options,
            mkfs_options=settings.mkfs_options,
            sector_size=settings.sector_size,
            fault=settings.fault,
        )

    @property
    def options_text(self) -> str:
        """`, -o noatime, mkfs -O ^has_journal`, to stand behind the name of the volume; empty for the defaults."""
        given = (("-o", self.mount_options), ("mkfs", self.mkfs_options))
        return "".join(f", {what} {text}" for what, text in given if text)

    @property
    def file_system(self) -> FileSystem:
        return lookup(self.fs)


def make_base(spec: VolumeSpec) -> Image:
    """A fresh file system. Raises Misuse for options that mkfs refuses, RequirementMissing where mkfs is missing."""
    return make_image(spec.fs, spec.size, spec.mkfs_options, spec.sector_size)

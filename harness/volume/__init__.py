"""Volumes: what they are made of, how they are recorded, how they are taken away under those who use them."""

from harness.volume.recorded import RecordedVolume, mounted_plain
from harness.volume.spec import LYING_FLUSH, VolumeSpec, make_base

__all__ = ["LYING_FLUSH", "RecordedVolume", "VolumeSpec", "make_base", "mounted_plain"]

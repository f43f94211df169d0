"""Every fault by its name."""

from collections.abc import Mapping
from typing import get_args

from harness.faults import device, kills, removal, volume
from harness.faults.fault import SingleFault

AnySingle = (
    device.Eio
    | device.Enospc
    | device.ShortWrite
    | device.Drop
    | device.BitFlip
    | device.Misdirect
    | device.LateEio
    | device.LyingFlush
    | device.Delay
    | device.Rate
    | device.Hang
    | device.ReadOnly
    | kills.WriterKill
    | kills.EngineKill
    | kills.EngineStop
    | removal.Remove
    | removal.ForceDetach
    | removal.Capacity
    | volume.ShutDown
    | volume.WriteProtect
    | volume.RemountReadOnly
    | volume.Abort
    | volume.Full
)

FAULTS: Mapping[str, type[SingleFault]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnySingle)}
"""`eio` -> Eio, and so on, in the order of the documentation."""

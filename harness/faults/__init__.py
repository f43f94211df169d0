"""Faults as small objects: named, addressed by count or condition, injected, healed, counted. See docs/faults.md."""

from harness.faults.address import At, File, Journal, Place, Range, Superblock
from harness.faults.catalogue import FAULTS
from harness.faults.compose import Several
from harness.faults.device import (
    BitFlip,
    Delay,
    DeviceFault,
    Drop,
    Eio,
    Enospc,
    Hang,
    LateEio,
    LyingFlush,
    Misdirect,
    Rate,
    ReadOnly,
    ShortWrite,
)
from harness.faults.fault import Back, Fault, SingleFault
from harness.faults.health import after, before, injected, missed
from harness.faults.kills import EngineKill, EngineStop, WriterKill
from harness.faults.removal import Capacity, ForceDetach, Remove
from harness.faults.spelling import AnyFault, compose, fault_from_json, fault_to_json, parse_fault
from harness.faults.target import Target
from harness.faults.volume import Abort, Full, RemountReadOnly, ShutDown, WriteProtect
from harness.faults.watchdog import Watchdog, restore

__all__ = [
    "FAULTS",
    "Abort",
    "AnyFault",
    "At",
    "Back",
    "BitFlip",
    "Capacity",
    "Delay",
    "DeviceFault",
    "Drop",
    "Eio",
    "EngineKill",
    "EngineStop",
    "Enospc",
    "Fault",
    "File",
    "ForceDetach",
    "Full",
    "Hang",
    "Journal",
    "LateEio",
    "LyingFlush",
    "Misdirect",
    "Place",
    "Range",
    "Rate",
    "ReadOnly",
    "RemountReadOnly",
    "Remove",
    "Several",
    "ShortWrite",
    "ShutDown",
    "SingleFault",
    "Superblock",
    "Target",
    "Watchdog",
    "WriteProtect",
    "WriterKill",
    "after",
    "before",
    "compose",
    "fault_from_json",
    "fault_to_json",
    "injected",
    "missed",
    "parse_fault",
    "restore",
]

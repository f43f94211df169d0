"""Faults as text and as JSON: `eio@write:3`, `drop@file:data.bin#2`, `remove@op:7 + lie@flush:1`."""

import difflib
from collections.abc import Sequence
from typing import Any

import msgspec

from harness.errors import Misuse
from harness.faults.address import At, parse_address
from harness.faults.catalogue import FAULTS, AnySingle
from harness.faults.compose import Several
from harness.faults.fault import Fault, SingleFault
from harness.settings import parse_size

AnyFault = AnySingle | Several
"""For a field of a plan: msgspec reads and writes it."""

TOGETHER = " + "

_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


def compose(*faults: Fault) -> Fault:
    """All of them at once; one alone is itself. Raises Misuse, naming both, for two that contradict each other."""
    parts = tuple(part for fault in faults for part in fault.parts)
    return parts[0] if len(parts) == 1 else Several(faults=parts)  # type: ignore[arg-type]


def parse_fault(text: str) -> AnyFault:
    """`NAME[@ADDRESS][,OPTION=VALUE]…`, several joined by ` + `. Raises Misuse that says what would be understood."""
    return compose(*map(_parse_one, text.split(TOGETHER)))  # type: ignore[return-value]


def fault_to_json(fault: Fault) -> str:
    """Raises Misuse for a fault whose address is a condition of a program."""
    try:
        return msgspec.json.encode(fault).decode()
    except TypeError as error:
        raise Misuse(f"{fault}: a condition of a program has no JSON", "address it by a mark or a count") from error


def fault_from_json(text: str | bytes) -> AnyFault:
    """Raises Misuse, saying where, for what is no fault."""
    try:
        fault: AnyFault = msgspec.json.decode(text, type=AnyFault)
    except msgspec.MsgspecError as error:
        raise Misuse(f"not a fault: {error}", "copy it whole from the report") from None
    return fault


def _parse_one(text: str) -> SingleFault:
    head, *options = text.strip().split(",")
    name, at_sign, address_text = head.partition("@")
    kind = FAULTS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, FAULTS, 1)
        raise Misuse(f"no fault {name!r}" + (f"; {near[0]}?" if near else ""), "choose one of " + ", ".join(FAULTS))
    at, where = parse_address(address_text) if at_sign else (At.once, None)
    values = _options(kind, options)
    fault = fault_from_json(fault_to_json(kind(at=at, where=where, **values)))
    assert isinstance(fault, SingleFault)
    return fault


def _options(kind: type[SingleFault], options: Sequence[str]) -> dict[str, Any]:
    known = {field.name: field.default for field in msgspec.structs.fields(kind) if field.name not in ("at", "where")}
    name = str(kind.__struct_config__.tag)
    values = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in known:
            remedy = "it has: " + ", ".join(known) if known else "it has none"
            raise Misuse(f"{name} has no option {key!r}", remedy)
        values[key] = _value(f"{name},{key}", known[key], value)
    return values


def _value(what: str, default: object, text: str) -> object:
    if isinstance(default, bool):
        if text not in _TRUTH:
            raise Misuse(f"{what}={text} is neither yes nor no", "give yes or no")
        return _TRUTH[text]
    if isinstance(default, int):
        return parse_size(text)
    try:
        return float(text)
    except ValueError:
        raise Misuse(f"{what}={text} is not a number of seconds", "give a number such as 0.5") from None

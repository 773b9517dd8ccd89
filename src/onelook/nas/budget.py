"""Budgets as text: `flops=4G,layers=20`, `latency=12ms`, or the cost of a published model, `flops=damo-yolo-t`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from onelook.errors import UsageError, did_you_mean
from onelook.nas.evolution import Budgets

KINDS = {"latency": "seconds", "flops": "flops", "parameters": "parameters", "layers": "layers"}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_TIMES = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([a-z]*)", re.IGNORECASE)


def read_budgets(text: str, cost_of: Callable[[str, str], float]) -> Budgets:
    """The budgets of a text, separated by commas. Raises UsageError that names the wrong part.

    cost_of: the cost of a published model, by kind and name; its errors are passed on.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        kind, equals, value = (piece.strip() for piece in part.partition("="))
        if kind not in KINDS:
            raise UsageError(
                f"There is no budget '{kind or part}'.{did_you_mean(kind, KINDS)}",
                "Give one or several of latency=12ms, flops=4G, parameters=2M, layers=20, separated by commas.",
            )
        if not equals or not value:
            raise UsageError(f"The budget '{kind}' has no value.", f"Write {kind}=VALUE.")
        if kind in found:
            raise UsageError(f"The budget '{kind}' is given twice.", "Give it once.")
        found[kind] = _value(kind, value, cost_of)
    layers = found.get("layers")
    return Budgets(
        layers=None if layers is None else int(layers),
        parameters=found.get("parameters"),
        flops=found.get("flops"),
        seconds=found.get("latency"),
    )


def _value(kind: str, text: str, cost_of: Callable[[str, str], float]) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return cost_of(kind, text)
    number, unit = float(match[1]), match[2].lower()
    units = _TIMES if kind == "latency" else _COUNTS
    if kind == "latency" and not unit:
        raise UsageError(f"The budget latency={text} has no unit.", f"Write latency={text}ms, or latency={text}s.")
    if unit not in units:
        raise UsageError(
            f"The budget {kind}={text} has the unknown unit '{match[2]}'.",
            f"Known units: {', '.join(filter(None, units))}.",
        )
    value = number * units[unit]
    if not 0 < value < math.inf or (kind == "layers" and value != int(value)):
        raise UsageError(f"The budget {kind}={text} is not possible.", "Give a number above zero.")
    return value

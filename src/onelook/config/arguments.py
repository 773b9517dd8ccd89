"""Checks the arguments of a public function against its annotations, before they are used."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, Literal

from onelook.config.checks import TypeMismatch, alternatives, describe, fit
from onelook.config.values import show
from onelook.errors import UsageError, did_you_mean


def check_arguments(function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Raises UsageError for an argument of another type than the function's annotation names.

    given: the arguments by name, such as `locals()` in the first line of the function.

    Integers and floats of NumPy count as numbers; a bool does not. Of containers only the kind is checked. Annotations
    that can be resolved only with PyTorch, such as those of models, are left to the code that opens them.
    """
    for name, wanted in _annotations(function).items():
        value, kinds = given[name], alternatives(wanted)
        if not any(_fits(value, kind) for kind in kinds):
            choices = [
                choice for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)
            ]
            hint = did_you_mean(value, map(str, choices)) if isinstance(value, str) else ""
            message = f"'{name}' must be {_described(wanted)}, not {show(value)}.{hint}"
            raise UsageError(message, _remedy(name, value, wanted))


@cache
def _annotations(function: Callable[..., object]) -> dict[str, Any]:
    """The resolved annotations of the parameters that can be checked."""
    scope = vars(sys.modules[function.__module__])
    found = {}
    for name, raw in function.__annotations__.items():
        if name == "return":
            continue
        try:
            found[name] = typing.get_type_hints(types.SimpleNamespace(__annotations__={name: raw}), scope)[name]
        except NameError:
            continue
    return found


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of one type that is no union."""
    kind = typing.get_origin(wanted) or wanted
    if hasattr(value, "dtype") and hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()  # a number of NumPy or PyTorch
    if isinstance(kind, type) and issubclass(kind, Collection) and kind not in (str, tuple):
        return isinstance(value, kind if issubclass(kind, Mapping) else Iterable) and not isinstance(value, str)
    try:
        fit(value, wanted)
    except TypeMismatch:
        return False
    return True


def _described(wanted: Any) -> str:
    return describe(wanted).replace("true or false", "True or False").replace("none", "None")


def _remedy(name: str, value: object, wanted: Any) -> str:
    """What to write instead."""
    kinds = alternatives(wanted)
    if any(getattr(kind, "__name__", "") == "Reporter" for kind in kinds):
        return "Give onelook.PlainReporter() to print lines, or onelook.SilentReporter() for no output."
    if int not in kinds and float not in kinds:
        return ""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return ""
    if float in kinds:
        return f"Give {name}={number:g}."
    if not abs(number) < 1e15:
        return ""
    whole = int(number // 1)
    return f"Give {name}={whole}." if whole == number else f"Give {name}={whole} or {name}={whole + 1}."

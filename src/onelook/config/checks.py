"""Checks whether a value fits a field's annotation, and describes an annotation in words."""

from __future__ import annotations

import math
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import Field, fields, is_dataclass
from typing import Any, Literal, Protocol, TypeGuard, Union


class TypeMismatch(Exception):
    """A value does not fit an annotation. Caught inside this package only."""


class BareWord(str):
    """A word without quotes in a setting (`head=decoupled`): a string, true, false, none or infinity."""

    __slots__ = ()


WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}
INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def is_value(value: object) -> TypeGuard[Any]:
    """Whether `value` is an instance of a dataclass."""
    return is_dataclass(value) and not isinstance(value, type)


def settable(kind: type) -> dict[str, Field[Any]]:
    """The fields of a dataclass that its constructor takes, in order."""
    return {field.name: field for field in fields(kind) if field.init}


def annotation(kind: type, name: str) -> Any:
    """The resolved annotation of one field. Raises TypeError when it names what is not importable at run time."""
    for owner in kind.__mro__:
        if name in getattr(owner, "__annotations__", {}):
            raw = owner.__annotations__[name]
            scope = vars(sys.modules[owner.__module__])
            if not isinstance(raw, str):
                return raw
            try:
                # The source of the class itself, never the user's text.
                return typing.get_type_hints(types.SimpleNamespace(__annotations__={name: raw}), scope)[name]
            except NameError as error:
                raise TypeError(
                    f"the annotation '{raw}' of {kind.__name__}.{name} cannot be resolved: import it for real"
                ) from error
    raise TypeError(f"{kind.__name__} has no annotation for '{name}'")


def fit(value: Any, wanted: Any) -> Any:
    """Converts a value to the type of an annotation; raises TypeMismatch.

    Converted are an int to a float, a list to a tuple, a BareWord to what it can mean, "inf" to a float; nothing else.
    A bool is no number. In a union the first alternative that needs no conversion wins, else the first that fits.
    """
    kinds = alternatives(wanted)
    if isinstance(value, BareWord):  # a choice first, text last: `none` is None where both could be meant
        kinds = tuple(sorted(kinds, key=lambda one: (typing.get_origin(one) is not Literal, one is str)))
    if len(kinds) == 1:
        return _fit_one(value, kinds[0])
    fitting = []
    for alternative in kinds:
        try:
            found = _fit_one(value, alternative)
        except TypeMismatch:
            continue
        if found is value or (type(found) is type(value) and found == value):
            return found
        fitting.append(found)
    if not fitting:
        raise TypeMismatch
    return fitting[0]


def alternatives(wanted: Any) -> tuple[Any, ...]:
    """The members of a union, each without its wrappers; the annotation itself where it is no union."""
    wanted = _strip(wanted)
    if typing.get_origin(wanted) in (Union, types.UnionType):
        return tuple(one for part in typing.get_args(wanted) for one in alternatives(part))
    return (wanted,)


def _strip(wanted: Any) -> Any:
    """The annotation behind Annotated, ClassVar-like wrappers, NewType and `type X = ...` aliases."""
    while True:
        if typing.get_origin(wanted) in (typing.Annotated, typing.Final):
            wanted = typing.get_args(wanted)[0]
        elif hasattr(wanted, "__supertype__"):
            wanted = wanted.__supertype__
        elif hasattr(wanted, "__value__"):
            wanted = wanted.__value__
        else:
            return wanted


def _fit_one(value: Any, wanted: Any) -> Any:
    origin = typing.get_origin(wanted)
    if wanted is Any or wanted is object or isinstance(wanted, typing.TypeVar):
        return _plain_word(value)
    if wanted is None or wanted is type(None):
        return _require(value is None or (isinstance(value, BareWord) and WORDS.get(value.lower(), True) is None), None)
    if origin is Literal:
        return _fit_literal(value, typing.get_args(wanted))
    if wanted in _SCALARS:
        return _SCALARS[wanted](value)
    if wanted is tuple or origin is tuple:
        return _fit_tuple(value, typing.get_args(wanted))
    kind = origin or wanted
    if kind in (list, Sequence, frozenset, AbstractSet):
        return _fit_collection(value, kind, typing.get_args(wanted))
    if kind in (dict, Mapping):
        return _fit_mapping(value, typing.get_args(wanted))
    if kind is Callable:
        return _require(callable(value), value)
    if isinstance(kind, type):
        fits = _has_members(value, kind) if getattr(kind, "_is_protocol", False) else isinstance(value, kind)
        return _require(fits and not isinstance(value, BareWord), value)
    raise TypeError(f"no rule for the annotation {wanted!r}")


def _require(fits: bool, value: Any) -> Any:
    if not fits:
        raise TypeMismatch
    return value


def _plain_word(value: Any) -> Any:
    if not isinstance(value, BareWord):
        return value
    lower = value.lower()
    return WORDS[lower] if lower in WORDS else INFINITIES.get(lower, str(value))


def _fit_bool(value: Any) -> bool:
    if isinstance(value, BareWord):
        value = WORDS.get(value.lower())
    return _require(isinstance(value, bool), value)


def _fit_int(value: Any) -> int:
    return _require(isinstance(value, int) and not isinstance(value, bool), value)


def _fit_float(value: Any) -> float:
    if isinstance(value, str) and value.lower() in INFINITIES:
        return INFINITIES[value.lower()]
    _require(isinstance(value, (int, float)) and not isinstance(value, bool), value)
    try:
        return float(value)
    except OverflowError as error:
        raise TypeMismatch from error


def _fit_str(value: Any) -> str:
    _require(isinstance(value, str), value)
    return str(value) if isinstance(value, BareWord) else value


_SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _fit_bool, int: _fit_int, float: _fit_float, str: _fit_str}


def _fit_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
        if isinstance(value, BareWord) and (str(value) == choice or WORDS.get(value.lower(), value) is choice):
            return choice
    raise TypeMismatch


def _fit_tuple(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    _require(isinstance(value, (tuple, list)), value)
    if not parts:
        return tuple(value)
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(value)
    _require(len(parts) == len(value), value)
    return _unchanged(value, tuple(fit(item, part) for item, part in zip(value, parts)))


def _fit_collection(value: Any, kind: Any, parts: tuple[Any, ...]) -> Any:
    _require(isinstance(value, (tuple, list, frozenset)), value)
    items = [fit(item, parts[0]) for item in value] if parts else list(value)
    made = list if kind is list else frozenset if kind in (frozenset, AbstractSet) else tuple
    return _unchanged(value, made(items))


def _fit_mapping(value: Any, parts: tuple[Any, ...]) -> Any:
    _require(isinstance(value, Mapping), value)
    key, item = parts or (Any, Any)
    return _unchanged(value, {fit(k, key): fit(v, item) for k, v in value.items()})


def _unchanged(value: Any, made: Any) -> Any:
    """The given object itself where nothing was converted, so that `fit` can tell."""
    if type(made) is not type(value):
        return made
    pairs = zip(made.values(), value.values()) if isinstance(made, dict) else zip(made, value)
    return value if all(new is old for new, old in pairs) else made


def _has_members(value: Any, protocol: type) -> bool:
    """Whether the value has every member that a Protocol names; signatures are not compared."""
    if isinstance(value, (str, int, float, type(None), tuple, list, dict, type)):
        return False
    names = set()
    for base in protocol.__mro__:
        if getattr(base, "_is_protocol", False) and base is not Protocol:
            names |= set(getattr(base, "__annotations__", {}))
            names |= {name for name, member in vars(base).items() if callable(member) or isinstance(member, property)}
    names -= {"__init__", "__subclasshook__", "__init_subclass__", "__class_getitem__", "_no_init_or_replace_init"}
    return all(hasattr(value, name) for name in names)


def describe(wanted: Any) -> str:
    """Describes an annotation in words: "a number", "'corner' or 'centre'", "SimOta, or None"."""
    parts = [_describe_one(one) for one in alternatives(wanted)]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" or {parts[-1]}"


_WORDING = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "none",
    None: "none",
}


def _describe_one(wanted: Any) -> str:
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in _WORDING:
        return _WORDING[wanted]
    if origin is Literal:
        choices = [repr(choice) if isinstance(choice, str) else str(choice) for choice in parts]
        return choices[0] if len(choices) == 1 else ", ".join(choices[:-1]) + f" or {choices[-1]}"
    if wanted is tuple or origin in (tuple, list, Sequence, frozenset, AbstractSet):
        if origin is tuple and not (len(parts) == 2 and parts[1] is Ellipsis):
            return f"({', '.join(map(describe, parts))})"
        return f"a list, each {describe(parts[0])}" if parts else "a list"
    if wanted is Any:
        return "anything"
    if origin is os.PathLike:
        return "a path"
    return getattr(origin or wanted, "__name__", str(wanted))

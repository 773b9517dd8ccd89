"""Frozen values as plain data for files, and back: `{"type": "SimOta", "radius": 2.5}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from onelook.config.checks import annotation, is_value, settable
from onelook.config.text import build
from onelook.config.values import fitted, join
from onelook.errors import ConfigError, nearest

DEEPEST = 64  # levels of nesting that are read; no recipe has a dozen


def to_plain(value: Any) -> Any:
    """The value as mappings, lists, text and numbers: a dataclass becomes a mapping with its class name as `type`.

    Every setting is written, defaults too. Infinities become "inf" and "-inf". Raises TypeError for what no file can
    hold: arrays, functions, not-a-number.
    """
    if is_value(value):
        known = settable(type(value))
        if "type" in known:
            raise TypeError(f"{type(value).__name__} has a setting called 'type', which files use for the class name")
        return {"type": type(value).__name__, **{name: to_plain(getattr(value, name)) for name in known}}
    if isinstance(value, Mapping):
        if "type" in value:
            raise TypeError("a mapping with the key 'type' cannot be told from an object in a file")
        return {_plain_key(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, (frozenset, set)):
        return sorted(to_plain(item) for item in value)
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, PurePath):
        return str(value)
    if value is None or (isinstance(value, (bool, int, float, str)) and not is_nan(value)):
        return value
    raise TypeError(f"{type(value).__name__} ({value!r}) cannot be written to a file")


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain_key(key: Any) -> str | int:
    if isinstance(key, (str, int)):
        return key
    raise TypeError(f"a mapping's key must be text or a whole number, not {key!r}")


def from_plain(data: Any, types: Mapping[str, type]) -> Any:
    """The value that `to_plain` wrote. types: the dataclasses that may appear, by name; nothing else is made.

    A setting that is missing takes its default. Raises ConfigError, naming the path, for a class or a setting that
    does not exist (with the nearest that does), a missing setting without default, and a value that does not fit.
    """
    return _read(data, types, "", 0)


def _read(data: Any, types: Mapping[str, type], path: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise ConfigError(f"'{path[:60]}...' is nested more than {DEEPEST} levels deep.")
    if isinstance(data, (list, tuple)):
        return tuple(_read(item, types, join(path, str(index)), depth + 1) for index, item in enumerate(data))
    if not isinstance(data, Mapping):
        return data
    if "type" not in data:
        return {key: _read(item, types, join(path, str(key)), depth + 1) for key, item in data.items()}
    name = data["type"]
    where = f"'{path}': " if path else ""
    if not isinstance(name, str) or name not in types:
        hint = nearest(name, types) if isinstance(name, str) else ""
        raise ConfigError(f"{where}there is no type '{name}'.{hint}", f"Known types: {', '.join(sorted(types))}.")
    kind = types[name]
    known = settable(kind)
    given = {}
    for key, item in data.items():
        if key == "type":
            continue
        if key not in known:
            hint = nearest(str(key), known)
            listed = ", ".join(known) or "none"
            raise ConfigError(f"{where}{name} has no setting '{key}'.{hint}", f"Settings of {name}: {listed}.")
        here = join(path, key)
        given[key] = fitted(_read(item, types, here, depth + 1), annotation(kind, key), here)
    return build(kind, given, path)

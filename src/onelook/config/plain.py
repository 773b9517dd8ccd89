"""Frozen values as plain data for files, and back: `{"type": "SimOta", "radius": 2.5}`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from onelook.config.checks import annotation, is_value, settable
from onelook.config.text import build
from onelook.config.values import fitted, join
from onelook.errors import ConfigError, did_you_mean

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


def from_plain(data: Any, types: Mapping[str, type], source: str = "", lines: Mapping[str, int] | None = None) -> Any:
    """The value that `to_plain` wrote. types: the dataclasses that may appear, by name; nothing else is made.

    source, lines: the file that messages speak of, and the line of each dotted path (`read_yaml_lines`). A setting
    that is missing takes its default. Raises ConfigError, naming the path, for a class or a setting that does not
    exist (with the nearest that does), a missing setting without default, and a value that does not fit.
    """
    return _Reader(types, source, lines or {}).read(data, "", 0)


class _Reader:
    def __init__(self, types: Mapping[str, type], source: str, lines: Mapping[str, int]) -> None:
        self.types = types
        self.source = source
        self.lines = lines

    def read(self, data: Any, path: str, depth: int) -> Any:
        """The value of plain data that lies at `path`; mappings without a type and lists stay containers."""
        if depth > DEEPEST:
            raise self.error(f"'{path[:60]}...' is nested more than {DEEPEST} levels deep.", "", path)
        if isinstance(data, (list, tuple)):
            return tuple(self.read(item, join(path, str(index)), depth + 1) for index, item in enumerate(data))
        if not isinstance(data, Mapping):
            return data
        if "type" not in data:
            return {key: self.read(item, join(path, str(key)), depth + 1) for key, item in data.items()}
        kind = self.kind(data["type"], path)
        known = settable(kind)
        given = {}
        for key, item in data.items():
            if key == "type":
                continue
            here = join(path, str(key))
            if key not in known:
                hint, listed = did_you_mean(str(key), known), ", ".join(known) or "none"
                message = f"{kind.__name__} has no setting '{key}'.{hint}"
                raise self.error(_at(path) + message, f"Settings of {kind.__name__}: {listed}.", here)
            value = self.read(item, here, depth + 1)
            given[key] = self.located(here, fitted, value, annotation(kind, key), here)
        return self.located(path, build, kind, given, path)

    def kind(self, name: Any, path: str) -> type:
        if isinstance(name, str) and name in self.types:
            return self.types[name]
        hint = did_you_mean(name, self.types) if isinstance(name, str) else ""
        remedy = f"Known types: {', '.join(sorted(self.types))}."
        raise self.error(f"{_at(path)}there is no type '{name}'.{hint}", remedy, join(path, "type"))

    def located(self, path: str, make: Callable[..., Any], *given: Any) -> Any:
        """Calls `make(*given)` and adds the place in the file to its error."""
        try:
            return make(*given)
        except ConfigError as error:
            raise self.error(error.message, error.remedy, path) from error

    def error(self, message: str, remedy: str, path: str) -> ConfigError:
        line = self.lines.get(path) or self.lines.get(join(path, "type"))
        place = f"{self.source}:{line}: " if line else f"{self.source}: " if self.source else ""
        return ConfigError(place + message, remedy)


def _at(path: str) -> str:
    return f"'{path}': " if path else ""

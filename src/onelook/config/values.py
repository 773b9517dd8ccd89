"""Changes settings of frozen dataclasses in a copy, and compares two of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from onelook.config.checks import BareWord, TypeMismatch, annotation, describe, fit, is_value, settable
from onelook.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Difference:
    """One setting that two values have differently; `change(a, {path: after})` makes it the same.

    path: dotted path of the setting.  before, after: its value in the first and in the second.
    """

    path: str
    before: Any
    after: Any

    def __repr__(self) -> str:
        return f"<Difference: {self.path}: {show(self.before)} -> {show(self.after)}>"


@dataclass
class _Changes:
    """A tree of what to set: a new value for this place, then changes of what is below it."""

    new: list[Any] = field(default_factory=list)  # none or one; a list because None is a value
    below: dict[str, _Changes] = field(default_factory=dict)


def change(value: T, new: Mapping[str, object]) -> T:
    """A copy of `value` with the settings of `new`, by dotted path: `change(recipe, {"loss.assigner.radius": 2.0})`.

    All changes of one object are applied at once, so its own checks see them together; a path may also lie inside a
    value that `new` itself sets. A list stands for a tuple, a whole number for a number. Raises ConfigError for a
    path that does not exist (with the nearest that does), a value that does not fit its field's annotation, and a
    value that the object itself refuses.
    """
    tree = _Changes()
    for path, item in new.items():
        if not isinstance(path, str) or not path or any(not part for part in path.split(".")):
            raise ConfigError(f"'{path}' is no setting: a setting is a dotted path such as 'model.depth'.")
        place = tree
        for part in path.split("."):
            place = place.below.setdefault(part, _Changes())
        place.new.append(item)
    return _apply(value, tree, "", value)


def _apply(value: Any, tree: _Changes, path: str, root: Any) -> Any:
    """`value` with the changes of a tree; `path` is where it lies in `root`."""
    if not tree.below:
        return value
    if is_value(value):
        return _apply_to_dataclass(value, tree, path, root)
    if isinstance(value, tuple) and value:
        return _apply_to_tuple(value, tree, path, root)
    if isinstance(value, Mapping):
        made = dict(value)
        for key, changes in tree.below.items():
            known = {str(name): name for name in value}
            if key not in known:
                raise _unknown_setting(join(path, key), list(known), path, root)
            item = changes.new[0] if changes.new else value[known[key]]
            made[known[key]] = _apply(item, changes, join(path, key), root)
        return made
    raise _has_no_settings(join(path, next(iter(tree.below))), path, value)


def _apply_to_dataclass(value: Any, tree: _Changes, path: str, root: Any) -> Any:
    kind = type(value)
    known = settable(kind)
    made: dict[str, Any] = {}
    for name, changes in tree.below.items():
        here = join(path, name)
        if name not in known:
            raise _unknown_setting(here, list(known), path, root, kind.__name__)
        wanted = annotation(kind, name)
        start = fitted(changes.new[0], wanted, here) if changes.new else getattr(value, name)
        made[name] = fitted(_apply(start, changes, here, root), wanted, here)
    return construct(lambda: replace(value, **made), made, path)


def _apply_to_tuple(value: tuple[Any, ...], tree: _Changes, path: str, root: Any) -> tuple[Any, ...]:
    names = item_names(value)
    made = list(value)
    for key, changes in tree.below.items():
        if key in names:
            index = names.index(key)
        elif key.isascii() and key.isdigit() and len(key) < 7 and int(key) < len(value):
            index = int(key)
        else:
            raise _unknown_setting(join(path, key), names or [str(i) for i in range(len(value))], path, root)
        made[index] = _apply(changes.new[0] if changes.new else value[index], changes, join(path, key), root)
    return tuple(made)


def construct(make: Any, given: Mapping[str, Any], path: str) -> Any:
    """Calls `make`; a ValueError or TypeError of it becomes a ConfigError that names the given settings."""
    try:
        return make()
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        names = " and ".join(f"'{join(path, name)}'" for name in given) or f"'{path}'"
        shown = ", ".join(show(item) for item in given.values())
        verb = "cannot be" if len(given) == 1 else "cannot together be"
        raise ConfigError(f"{names} {verb} {shown}: {str(error).rstrip('.')}.") from error


def fitted(value: Any, wanted: Any, path: str) -> Any:
    """Converts a value to the type of an annotation; raises ConfigError with the path and both types."""
    try:
        return fit(value, wanted)
    except TypeMismatch:
        hint = did_you_mean(value, _choices(wanted)) if isinstance(value, str) else ""
        raise ConfigError(f"'{path}' must be {describe(wanted)}, not {show(value)}.{hint}") from None


def _choices(wanted: Any) -> list[str]:
    import typing

    if typing.get_origin(wanted) is typing.Literal:
        return [choice for choice in typing.get_args(wanted) if isinstance(choice, str)]
    if isinstance(wanted, type):
        return [wanted.__name__]
    return [name for part in typing.get_args(wanted) for name in _choices(part)]


def show(value: Any) -> str:
    """Formats a value for a message, in at most 80 characters."""
    if isinstance(value, BareWord):
        return f"'{value}'"
    if is_value(value):
        return f"{type(value).__name__}(...)" if fields(value) else f"{type(value).__name__}()"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def _unknown_setting(path: str, siblings: list[str], parent: str, root: Any, kind: str = "") -> ConfigError:
    """The error for a path that does not exist: the nearest here, else the same name elsewhere."""
    last = path.rsplit(".", 1)[-1]
    hint = did_you_mean(last, siblings)
    if hint:
        hint = hint.replace("'", f"'{parent}." if parent else "'", 1)
    else:
        elsewhere = [known for known, _ in settings(root) if known.rsplit(".", 1)[-1] == last]
        hint = did_you_mean(path, elsewhere) or (f" Did you mean '{elsewhere[0]}'?" if elsewhere else "")
    owner = f"'{parent}'{f' ({kind})' if kind else ''}" if parent else kind or "this value"
    listed = ", ".join(siblings) if siblings else "none"
    return ConfigError(f"There is no setting '{path}'.{hint}", f"Settings of {owner}: {listed}.")


def _has_no_settings(path: str, parent: str, value: Any) -> ConfigError:
    """The error for a path into a value that has no settings."""
    what = "none" if value is None else show(value)
    return ConfigError(f"There is no setting '{path}': '{parent}' is {what}.", f"Set '{parent}' as a whole first.")


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def item_names(items: tuple[Any, ...]) -> list[str]:
    """The names by which the items of a tuple are addressed: their `name` where all have a different one, or none."""
    names = [getattr(item, "name", None) if is_value(item) else None for item in items]
    usable = [name for name in names if isinstance(name, str) and name and "." not in name and not name.isdigit()]
    return usable if len(usable) == len(items) == len(set(usable)) else []


def _children(value: Any) -> dict[str, Any] | None:
    """The settings inside a value, by name; None for a value without settings."""
    if is_value(value):
        return {name: getattr(value, name) for name in settable(type(value))}
    if isinstance(value, tuple) and any(is_value(item) or isinstance(item, tuple) for item in value):
        names = item_names(value) or [str(index) for index in range(len(value))]
        return dict(zip(names, value))
    if isinstance(value, Mapping) and value and all(map(_is_path_part, value)):
        return dict(value)
    return None


def _is_path_part(key: object) -> bool:
    """Whether a key can stand in `path=value`, whose path and value are taken without the spaces around them."""
    return isinstance(key, str) and key == key.strip() and key != "" and not set(key) & {".", "="}


def settings(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted path of a value with what is there: objects first, then what is inside them."""
    for name, item in (_children(value) or {}).items():
        here = join(path, name)
        yield here, item
        yield from settings(item, here)


def get(value: Any, path: str, here: str = "") -> Any:
    """The setting at a dotted path. Raises ConfigError for a path that does not exist; `here` is put before it."""
    place = value
    for part in path.split("."):
        below = _children(place) or {}
        if isinstance(place, (tuple, Mapping)):
            items = enumerate(place) if isinstance(place, tuple) else place.items()
            below = {**{str(key): item for key, item in items}, **below}
        if not below:
            raise _has_no_settings(join(here, part), here, place)
        if part not in below:
            kind = type(place).__name__ if is_value(place) else ""
            raise _unknown_setting(join(here, part), list(_children(place) or below), here, value, kind)
        here, place = join(here, part), below[part]
    return place


def diff(a: Any, b: Any) -> list[Difference]:
    """The fewest settings that make `a` equal `b`: `change(a, {d.path: d.after for d in diff(a, b)}) == b`.

    Objects of different types, and tuples of different lengths, differ as a whole. Raises ConfigError when `a` and `b`
    themselves are of different types.
    """
    if type(a) is not type(b):
        raise ConfigError(f"{type(a).__name__} and {type(b).__name__} have no settings in common.")
    return list(_differences(a, b, ""))


def _differences(a: Any, b: Any, path: str) -> Iterator[Difference]:
    below_a, below_b = _children(a), _children(b)
    if type(a) is type(b) and below_a is not None and below_b is not None and list(below_a) == list(below_b):
        for name, item in below_a.items():
            yield from _differences(item, below_b[name], join(path, name))
    elif not same(a, b):
        yield Difference(path, a, b)


def same(a: Any, b: Any) -> bool:
    """Whether two settings are equal: 2 and 2.0 are, as a file's number may be read as either; 1 and true are not."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b

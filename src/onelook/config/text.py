"""Settings from text (`loss.assigner.radius=2.0`, `augment=MosaicMixup(scale=(0.5, 1.5))`), and back to text.

The text is read as a literal by `ast` and never evaluated: numbers and + - * / between them, strings, words, true,
false, none, inf, tuples, lists, mappings, and known dataclasses by name with their settings in brackets.
"""

from __future__ import annotations

import ast
import math
import types as python_types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, is_dataclass
from typing import Any, TypeVar

from onelook.config.checks import (
    INFINITIES,
    WORDS,
    BareWord,
    TypeMismatch,
    annotation,
    describe,
    fit,
    is_value,
    settable,
)
from onelook.config.values import change, construct, fitted, get, join, same, settings
from onelook.errors import ConfigError, UsageError, did_you_mean

T = TypeVar("T")

LONGEST = 4000  # characters of one setting; what a person writes is far shorter
LISTS = (
    "A list is written (a, b), and one of a single item (a,); in it, text with other signs than letters, dots and "
    'underscores is quoted: ("x.*",).'
)


class InvalidLiteral(Exception):
    """The text is no literal of the settings' grammar; where the field is text, it is used as it is."""


def override(value: T, *changes: str, types: Mapping[str, type] | None = None) -> T:
    """A copy of `value` with settings from text, each `path=value`, checked against the field's type.

    types: dataclasses that may be named in a value, by name, beside those that `value` already holds or its
    annotations mention.

    Raises UsageError (a ConfigError) for a path that does not exist, a value of the wrong type,
    a value that the object refuses, and a path given twice. Order does not matter: objects are set before what is
    inside them.
    """
    known = {**known_types(value), **(types or {})}
    try:
        texts: dict[str, str] = {}
        for setting in changes:
            path, separator, text = setting.partition("=")
            path = path.strip()
            if not separator or not path:
                raise UsageError(f"'{setting}' is no setting.", "Write path=value, such as loss.assigner.radius=2.0.")
            if path in texts:
                raise UsageError(f"'{path}' is set twice: {texts[path]} and {text.strip()}.", "Leave one away.")
            texts[path] = text.strip()
        new: dict[str, Any] = {}
        for path in sorted(texts, key=lambda path: path.count(".")):
            start, wanted = _value_and_annotation_at(value, path, new)
            new[path] = read_value(texts[path], wanted, path, known, start)
        return change(value, new)
    except UsageError:
        raise
    except ConfigError as error:
        raise UsageError(error.message, error.remedy) from error


def _value_and_annotation_at(value: Any, path: str, new: Mapping[str, Any]) -> tuple[Any, Any]:
    """The value at `path` after `new` is set, and the annotation of that place (Any inside plain containers)."""
    whole = max((parent for parent in new if path.startswith(f"{parent}.")), key=len, default="")
    root = new[whole] if whole else value
    inside = path.removeprefix(f"{whole}.") if whole else path
    return get(root, inside, whole), _annotation_at(root, inside)


def _annotation_at(root: Any, path: str) -> Any:
    parent, _, last = path.rpartition(".")
    owner = get(root, parent) if parent else root
    if is_value(owner):
        return annotation(type(owner), last)
    return _item_annotation(_annotation_at(root, parent)) if parent else Any


def _item_annotation(wanted: Any) -> Any:
    parts = [part for part in typing.get_args(wanted) if part is not Ellipsis]
    return parts[0] if typing.get_origin(wanted) is tuple and len(set(parts)) == 1 else Any


def known_types(value: Any) -> dict[str, type]:
    """The dataclasses that a value holds or that the annotations of its settings mention, by name."""
    found: dict[str, type] = {}

    def add(kind: Any) -> None:
        for part in typing.get_args(kind):
            add(part)
        if isinstance(kind, type) and is_dataclass(kind) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for name in settable(kind):
                add(annotation(kind, name))

    for item in (value, *(item for _, item in settings(value))):
        add(type(item))
    return found


def read_value(text: str, wanted: Any, path: str, known: Mapping[str, type], present: Any = None) -> Any:
    """The value that a text means where the annotation is `wanted`. Raises ConfigError naming `path`.

    present: what is there now, as an example for the remedy of an error.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"The value of '{path}' is longer than {LONGEST} characters.")
    try:
        value = _Reader(known).read(text, wanted, path)
    except InvalidLiteral as error:
        try:
            return fit(_one_text(BareWord(text), wanted), wanted)
        except TypeMismatch:
            raise ConfigError(
                f"'{path}' must be {describe(wanted)}, and '{_short(text)}' cannot be read as that: {error}.",
                _list_remedy(wanted),
            ) from None
    if _is_text_only(wanted) and not isinstance(value, str):
        return text  # `name=2.0` where text is wanted
    try:
        return fitted(_one_text(value, wanted), wanted, path)
    except ConfigError as error:
        hint = did_you_mean(value, known) if isinstance(value, BareWord) and "Did you mean" not in error.message else ""
        remedy = f"It is {path}={_short(to_text(present))} now." if present is not None else ""
        remedy = " ".join(part for part in (remedy, _list_remedy(wanted)) if part)
        raise ConfigError(error.message + hint, error.remedy or remedy) from None


def _one_text(value: Any, wanted: Any) -> Any:
    """Makes a list of a single text where the annotation is a list of texts; other values are returned unchanged.

    A number is left alone: `grid_scales=1.1` may mean all of them. So is what may mean nothing at all (`none`), and
    what looks like a list that could not be read (`a b, c`).
    """
    if not isinstance(value, str) or not value or (isinstance(value, BareWord) and not _is_plain(value)):
        return value
    for candidate in (value, (value,)):
        try:
            fit(candidate, wanted)
        except TypeMismatch:
            continue
        return candidate
    return value


def _is_plain(word: BareWord) -> bool:
    return word.lower() not in {**WORDS, **INFINITIES} and "," not in word and word[0] not in "([{'\""


def _list_remedy(wanted: Any) -> str:
    return LISTS if describe(wanted).startswith("a list") else ""


def _is_text_only(wanted: Any) -> bool:
    return wanted is str or set(typing.get_args(wanted)) == {str, type(None)}


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}..."


class _Reader:
    """Turns a syntax tree into values. known: the dataclasses that may be called."""

    def __init__(self, known: Mapping[str, type]) -> None:
        self.known = known

    def read(self, text: str, wanted: Any, path: str) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's opinions on `3is`
                tree = ast.parse(text, mode="eval")
            return self.value(tree.body, wanted, path)
        except (SyntaxError, ValueError, OverflowError) as error:
            raise InvalidLiteral("it is no value") from error
        except (RecursionError, MemoryError) as error:
            raise InvalidLiteral("it is nested too deeply") from error

    def value(self, node: ast.expr, wanted: Any = Any, path: str = "") -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as constant):
                return constant
            case ast.Name(id=name):
                if name in self.known and not _is_choice(name, wanted):
                    return self.call(name, [], [], path)
                return BareWord(name)
            case ast.Attribute():
                return BareWord(self.dotted(node))
            case ast.Tuple(elts=items) | ast.List(elts=items):
                of = _item_annotation(wanted)
                return tuple(self.value(item, of, join(path, str(index))) for index, item in enumerate(items))
            case ast.Dict(keys=keys, values=items) if None not in keys:
                names = [self.value(key) for key in keys if key is not None]
                if not all(isinstance(name, (str, int)) for name in names) or len(set(names)) < len(names):
                    raise InvalidLiteral("a mapping needs different names")
                plain = [str(name) if isinstance(name, BareWord) else name for name in names]
                return {name: self.value(item, Any, join(path, str(name))) for name, item in zip(plain, items)}
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return self.signed(sign, self.value(operand))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                return self.arithmetic(_ARITHMETIC[type(operator)], self.value(left), self.value(right))
            case ast.Call(func=ast.Name(id=name), args=positional, keywords=named):
                return self.call(name, positional, named, path)
        raise InvalidLiteral("only numbers, text, lists and known names with settings in brackets can be given")

    def dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}"
        if isinstance(node, ast.Name):
            return node.id
        raise InvalidLiteral("a dot stands between names only")

    def signed(self, sign: ast.unaryop, operand: Any) -> Any:
        if isinstance(operand, BareWord) and operand.lower() == "inf":
            return BareWord("-inf" if isinstance(sign, ast.USub) else "inf")
        return -_number(operand) if isinstance(sign, ast.USub) else _number(operand)

    def arithmetic(self, operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        try:
            return operation(_number(left), _number(right))
        except (ZeroDivisionError, OverflowError) as error:
            raise InvalidLiteral(str(error)) from error

    def call(self, name: str, positional: list[ast.expr], named: list[ast.keyword], path: str) -> Any:
        """An instance of a known dataclass from its settings in brackets."""
        if name not in self.known:
            raise InvalidLiteral(f"there is no '{name}'.{did_you_mean(name, self.known)}".rstrip("."))
        kind = self.known[name]
        if not is_dataclass(kind):
            raise TypeError(f"{kind!r} is no dataclass")
        known = settable(kind)
        order = [field.name for field in known.values() if not field.kw_only]
        if len(positional) > len(order):
            raise ConfigError(f"{name} takes {len(order)} settings without a name, not {len(positional)}.")
        nodes = dict(zip(order, positional))
        for keyword in named:
            if keyword.arg is None:
                raise InvalidLiteral("** cannot be given")
            if keyword.arg not in known:
                raise ConfigError(
                    f"{name} has no setting '{keyword.arg}'.{did_you_mean(keyword.arg, known)}",
                    f"Settings of {name}: {', '.join(known) or 'none'}.",
                )
            if keyword.arg in nodes:
                raise ConfigError(f"'{join(path, keyword.arg)}' is set twice.")
            nodes[keyword.arg] = keyword.value
        given = {}
        for field, node in nodes.items():
            here, wanted = join(path, field), annotation(kind, field)
            given[field] = fitted(_one_text(self.value(node, wanted, here), wanted), wanted, here)
        return build(kind, given, path)


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidLiteral("signs and + - * / stand between numbers only")
    return value


def _is_choice(name: str, wanted: Any) -> bool:
    """Whether an annotation offers this very word as a Literal."""
    if typing.get_origin(wanted) is typing.Literal:
        return name in typing.get_args(wanted)
    is_union = typing.get_origin(wanted) in (typing.Union, python_types.UnionType)
    return is_union and any(_is_choice(name, part) for part in typing.get_args(wanted))


def build(kind: type, given: Mapping[str, Any], path: str) -> Any:
    """`kind(**given)`. Raises ConfigError for required settings that are missing and for what the object refuses."""
    missing = [
        name
        for name, field in settable(kind).items()
        if name not in given and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        where = f"'{path}': " if path else ""
        listed = ", ".join(f"'{name}' ({describe(annotation(kind, name))})" for name in missing)
        raise ConfigError(f"{where}{kind.__name__} needs {listed}.")
    return construct(lambda: kind(**given), given, path)


def to_text(value: Any) -> str:
    """A value as `override` reads it: objects by name with the settings that are not their default."""
    if is_value(value):
        given = []
        for name, field in settable(type(value)).items():
            item = getattr(value, name)
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if not same(item, default):
                given.append(f"{name}={to_text(item)}")
        return f"{type(value).__name__}({', '.join(given)})"
    if isinstance(value, (tuple, list)):
        items = ", ".join(map(to_text, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {to_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return next((text for text, number in INFINITIES.items() if number == value), "nan")
    return repr(value)

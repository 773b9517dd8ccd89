"""A fast parser for simple command lines, with the same results as cyclopts, which parses all others.

The import of cyclopts and Rich takes a third of the time of `onelook detect` with an exported file. Simple command
lines have values of simple types and flags, each given once and correctly; no help, errors, lists and unusual
spellings.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,15}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


class _NeedsCyclopts(Exception):
    """The command line needs cyclopts."""


def parse(function: Callable[..., Any], arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]] | None:
    """Returns positional and keyword arguments for `function`; None where cyclopts is needed.

    arguments: the command line behind the verb.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    options = {f"--{one.name.replace('_', '-')}": one for one in parameters if one.kind is one.KEYWORD_ONLY}
    positional: list[str] = []
    keywords: dict[str, Any] = {}
    waiting = iter(arguments)
    try:
        for argument in waiting:
            if not argument.startswith("-"):
                positional.append(argument)
                continue
            option, has_value, value = argument.partition("=")
            if option not in options or options[option].name in keywords:
                return None
            name = options[option].name
            if hints[name] is bool:
                if has_value:
                    return None
                keywords[name] = True
            else:
                keywords[name] = _converted(value if has_value else next(waiting, ""), hints[name])
        values = _placed(positional, parameters, hints)
    except _NeedsCyclopts:
        return None
    needed = {one.name for one in options.values() if one.default is one.empty}
    return (values, keywords) if needed <= keywords.keys() else None


def integer_options(function: Callable[..., Any]) -> frozenset[str]:
    """The options of a verb's function that take a whole number and no fraction."""
    hints = get_type_hints(function)
    kinds = {name: get_args(kind) or (kind,) for name, kind in hints.items()}
    return frozenset(f"--{name.replace('_', '-')}" for name, kind in kinds.items() if int in kind and float not in kind)


def _placed(texts: Sequence[str], parameters: Sequence[inspect.Parameter], hints: dict[str, Any]) -> list[Any]:
    """Converts the positional arguments, in order."""
    values: list[Any] = []
    rest = list(texts)
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise _NeedsCyclopts
        if parameter.kind is parameter.VAR_POSITIONAL:
            values += [_converted(text, hints[parameter.name]) for text in rest]
            rest = []
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            if rest:
                values.append(_converted(rest.pop(0), hints[parameter.name]))
            elif parameter.default is parameter.empty:
                raise _NeedsCyclopts
    if rest:
        raise _NeedsCyclopts
    return values


def _converted(text: str, kind: Any) -> Any:
    """Converts a text to a value of a simple type."""
    if not text or text.startswith("-"):
        raise _NeedsCyclopts
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [one for one in get_args(kind) if one is not type(None)]
        if len(kinds) != 1 or text.lower() in ("none", "null"):
            raise _NeedsCyclopts
        kind = kinds[0]
    if kind is str:
        return text
    if kind is Path:
        return Path(text)
    if kind is int and _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    if kind is float and _NUMBER.fullmatch(text):
        return float(text)
    if get_origin(kind) is Literal and text in get_args(kind):
        return text
    raise _NeedsCyclopts

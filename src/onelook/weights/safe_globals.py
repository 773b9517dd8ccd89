"""Replaces the classes that a torch checkpoint names by inert objects; the classes are never imported.

Whatever is returned to the unpickler must hold three promises, which the check before it (`unpickle`) relies on: a call
takes no more time than its arguments were long; no result is a tuple or an integer; and a state that a pickle sets
(`__setstate__`) changes nothing but a `Placeholder`, so that no file can alter this module for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from onelook.weights.problems import REMEDY_UNTRUSTED, UnreadableFile, printable

_MOST_CLASSES = 1_000  # the official networks have fewer than 50
_MOST_PAIRS = 200_000  # of all dictionaries that are written as lists of pairs


class Unchangeable:
    """An object whose state no pickle can set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise UnreadableFile(f"its pickle sets the state of a {type(self).__name__}, which has none", REMEDY_UNTRUSTED)


class Placeholder:
    """An inert object of a class that was not imported.

    kind: the name of the class.  arguments: what it was made with.  state: its attributes, where they came as a
    dictionary. What was appended to it or set in it, if the class derives from list or dict, is dropped.
    """

    __slots__ = ("arguments", "state")
    kind: ClassVar[str] = ""
    arguments: tuple[Any, ...]
    state: dict[Any, Any]

    def __new__(cls, *arguments: Any) -> Placeholder:
        self = object.__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __setstate__(self, state: Any) -> None:
        own = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        self.state = own if isinstance(own, dict) else {}

    def _drop(self, *values: Any) -> None:
        """Ignores values."""

    append = extend = add = __setitem__ = _drop


class AttributedDict(dict[Any, Any]):
    """An OrderedDict; attributes that were attached to it (`_metadata` of a state dict) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Function(Unchangeable):
    """A safe replacement of a function that a pickle calls; without `make`, it may be named but not called."""

    __slots__ = ("_make", "name")

    def __init__(self, name: str, make: Callable[..., Any] | None = None) -> None:
        self.name = name
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        if self._make is None:
            raise UnreadableFile(f"its pickle calls {printable(self.name)}, which is not allowed", REMEDY_UNTRUSTED)
        return self._make(*arguments)


class SafeGlobals:
    """The allow-list of one file: called with a dotted name, it returns the inert object or raises UnreadableFile.

    functions: what may be called beside containers.  named: what may be named, but not called.  packages: prefixes of
    modules whose classes become `Placeholder`s.
    """

    def __init__(
        self,
        functions: dict[str, Callable[..., Any]] | None = None,
        named: Sequence[str] = (),
        packages: Sequence[str] = (),
    ) -> None:
        self._pairs = 0
        self._classes: dict[str, type[Placeholder]] = {}
        self._packages = tuple(packages)
        calls: dict[str, Callable[..., Any] | None] = dict.fromkeys((*_ONLY_NAMED, *named))
        calls |= {
            "collections.OrderedDict": self._ordered_dict,
            "collections.defaultdict": lambda factory=None: AttributedDict(),
            **(functions or {}),
        }
        self._functions = {name: Function(name, make) for name, make in calls.items()}

    def __call__(self, name: str) -> Function | type[Placeholder]:
        if name in self._functions:
            return self._functions[name]
        if name not in self._classes:
            if name not in _INERT and not f"{name.rpartition('.')[0]}.".startswith(self._packages):
                raise UnreadableFile(f"it asks for '{printable(name)}', which is not data", REMEDY_UNTRUSTED)
            if len(self._classes) >= _MOST_CLASSES:
                raise UnreadableFile(f"it names more than {_MOST_CLASSES} classes, far more than a network has")
            self._classes[name] = type("Placeholder", (Placeholder,), {"__slots__": (), "kind": name})
        return self._classes[name]

    def _ordered_dict(self, pairs: Any = ()) -> AttributedDict:
        """Without pairs, as Python 3 writes it; Python 2 wrote a list of them, and a pickle may use one list often."""
        if not isinstance(pairs, list | tuple):
            raise UnreadableFile("it holds a damaged dictionary")
        self._pairs += len(pairs)
        if self._pairs > _MOST_PAIRS:
            raise UnreadableFile(f"its dictionaries have more than {_MOST_PAIRS} entries, far more than a checkpoint")
        values = AttributedDict()
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UnreadableFile("it holds a damaged dictionary")
            values[pair[0]] = pair[1]
        return values


_BUILTINS = ("builtins", "__builtin__")
_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_ONLY_NAMED = (
    "numpy.ndarray",
    *(f"{module}.{name}" for module in _BUILTINS for name in ("int", "float", "bool", "str", "list", "dict")),
    *(f"torch.{name}" for name in _TYPES),
)
# Checkpoints hold such values beside weights (the best score, a seed, a device); none of them is looked at.
_INERT = frozenset(
    (
        "_codecs.encode",
        "numpy.dtype",
        "torch.Size",
        "torch.device",
        *(f"{module}.{name}" for module in _BUILTINS for name in ("set", "frozenset", "bytearray", "complex")),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    )
)

"""A pickle reader that executes nothing: plain data, and the stand-ins that the caller lists.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the program names;
this one has no import at all. A named global is looked up in a table of stand-ins (`Global`) and is otherwise refused
by name; only stand-ins can be called, and only objects that say so (`Stateful`) take a state. Classes of a known
repository become inert `Placeholder`s when the caller asks for them by module prefix.

Steps are counted, and whatever copies data pays for it, so that time and memory stay proportional to the file.
Opcodes that the binary protocols (2 to 5) do not write are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.weights.problems import UnreadableFile, shown

_MOST_STEPS = 2_000_000  # the largest official training checkpoints take fewer than 200,000
_DEEPEST = 1_000  # open marks; real files nest fewer than 50
_LONGEST_NAME = 512
_LONGEST_INTEGER = 1_024  # bytes
_LARGEST_KEY = 1 << 48  # beyond the hash modulus, integers can be chosen to collide
_REMEDY = (
    "Nothing of it was executed. If you trust the file, open it where it was made and save only its state dict: "
    "torch.save(model.state_dict(), 'weights.pth')."
)


@dataclass(frozen=True, eq=False)
class Global:
    """A stand-in for something a pickle names. `make` builds a value from arguments; None: may be named, not called."""

    name: str
    make: Callable[..., Any] | None = None


class Stateful:
    """A value that takes the state which a pickle attaches to it."""

    def set_state(self, state: Any) -> None:
        """Receives the state, once or several times; raises UnreadableFile for one it cannot hold."""
        raise NotImplementedError


class Placeholder(Stateful):
    """An inert object of a class that was not imported: its name, the arguments it was made with, and its state.

    `state` holds the attributes where they came as a dictionary (or a pair of them), else `other` is what came.
    `items` and `entries` hold what was appended to or set in it, for classes that derive from list or dict.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: dict[str, Any] = {}
        self.other: Any = None
        self.items: list[Any] = []
        self.entries: dict[Any, Any] = {}

    def set_state(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            self.other = state
            return
        for part in parts:
            self.state.update(part or {})


class AttributedDict(dict[Any, Any], Stateful):
    """An OrderedDict; attributes that were attached to it (`_metadata` of a state dict) are dropped."""

    def set_state(self, state: Any) -> None:
        pass


class Unpickler:
    """Reads one pickle from `data`, starting at `position`; afterwards `position` is behind its end.

    stand_ins: by dotted name, what globals mean.  records: module prefixes whose classes become `Placeholder`s.
    persistent: what a persistent id means; without it, such ids are refused.
    Raises UnreadableFile.
    """

    def __init__(
        self,
        data: memoryview,
        stand_ins: Mapping[str, Global],
        *,
        records: Sequence[str] = (),
        persistent: Callable[[Any], Any] | None = None,
        position: int = 0,
    ) -> None:
        self.position = position
        self._data = data
        self._stand_ins = stand_ins
        self._records = tuple(records)
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0

    def load(self) -> Any:
        """The value that the pickle describes."""
        operations = _OPERATIONS
        try:
            while True:
                code = self._take(1)[0]
                self._pay(1)
                if code == _STOP:
                    return self._pop()
                operation = operations.get(code)
                if operation is None:
                    raise UnreadableFile(_unknown(code), _REMEDY)
                operation(self)
        except (LookupError, TypeError, ValueError, AttributeError, struct.error, OverflowError) as error:
            raise UnreadableFile(f"its pickle is damaged near byte {self.position}") from error
        finally:
            self._memo, self._stack, self._marks = {}, [], []

    # Bytes and budget

    def _take(self, count: int) -> memoryview:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise UnreadableFile("its pickle ends in the middle")
        part = self._data[self.position : end]
        self.position = end
        return part

    def _number(self, layout: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = bytes(self._data[self.position : self.position + _LONGEST_NAME]).find(b"\n")
        if end < 0:
            raise UnreadableFile("its pickle names something without end")
        text = str(self._take(end), "utf-8")
        self._take(1)
        return text

    def _pay(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise UnreadableFile(f"its pickle needs more than {_MOST_STEPS} steps, far more than any checkpoint")

    def _pay_for(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, str | bytes | bytearray):
                self._pay(len(value) >> 6)
            elif isinstance(value, list | tuple | dict | set | frozenset):
                self._pay(len(value))

    # Stack

    def _pop(self) -> Any:
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        if len(self._marks) >= _DEEPEST:
            raise UnreadableFile(f"its pickle is nested deeper than {_DEEPEST} levels")
        self._marks.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    # Containers

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Placeholder):
            target = target.items
        if not isinstance(target, list):
            raise UnreadableFile("its pickle appends to something that is not a list", _REMEDY)
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Placeholder):
            target = target.entries
        if not isinstance(target, dict) or len(items) % 2:
            raise UnreadableFile("its pickle sets entries of something that is not a dictionary", _REMEDY)
        for name, value in zip(items[::2], items[1::2]):
            target[key(name)] = value

    def _dictionary(self) -> None:
        items = self._to_mark()
        self._push({})
        self._set_items(items)

    def _empty_set(self) -> None:
        self._pay(4)  # a set takes as much memory as several lists
        self._push(set())

    def _add_items(self) -> None:
        items = self._to_mark()
        if not isinstance(self._stack[-1], set):
            raise UnreadableFile("its pickle adds to something that is not a set", _REMEDY)
        self._stack[-1].update(map(key, items))

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise UnreadableFile("its pickle takes more values than there are")
        values = tuple(self._stack[-count:])
        self._stack[-count:] = [values]

    # Memo

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._push(self._memo[index])

    # Globals and calls: the only doors to anything but plain data

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 2 * _LONGEST_NAME:
            raise UnreadableFile("its pickle names a global that is not text", _REMEDY)
        full = f"{module}.{name}"
        known = self._stand_ins.get(full)
        if known is None:
            if not (module + ".").startswith(self._records or ("\n",)):
                raise UnreadableFile(f"it asks for '{shown(full)}', which is not data", _REMEDY)
            known = Global(full, lambda *arguments: self._record(full, arguments))
        self._push(known)

    def _record(self, name: str, arguments: tuple[Any, ...]) -> Placeholder:
        self._pay(8)
        return Placeholder(name, arguments)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Global) or function.make is None:
            what = shown(function.name) if isinstance(function, Global) else f"a {type(function).__name__}"
            raise UnreadableFile(f"its pickle calls {what}, which is not allowed", _REMEDY)
        if not isinstance(arguments, tuple):
            raise UnreadableFile("its pickle calls with something that is not a tuple", _REMEDY)
        self._pay_for(*arguments)
        try:
            self._push(function.make(*arguments))
        except TypeError as error:
            raise UnreadableFile(f"its pickle calls {shown(function.name)} with arguments it does not take") from error

    def _call_with_keywords(self) -> None:
        keywords = self._pop()
        if not isinstance(keywords, dict) or keywords:
            raise UnreadableFile("its pickle calls with keywords, which is not allowed", _REMEDY)
        self._call()

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, Stateful):
            raise UnreadableFile(f"its pickle sets the state of a {type(target).__name__}, which has none", _REMEDY)
        self._pay_for(state, *(state if isinstance(state, tuple) else ()))
        target.set_state(state)

    def _persistent_id(self) -> None:
        if self._persistent is None:
            raise UnreadableFile("its pickle refers to data outside of it", _REMEDY)
        self._push(self._persistent(self._pop()))

    # Scalars

    def _text(self, layout: str) -> None:
        self._push(str(self._take(self._number(layout)), "utf-8", "surrogatepass"))

    def _bytes(self, layout: str) -> None:
        self._push(bytes(self._take(self._number(layout))))

    def _old_text(self, layout: str) -> None:
        self._push(str(self._take(self._number(layout)), "latin1"))

    def _long(self, layout: str) -> None:
        count = self._number(layout)
        if not 0 <= count <= _LONGEST_INTEGER:
            raise UnreadableFile(f"its pickle holds a number of {count} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _protocol(self) -> None:
        if (version := self._number("<B")) > 5:
            raise UnreadableFile(f"its pickle has protocol {version}; protocols 2 to 5 are known")

    def _bytearray(self) -> None:
        self._push(bytearray(self._take(self._number("<Q"))))


_LEAVES = (str, bytes, bool, float, type(None), np.number, np.bool_, Global, Placeholder)


def key(value: Any) -> Any:
    """`value` itself, if it may be a key: hashing nested or chosen values can be made to take for ever."""
    if isinstance(value, _LEAVES):
        return value
    if isinstance(value, int) and abs(value) < _LARGEST_KEY:
        return value
    if isinstance(value, tuple) and len(value) <= 8 and not any(isinstance(part, tuple) for part in value):
        return tuple(map(key, value))
    raise UnreadableFile(f"its pickle uses a {type(value).__name__} as a key, which is not supported", _REMEDY)


def _unknown(code: int) -> str:
    return f"its pickle has the instruction {shown(chr(code))!r} (0x{code:02x}), which checkpoints do not use"


_STOP = ord(".")
_OPERATIONS: dict[int, Callable[[Unpickler], Any]] = {
    0x80: lambda p: p._protocol(),
    0x95: lambda p: p._take(8),  # a frame: its length is only a hint for buffering
    ord("("): lambda p: p._mark(),
    ord("0"): lambda p: p._pop(),
    ord("1"): lambda p: p._to_mark(),
    ord("2"): lambda p: p._push(p._stack[-1]),
    ord("N"): lambda p: p._push(None),
    0x88: lambda p: p._push(True),
    0x89: lambda p: p._push(False),
    ord("K"): lambda p: p._push(p._number("<B")),
    ord("M"): lambda p: p._push(p._number("<H")),
    ord("J"): lambda p: p._push(p._number("<i")),
    0x8A: lambda p: p._long("<B"),
    0x8B: lambda p: p._long("<i"),
    ord("G"): lambda p: p._push(p._number(">d")),
    ord("X"): lambda p: p._text("<I"),
    0x8C: lambda p: p._text("<B"),
    0x8D: lambda p: p._text("<Q"),
    ord("T"): lambda p: p._old_text("<i"),
    ord("U"): lambda p: p._old_text("<B"),
    ord("B"): lambda p: p._bytes("<I"),
    ord("C"): lambda p: p._bytes("<B"),
    0x8E: lambda p: p._bytes("<Q"),
    0x96: lambda p: p._bytearray(),
    ord("]"): lambda p: p._push([]),
    ord("}"): lambda p: p._push({}),
    ord(")"): lambda p: p._push(()),
    0x8F: lambda p: p._empty_set(),
    ord("l"): lambda p: p._push(p._to_mark()),
    ord("t"): lambda p: p._push(tuple(p._to_mark())),
    0x85: lambda p: p._tuple(1),
    0x86: lambda p: p._tuple(2),
    0x87: lambda p: p._tuple(3),
    0x91: lambda p: p._push(frozenset(map(key, p._to_mark()))),
    ord("a"): lambda p: p._append([p._pop()]),
    ord("e"): lambda p: p._append(p._to_mark()),
    ord("d"): lambda p: p._dictionary(),
    ord("s"): lambda p: p._set_items([p._pop(), p._pop()][::-1]),
    ord("u"): lambda p: p._set_items(p._to_mark()),
    0x90: lambda p: p._add_items(),
    ord("q"): lambda p: p._remember(p._number("<B")),
    ord("r"): lambda p: p._remember(p._number("<I")),
    0x94: lambda p: p._remember(len(p._memo)),
    ord("h"): lambda p: p._recall(p._number("<B")),
    ord("j"): lambda p: p._recall(p._number("<I")),
    ord("c"): lambda p: p._global(p._line(), p._line()),
    0x93: lambda p: p._stack_global(),
    ord("R"): lambda p: p._call(),
    0x81: lambda p: p._call(),
    0x92: lambda p: p._call_with_keywords(),
    ord("b"): lambda p: p._build(),
    ord("Q"): lambda p: p._persistent_id(),
}

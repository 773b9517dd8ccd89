"""Pickles, read by Python's own unpickler with an allow-list in place of imports, after a check of every instruction.

A pickle is a program. `pickle.Unpickler` imports only through `find_class`, which here returns inert objects
(`safe_globals`) or refuses, so that nothing of a file is executed. It bounds neither memory nor time: an index of its
memo makes it allocate 32 GB, and a tuple that holds itself twice, sixty times over, takes for ever to hash as a key.
`_Check` therefore follows the program first, without making its values. `torch.load(weights_only=True)` has no such
bounds either, and refuses networks of classes that are not installed, as YOLOv7's files hold.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from onelook.weights.problems import REMEDY_UNTRUSTED, UnreadableFile, printable

LARGEST_PICKLE = 32_000_000  # bytes of structure, without tensors
_MOST_STEPS = 2_000_000  # the largest official training checkpoints take fewer than 400,000
_DEEPEST = 1_000  # open marks; real files nest fewer than 50
_LONGEST_NAME = 1_024
_LONGEST_INTEGER = 8 * 1_024  # bits
_LARGEST_KEY = 1 << 48  # beyond the hash modulus, integers can be chosen to collide
_SPARE = 255  # how far memo indices may run ahead of the number of memorised values
_UNSET = 255
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, EOFError, OverflowError, Warning)

# What the check remembers of a value: whether it may be a key of a dictionary or an element of a set.
_PLAIN, _FLAT_TUPLE, _NO_KEY = 0, 1, 2  # anything but a tuple or a huge integer; a short tuple of plain values; neither


def read_pickle(
    data: memoryview,
    find: Callable[[str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    position: int = 0,
    limit: int = LARGEST_PICKLE,
) -> tuple[Any, int]:
    """The value of the pickle that begins at `position`, and where it ends.

    find: the inert object of a dotted name; it raises UnreadableFile for a name that is not allowed.  persistent: the
    value of a persistent id; without it, such ids are refused.  limit: the most bytes of the pickle.
    Raises UnreadableFile.
    """
    raw = bytes(data[position : position + limit])
    end = _Check(raw).run_to_end()
    try:
        value = _Unpickler(raw[:end], find, persistent).load()
    except (*_DAMAGE, pickle.UnpicklingError) as error:
        raise UnreadableFile(f"its pickle is damaged: {printable(error)}", REMEDY_UNTRUSTED) from error
    return value, position + end


class _Unpickler(pickle.Unpickler):
    def __init__(self, raw: bytes, find: Callable[[str], Any], persistent: Callable[[Any], Any] | None) -> None:
        # A buffered reader has `peek`, without which the unpickler reads byte by byte.
        super().__init__(io.BufferedReader(io.BytesIO(raw)), encoding="latin1")
        self._find = find
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        return self._find(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> Any:
        if self._persistent is None:
            raise UnreadableFile("its pickle refers to data outside of it", REMEDY_UNTRUSTED)
        return self._persistent(identity)


class _Check:
    """Follows the instructions of a pickle with a stack of kinds, where the unpickler has values."""

    def __init__(self, raw: bytes) -> None:
        self._size = len(raw)
        self._stream = io.BytesIO(raw)
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo = bytearray()
        self._memorised = 0

    def run_to_end(self) -> int:
        """The end of the pickle. Raises UnreadableFile for what would take more memory or time than the file has."""
        steps, instructions, stream = 0, _INSTRUCTIONS, self._stream
        try:
            while (code := stream.read(1)) != b".":
                if code not in instructions:
                    raise UnreadableFile(_unknown(code), REMEDY_UNTRUSTED)
                cost, read, execute = instructions[code]
                steps += cost
                if steps > _MOST_STEPS:
                    raise UnreadableFile(f"its pickle needs more than {_MOST_STEPS} steps, far more than a checkpoint")
                execute(self, None if read is None else read(stream))
        except (*_DAMAGE, struct.error) as error:
            raise UnreadableFile(f"its pickle is damaged near byte {stream.tell()}") from error
        return stream.tell()

    def push(self, argument: Any = None, kind: int = _PLAIN) -> None:
        self._stack.append(kind)

    def take(self, count: int) -> list[int]:
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def call(self, argument: Any, count: int) -> None:
        """Replaces `count` values by the result of a call, which is neither a tuple nor an integer (`safe_globals`)."""
        self.take(count)
        self.push()

    def integer(self, value: int) -> None:
        if value.bit_length() > _LONGEST_INTEGER:
            raise UnreadableFile(f"its pickle holds a number of {value.bit_length()} bits")
        self.push(kind=_PLAIN if abs(value) < _LARGEST_KEY else _NO_KEY)

    def make_tuple(self, argument: Any, count: int = 0) -> None:
        values = (self.take(count) if count else []) if count >= 0 else self.to_mark()
        self.push(kind=_NO_KEY if len(values) > 8 or any(values) else _FLAT_TUPLE)

    def name(self, argument: str) -> None:
        if len(argument) > _LONGEST_NAME:
            raise UnreadableFile("its pickle names something of endless length", REMEDY_UNTRUSTED)
        self.push()

    def frame(self, length: int) -> None:
        if length > self._size - self._stream.tell():
            raise UnreadableFile("its pickle ends in the middle")

    # Marks

    def mark(self, argument: Any) -> None:
        if len(self._marks) >= _DEEPEST:
            raise UnreadableFile(f"its pickle is nested deeper than {_DEEPEST} levels")
        self._marks.append(len(self._stack))

    def to_mark(self, argument: Any = None) -> list[int]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def pop(self, argument: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    # Containers

    def collect(self, argument: Any, step: int) -> None:
        """Makes a container of the values behind the mark; step: which of them are keys, 0 for none."""
        self.insert(argument, step)
        self.push()

    def insert(self, argument: Any, step: int) -> None:
        values = self.to_mark()
        if step:
            self.keys(values[::step])

    def item(self, argument: Any) -> None:
        self.keys(self.take(2)[:1])

    def keys(self, kinds: list[int]) -> None:
        if _NO_KEY in kinds:
            raise UnreadableFile("its pickle uses a nested tuple or a huge number as a key", REMEDY_UNTRUSTED)

    # Memo

    def put(self, index: int) -> None:
        if index > self._memorised + _SPARE:
            raise UnreadableFile(f"its pickle numbers a value {index} without as many values")
        if index >= len(self._memo):
            self._memo.extend([_UNSET] * (index + 1 - len(self._memo)))
        self._memorised += self._memo[index] == _UNSET
        self._memo[index] = self._stack[-1]

    def memoize(self, argument: Any) -> None:
        self.put(self._memorised)

    def get(self, index: int) -> None:
        if index >= len(self._memo) or self._memo[index] == _UNSET:
            raise UnreadableFile(f"its pickle uses a value {index} that it does not have")
        self.push(kind=self._memo[index])


def _unknown(code: bytes) -> str:
    if not code:
        return "its pickle ends in the middle"
    return f"its pickle has the instruction {printable(code.decode('latin1'))!r} (0x{code[0]:02x}), which is not read"


_Follow = Callable[[_Check, Any], Any]
_SCALARS = "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING"
_VALUES = "SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST EMPTY_DICT EMPTY_SET"
# Only what the protocols 2 to 5 write; nothing else is read, let alone given to the unpickler.
_FOLLOW: dict[str, _Follow] = {
    **dict.fromkeys(f"{_SCALARS} {_VALUES}".split(), _Check.push),
    "PROTO": lambda check, argument: None,
    "FRAME": _Check.frame,
    "LONG1": _Check.integer,
    "LONG4": _Check.integer,
    "MARK": _Check.mark,
    "POP": _Check.pop,
    "POP_MARK": _Check.to_mark,
    "DUP": lambda check, argument: check.push(kind=check._stack[-1]),
    "EMPTY_TUPLE": _Check.make_tuple,
    "TUPLE1": partial(_Check.make_tuple, count=1),
    "TUPLE2": partial(_Check.make_tuple, count=2),
    "TUPLE3": partial(_Check.make_tuple, count=3),
    "TUPLE": partial(_Check.make_tuple, count=-1),
    "LIST": partial(_Check.collect, step=0),
    "DICT": partial(_Check.collect, step=2),
    "FROZENSET": partial(_Check.collect, step=1),
    "APPEND": lambda check, argument: check.take(1),
    "APPENDS": partial(_Check.insert, step=0),
    "SETITEM": _Check.item,
    "SETITEMS": partial(_Check.insert, step=2),
    "ADDITEMS": partial(_Check.insert, step=1),
    "BINPUT": _Check.put,
    "LONG_BINPUT": _Check.put,
    "MEMOIZE": _Check.memoize,
    "BINGET": _Check.get,
    "LONG_BINGET": _Check.get,
    "GLOBAL": _Check.name,
    "STACK_GLOBAL": partial(_Check.call, count=2),
    "REDUCE": partial(_Check.call, count=2),
    "NEWOBJ": partial(_Check.call, count=2),
    "NEWOBJ_EX": partial(_Check.call, count=3),
    "BUILD": lambda check, argument: check.take(1),
    "BINPERSID": partial(_Check.call, count=1),
}
_COSTS = {"EMPTY_SET": 4, "REDUCE": 8, "NEWOBJ": 8, "NEWOBJ_EX": 8}  # steps, by the memory that they take
_INSTRUCTIONS: dict[bytes, tuple[int, Callable[[Any], Any] | None, _Follow]] = {
    one.code.encode("latin1"): (
        _COSTS.get(one.name, 1),
        None if one.arg is None else one.arg.reader,
        _FOLLOW[one.name],
    )
    for one in pickletools.opcodes
    if one.name in _FOLLOW
}

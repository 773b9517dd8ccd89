"""The wire format of protocol buffers: fields of one message, as views of the file, every length checked.

https://protobuf.dev/programming-guides/encoding/ is all that is needed; there is no schema here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onelook.weights.problems import UnreadableFile

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_CUT_OFF = "it is cut off, or no protocol buffer"


@dataclass
class Budget:
    """How many fields may still be read: a file can consist of nothing but tiny ones."""

    fields: int

    def pay(self) -> None:
        self.fields -= 1
        if self.fields < 0:
            raise UnreadableFile("it has far more parts than any model")


def fields(data: memoryview, budget: Budget) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of every field of the message in `data`; LENGTH values are views. Raises UnreadableFile."""
    position, end = 0, len(data)
    while position < end:
        budget.pay()
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if number == 0:
            raise UnreadableFile(_CUT_OFF)
        if kind == VARINT:
            value, position = _varint(data, position)
        elif kind in (LENGTH, FIXED64, FIXED32):
            if kind == LENGTH:
                length, position = _varint(data, position)
            else:
                length = 8 if kind == FIXED64 else 4
            if length > end - position:
                raise UnreadableFile(f"a part of it claims {length} bytes where {end - position} are left")
            value = data[position : position + length]
            position += length
        else:
            raise UnreadableFile(_CUT_OFF)
        yield number, kind, value


def varints(data: memoryview, limit: int) -> list[int]:
    """The numbers of a packed repeated field, at most `limit` of them."""
    numbers: list[int] = []
    position = 0
    while position < len(data):
        if len(numbers) == limit:
            raise UnreadableFile(f"a list in it has more than {limit} numbers")
        number, position = _varint(data, position)
        numbers.append(number)
    return numbers


def signed(number: int) -> int:
    """A varint as the int64 that it stands for."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise UnreadableFile(_CUT_OFF)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7

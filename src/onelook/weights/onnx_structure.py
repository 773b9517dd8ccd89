"""An ONNX file as its structure, small enough to be parsed, and its numbers, which stay views of the file.

The onnx package bounds no memory, as 8 MB of empty operations become 600 MB of objects, and copies numbers three times
(0.9 s and 1.5 times the memory where views take 0.3 s, for 300 MB). So the numbers are taken out before it reads a
file, and what is left is bounded. Only lengths are read here, as https://protobuf.dev/programming-guides/encoding/ has
them; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onelook.weights.problems import UnreadableFile

FLOATS, INTEGERS, RAW, DOUBLES = 4, 5, 9, 10  # fields of a tensor: float_data, int32_data, raw_data, double_data
_NUMBERS = (FLOATS, INTEGERS, RAW, DOUBLES)
_LARGEST_STRUCTURE = 2_000_000  # bytes; the official yolox_nano.onnx has 42,000
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Where the tensors of a model lie; everything else, subgraphs too, is structure as a whole.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
    "tensor": {},
}


@dataclass
class Numbers:
    """The numbers of all tensors, by what `raw_data` holds instead: the field they were in, and their bytes."""

    found: list[tuple[int, memoryview]] = field(default_factory=list)
    left: int = _LARGEST_STRUCTURE

    def of(self, raw_data: bytes) -> tuple[int, memoryview]:
        """The field and the bytes of a tensor's numbers. Raises UnreadableFile for what `split` did not write."""
        place = int.from_bytes(raw_data, "little")
        if place >= len(self.found):
            raise UnreadableFile("it is damaged: a tensor's numbers have a wrong tag")
        return self.found[place]


def split(data: memoryview) -> tuple[bytes, Numbers]:
    """The file without the numbers of its tensors, and those.

    Raises UnreadableFile for a file that is cut off or has far more structure than any model.
    """
    numbers = Numbers()
    return _without_numbers(data, "model", numbers), numbers


def _without_numbers(data: memoryview, kind: str, numbers: Numbers) -> bytes:
    position, end = 0, len(data)
    kept = bytearray()
    while position < end:
        start = position
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        length = 0
        if wire == _VARINT:
            _, position = _varint(data, position)
        elif wire == _LENGTH:
            length, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise UnreadableFile("it is damaged, or no protocol buffer")
        if position + length > end:
            raise UnreadableFile(f"a part of it claims {length} bytes where {max(end - position, 0)} are left")
        inner = _INSIDE[kind].get(number) if wire == _LENGTH else None
        if inner is not None:
            kept += _field(number, _without_numbers(data[position : position + length], inner, numbers))
        elif kind == "tensor" and wire == _LENGTH and number in _NUMBERS:
            kept += _field(RAW, len(numbers.found).to_bytes(4, "little"))
            numbers.found.append((number, data[position : position + length]))
        else:
            kept += data[start : position + length]
            numbers.left -= length
        numbers.left -= position - start
        if numbers.left < 0:
            raise UnreadableFile("it has far more parts than any model")
        position += length
    return bytes(kept)


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | _LENGTH,)) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*raw, value))


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise UnreadableFile("it is cut off, or no protocol buffer")

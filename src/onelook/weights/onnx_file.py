"""Weights out of ONNX files, read from the bytes: initialisers, the convolutions that use them, and the metadata.

No ONNX package is needed, and no operator is run. Field numbers are those of onnx.proto (ONNX IR, "TensorProto",
"NodeProto", "GraphProto", "ModelProto").
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from onelook.errors import WeightsError
from onelook.weights.file import check_shape, map_file, tensor_from
from onelook.weights.problems import UnreadableFile, shown
from onelook.weights.protobuf import LENGTH, VARINT, Budget, fields, signed, varints

_MOST_FIELDS = 1_000_000  # of the file's structure; the largest official models have 20,000
_MOST_NODES = 50_000
_LONGEST_TEXT = 4_000_000  # bytes: metadata holds JSON with class names
_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
_TYPED_FIELDS = {4: 1, 10: 11}  # field number of packed values -> the type they are for: float_data, double_data
_EXTERNAL = 1
_LONGEST_NAME = 1_024
_MOST_HALVES = 1 << 20  # of a tensor whose halves are written as a list of numbers, which Python reads one by one
_OUTSIDE = "A model file that reads other files of the machine is not to be trusted; get it from its source again."
_BESIDE = "Put all files of the model into one folder."


@dataclass(frozen=True)
class Node:
    """One operation: its kind, and the names of the values that go in and come out."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constant: Tensor | None = None


@dataclass(frozen=True)
class OnnxFile:
    """The parts of an ONNX file that say what its weights are.

    tensors: initialisers and constants by name, views of the file.  inputs: names of the graph's true inputs.
    """

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]


class _Outside:
    """Files beside the model that hold tensors of it: only files of the model's own folder, each mapped once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = Path(path).parent
        self._files: dict[str, memoryview] = {}

    def bytes_of(self, entries: dict[str, str], needed: int, what: str) -> memoryview:
        """The `needed` bytes at the place that the entries of `external_data` name. Raises UnreadableFile.

        Places are multiples of 8, as exporters write them: others would be copied, and any number may overlap.
        """
        location = entries.get("location", "")
        data = self._file(location, what)
        try:
            start, length = int(entries.get("offset", "0")[:20]), int(entries.get("length", str(needed))[:20])
        except ValueError as error:
            raise UnreadableFile(f"{what} has a damaged place in '{shown(location)}'") from error
        if start < 0 or start % 8 or length != needed or start + length > len(data):
            raise UnreadableFile(
                f"{what} claims {length} bytes at {start} of '{shown(location)}', which has {len(data)}"
            )
        return data[start : start + length]

    def _file(self, location: str, what: str) -> memoryview:
        if location in self._files:
            return self._files[location]
        parts = location.replace("\\", "/").split("/")
        place = self._folder / location
        outside = not location or ".." in parts or parts[0] == "" or ":" in location or not location.isprintable()
        if outside or len(location) > _LONGEST_NAME or not place.resolve().is_relative_to(self._folder.resolve()):
            raise UnreadableFile(f"{what} is kept in '{shown(location)}', outside the model's folder", _OUTSIDE)
        try:
            self._files[location] = map_file(place)
        except WeightsError as error:
            raise UnreadableFile(f"{what} is kept in another file: {error.message.rstrip('.')}", _BESIDE) from error
        return self._files[location]


@dataclass
class _Graph:
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def read_onnx_file(data: memoryview, path: str | os.PathLike[str]) -> OnnxFile:
    """The content of a mapped file. `path`: where it lies, for tensors kept in files beside it. Raises UnreadableFile."""
    budget = Budget(_MOST_FIELDS)
    metadata: dict[str, str] = {}
    graph: _Graph | None = None
    outside = _Outside(path)
    for number, kind, value in fields(data, budget):
        if number == 7 and kind == LENGTH:
            if graph is not None:
                raise UnreadableFile("it holds two graphs")
            graph = _graph(_message(value), outside, budget)
        elif number == 14 and kind == LENGTH:
            key, text = _entry(_message(value), budget)
            metadata[key] = text
    if graph is None or not graph.nodes:
        raise UnreadableFile("it holds no graph")
    inputs = tuple(name for name in graph.inputs if name not in graph.tensors)
    return OnnxFile(tuple(graph.nodes), graph.tensors, inputs, tuple(graph.outputs), metadata)


def _graph(data: memoryview, outside: _Outside, budget: Budget) -> _Graph:
    graph = _Graph()
    for number, kind, value in fields(data, budget):
        if kind != LENGTH:
            continue
        part = _message(value)
        if number == 1:
            node = _node(part, outside, budget)
            graph.nodes.append(node)
            if node.constant is not None and node.outputs:
                _add(graph, node.outputs[0], node.constant)
            if len(graph.nodes) > _MOST_NODES:
                raise UnreadableFile(f"it has more than {_MOST_NODES} operations")
        elif number == 5:
            name, tensor = _tensor(part, outside, budget)
            _add(graph, name, tensor)
        elif number == 11:
            graph.inputs.append(_first_text(part, budget))
        elif number == 12:
            graph.outputs.append(_first_text(part, budget))
    return graph


def _add(graph: _Graph, name: str, tensor: Tensor) -> None:
    if name in graph.tensors:
        raise UnreadableFile(f"it holds two tensors named '{shown(name)}'")
    graph.tensors[name] = tensor


def _node(data: memoryview, outside: _Outside, budget: Budget) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    operator, constant = "", None
    attributes: list[memoryview] = []
    for number, kind, value in fields(data, budget):
        if kind != LENGTH:
            continue
        part = _message(value)
        if number == 1:
            inputs.append(_text(part))
        elif number == 2:
            outputs.append(_text(part))
        elif number == 4:
            operator = _text(part)
        elif number == 5:
            attributes.append(part)
    if operator == "Constant":
        for attribute in attributes:
            constant = _constant(attribute, outside, budget)
    return Node(operator, tuple(inputs), tuple(outputs), constant)


def _constant(data: memoryview, outside: _Outside, budget: Budget) -> Tensor | None:
    """The tensor of a Constant's `value` attribute; None for its other, scalar kinds."""
    for number, kind, value in fields(data, budget):
        if number == 5 and kind == LENGTH:
            return _tensor(_message(value), outside, budget)[1]
    return None


def _tensor(data: memoryview, outside: _Outside, budget: Budget) -> tuple[str, Tensor]:
    sides: list[int] = []
    numbers: dict[int, int] = {}
    parts: dict[int, memoryview] = {}
    external: dict[str, str] = {}
    for number, kind, value in fields(data, budget):
        if number == 1 and len(sides) < 32:
            sides += [signed(side) for side in ([value] if isinstance(value, int) else varints(value, 32))]
        elif kind == VARINT and isinstance(value, int):
            numbers[number] = value
        elif kind == LENGTH and number == 13:
            key, text = _entry(_message(value), budget)
            external[key] = text
        elif kind == LENGTH:
            parts[number] = _message(value)
    name = _text(parts[8]) if 8 in parts else ""
    what = f"its tensor '{shown(name)}'"
    shape = check_shape(sides, what)
    code, location, raw = numbers.get(2, 0), numbers.get(14, 0), parts.get(9)
    typed = next(((number, parts[number]) for number in (4, 5, 7, 10, 11) if number in parts), None)
    if code not in _TYPES:
        # Kinds that are no numbers of a plain type (text, 4-bit, 8-bit floats) cannot be weights that are read here.
        return name, torch.empty(0, dtype=torch.uint8)
    dtype = _TYPES[code]
    needed = prod(shape) * dtype.itemsize
    if location == _EXTERNAL or external:
        raw = outside.bytes_of(external, needed, what)
    if raw is None and typed is not None:
        raw = _typed(typed, code, shape, what)
        if raw is None:
            return name, torch.empty(0, dtype=dtype)
    if len(raw or b"") != needed:
        raise UnreadableFile(f"{what} claims {needed} bytes and has {len(raw or b'')}")
    return name, tensor_from(raw if raw is not None else memoryview(b""), dtype, shape)


def _typed(typed: tuple[int, memoryview], code: int, shape: tuple[int, ...], what: str) -> memoryview | None:
    """The bytes of values that are stored by type: floats are packed as they are; integers are lists of varints."""
    number, part = typed
    if number in _TYPED_FIELDS:
        if _TYPED_FIELDS[number] != code:
            raise UnreadableFile(f"{what} has values of another type than it says")
        return part
    if code == 7 and number == 7:
        numbers = torch.tensor([signed(value) for value in varints(part, 4096)], dtype=torch.int64)
        return memoryview(bytearray(numbers.numpy().tobytes()))
    if code == 10 and number == 5:
        # Halves come as numbers of 16 bits, at most three bytes each.
        numbers = torch.tensor(varints(part, min(prod(shape), _MOST_HALVES)), dtype=torch.int32)
        return memoryview(bytearray(numbers.to(torch.int16).numpy().tobytes()))
    return None


def _entry(data: memoryview, budget: Budget) -> tuple[str, str]:
    texts = {number: _text(_message(value)) for number, kind, value in fields(data, budget) if kind == LENGTH}
    return texts.get(1, ""), texts.get(2, "")


def _first_text(data: memoryview, budget: Budget) -> str:
    return next((_text(_message(value)) for number, kind, value in fields(data, budget) if number == 1), "")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise UnreadableFile("a part of it has the wrong kind")
    return value


def _text(data: memoryview) -> str:
    if len(data) > _LONGEST_TEXT:
        raise UnreadableFile(f"it holds a text of {len(data)} bytes")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableFile("it holds a name that is not text") from error

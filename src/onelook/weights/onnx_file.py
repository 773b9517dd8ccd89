"""Weights out of ONNX files by the onnx package: initialisers, the operations that use them, and the metadata.

No operator is run, no shape is inferred, and no file is read but those beside the model. The package is given the
structure only (`onnx_structure`), which keeps memory and time bounded; tensors are views of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onelook.errors import WeightsError, missing_package
from onelook.weights.file import check_shape, map_file, tensor_from
from onelook.weights.onnx_structure import DOUBLES, FLOATS, INTEGERS, Numbers, split
from onelook.weights.problems import UnreadableFile, printable

_MOST_NODES = 50_000
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
_TYPE_OF_FIELD = {FLOATS: 1, DOUBLES: 11}  # the types whose values may be listed instead of stored as bytes
_INT64, _FLOAT16 = 7, 10
_LONGEST_HALVES = 3_000_000  # bytes of a tensor's halves where they are a list; reading them takes 40 times as many
_EXTERNAL = 1
_LONGEST_NAME = 1_024
_OUTSIDE = "A model file that reads other files of the machine is not to be trusted; get it from its source again."
_BESIDE = "Put all files of the model into one folder."


@dataclass(frozen=True)
class Node:
    """An operation: its kind, and the names of its inputs and outputs."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """The parts of an ONNX file that say what its weights are.

    tensors: initialisers and constants by name.  inputs: names of the graph's true inputs.
    """

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: tuple[str, ...]
    metadata: dict[str, str]


class _ExternalData:
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
            raise UnreadableFile(f"{what} has a damaged place in '{printable(location)}'") from error
        if start < 0 or start % 8 or length != needed or start + length > len(data):
            raise UnreadableFile(
                f"{what} claims {length} bytes at {start} of '{printable(location)}', which has {len(data)}"
            )
        return data[start : start + length]

    def _file(self, location: str, what: str) -> memoryview:
        if location in self._files:
            return self._files[location]
        parts = location.replace("\\", "/").split("/")
        place = self._folder / location
        outside = not location or ".." in parts or parts[0] == "" or ":" in location or not location.isprintable()
        if outside or len(location) > _LONGEST_NAME or not place.resolve().is_relative_to(self._folder.resolve()):
            raise UnreadableFile(f"{what} is kept in '{printable(location)}', outside the model's folder", _OUTSIDE)
        try:
            self._files[location] = map_file(place)
        except WeightsError as error:
            raise UnreadableFile(f"{what} is kept in another file: {error.message.rstrip('.')}", _BESIDE) from error
        return self._files[location]


def read_onnx_file(data: memoryview, path: str | os.PathLike[str]) -> OnnxFile:
    """The content of a mapped file. `path`: where it lies, for tensors kept in files beside it.

    Raises UnreadableFile, and MissingDependencyError without the `onnx` extra.
    """
    structure, numbers = split(data)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise missing_package("onnx", "Reading the weights of an ONNX file") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(structure)
        return _content(model, numbers, _ExternalData(path))
    except (DecodeError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"it is damaged: {printable(error)}") from error


def _content(model: Any, numbers: Numbers, outside: _ExternalData) -> OnnxFile:
    graph = model.graph
    if not graph.node:
        raise UnreadableFile("it holds no graph")
    if len(graph.node) > _MOST_NODES:
        raise UnreadableFile(f"it has more than {_MOST_NODES} operations")
    tensors: dict[str, Tensor] = {}
    for tensor in graph.initializer:
        _add(tensors, tensor.name, _tensor(tensor, numbers, outside))
    nodes = []
    for node in graph.node:
        nodes.append(Node(node.op_type, tuple(node.input), tuple(node.output)))
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _add(tensors, node.output[0], _tensor(attribute.t, numbers, outside))
    inputs = tuple(one.name for one in graph.input if one.name not in tensors)
    return OnnxFile(tuple(nodes), tensors, inputs, _texts(model.metadata_props))


def _add(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in tensors:
        raise UnreadableFile(f"it holds two tensors named '{printable(name)}'")
    tensors[name] = tensor


def _tensor(stored: Any, numbers: Numbers, outside: _ExternalData) -> Tensor:
    """The values of a TensorProto in its own type; an empty tensor for types that are no weights (text, 4 bits)."""
    what = f"its tensor '{printable(stored.name)}'"
    shape = check_shape(list(stored.dims), what)
    code = stored.data_type
    dtype = _TYPES.get(code)
    if dtype is None:
        return torch.empty(0, dtype=torch.uint8)
    needed = prod(shape) * dtype.itemsize
    raw = memoryview(b"")
    if stored.data_location == _EXTERNAL or stored.external_data:
        raw = outside.bytes_of(_texts(stored.external_data), needed, what)
    elif stored.HasField("raw_data"):
        field, raw = numbers.of(stored.raw_data)
        if field == INTEGERS and code != _FLOAT16:
            return torch.empty(0, dtype=dtype)  # small constants of operations
        if _TYPE_OF_FIELD.get(field, code) != code:
            raise UnreadableFile(f"{what} has values of another type than it says")
        raw = _halves(raw, what) if field == INTEGERS else raw
    elif code == _INT64:
        raw = memoryview(bytearray(torch.tensor(stored.int64_data, dtype=dtype).numpy().tobytes()))
    if len(raw) != needed:
        raise UnreadableFile(f"{what} claims {needed} bytes and has {len(raw)}")
    return tensor_from(raw, dtype, shape)


def _halves(packed: memoryview, what: str) -> memoryview:
    """The bytes of halves that are written as numbers of 16 bits, each in one to three bytes of seven bits."""
    if len(packed) > _LONGEST_HALVES:
        raise UnreadableFile(f"{what} lists its values one by one in {len(packed)} bytes")
    data = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if not len(ends) or ends[-1] != len(data) - 1 or np.max(ends - starts) > 2:
        raise UnreadableFile(f"{what} has damaged values")
    values = np.zeros(len(ends), np.uint32)
    for index in range(3):
        here = starts + index <= ends
        values[here] |= (data[starts[here] + index] & np.uint32(0x7F)) << np.uint32(7 * index)
    return memoryview(bytearray(values.astype(np.uint16).tobytes()))


def _texts(entries: Iterable[Any]) -> dict[str, str]:
    return {entry.key: entry.value for entry in entries}

"""Darknet's `.weights`: a header and the numbers of all layers in a row, without any name.

    int32 major, minor, revision    0, 2, 5 today
    seen                            images trained on: uint64 from version 0.2, uint32 before
    float32 ...                     layer by layer; with batch norm: bias, weight, mean, variance of the norm, kernel;
                                    without: bias, kernel

All little-endian. Only the network that a file was written for says what its numbers are, so a file is cut by an
architecture whose official names count layers: `conv7.weight`, `bn7.bias`, `shortcut2.weight`.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from onelook.errors import WeightsError
from onelook.networks.detector import Architecture, Detector
from onelook.weights.file import atomic_file, map_file, tensor_from
from onelook.weights.problems import UnreadableFile

LARGEST_CLASS_COUNT = 2000  # that a file may have beside the model's own; a larger one is a damaged file
_LAYER = re.compile(r"(conv|bn|shortcut)(\d+)\.(\w+)")
_COUNTER = "num_batches_tracked"
_ORDER = ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var", "conv.bias", "conv.weight", "shortcut.weight")
_BACKBONE = re.compile(r"\.conv\.\d+$")  # how Darknet names the first layers of a network, cut off another file


@dataclass(frozen=True)
class DarknetHeader:
    """The header of a file. version: major, minor, revision.  seen: images that the weights were trained on."""

    version: tuple[int, int, int] = (0, 2, 5)
    seen: int = 0

    def to_bytes(self) -> bytes:
        """16 bytes before version 0.2, else 20."""
        return struct.pack("<3i" + ("Q" if self.has_long_count else "I"), *self.version, self.seen)

    @property
    def has_long_count(self) -> bool:
        """Whether `seen` has 64 bits."""
        return 10 * self.version[0] + self.version[1] >= 2


@dataclass(frozen=True, eq=False)
class DarknetFile:
    """The content of a file: its header and its numbers, a view of the mapped file.

    backbone: whether its name says that it holds only the first layers of a network.
    """

    header: DarknetHeader
    values: Tensor
    backbone: bool = False

    def cut(self, architecture: Architecture) -> dict[str, Tensor]:
        """The numbers as tensors under the official names of `architecture`, of the file's own number of classes.

        Raises UnreadableFile where the network is none of Darknet's, and, naming the layer, where numbers are missing
        or left.
        """
        layers = layout(architecture)
        if layers is None:
            raise UnreadableFile(
                f"a Darknet file knows layers by their number only, and {type(architecture).__name__} has none",
                "Name the YOLOv4 model that it is of.",
            )
        places = self._places(layers, architecture.num_classes)
        tensors, start = {}, 0
        for name, shape in places:
            tensors[name] = self.values[start : start + prod(shape)].reshape(shape)
            start += prod(shape)
        return tensors

    def fits(self, architecture: Architecture, *, exact: bool = False) -> bool:
        """Whether the file has as many numbers as the network, for its own (`exact`) or some number of classes."""
        if exact:
            layers = layout(architecture) or ()
            return len(self.values) == sum(prod(layer.shape(architecture.num_classes)) for layer in layers)
        try:
            return bool(self.cut(architecture))
        except UnreadableFile:
            return False

    def _places(self, layers: tuple[Layer, ...], own: int) -> list[tuple[str, tuple[int, ...]]]:
        count = len(self.values)
        fixed = sum(prod(layer.shape(0)) for layer in layers)
        each = sum(prod(layer.shape(1)) for layer in layers) - fixed
        classes, rest = divmod(count - fixed, each)
        if rest == 0 and (classes == own or 0 < classes <= LARGEST_CLASS_COUNT):
            return [(layer.name, layer.shape(classes)) for layer in layers]
        found: list[tuple[str, tuple[int, ...]]] = []
        start = 0
        for layer in layers:
            if start == count and self.backbone and layer.begins:
                return found
            found.append((layer.name, layer.shape(own)))
            end = start + prod(layer.shape(own))
            if end > count:
                raise UnreadableFile(
                    f"it ends in the layer '{layer.name}', after {count - start:,} of {end - start:,} numbers"
                    f" ({count:,} in all; with {own} classes the network has {fixed + own * each:,})"
                )
            start = end
        raise UnreadableFile(
            f"it goes on behind the network's last layer '{layers[-1].name}', by {count - start:,} numbers"
            f" ({count:,} in all)"
        )


@dataclass(frozen=True)
class Layer:
    """One tensor of a file.

    name: the official one.  own: the model's.  sides: its shape; where `anchors` is not 0, the first side is
    anchors * (before + C) for C classes.  begins: whether it is the first tensor of a layer.
    """

    name: str
    own: str
    sides: tuple[int, ...]
    anchors: int = 0
    before: int = 0
    begins: bool = False

    def shape(self, classes: int) -> tuple[int, ...]:
        """The shape for that number of classes."""
        return (self.anchors * (self.before + classes), *self.sides[1:]) if self.anchors else self.sides


def layout(architecture: Architecture) -> tuple[Layer, ...] | None:
    """The tensors of a network in the order of its file; None if its official names do not count layers."""
    return _layout(cast(Any, architecture)) if getattr(architecture, "numbered", False) else None


@lru_cache(maxsize=16)
def _layout(architecture: Architecture) -> tuple[Layer, ...]:
    with torch.device("meta"):
        detector = architecture.build()
    rows = {f"head.{name}": own for name, own in detector.head.class_rows().items()}
    groups: dict[tuple[str, int], list[tuple[int, Layer]]] = {}
    state = detector.state_dict()
    for own, official in architecture.official_names().items():
        found = _LAYER.fullmatch(official)
        if found is None:
            raise TypeError(f"'{official}' does not count layers")
        kind, number, leaf = found.groups()
        if leaf == _COUNTER:
            continue
        row = rows.get(own)
        layer = Layer(official, own, tuple(state[own].shape), row.anchors if row else 0, row.before if row else 0)
        place = ("shortcut" if kind == "shortcut" else "conv", int(number))
        groups.setdefault(place, []).append((_ORDER.index(f"{kind}.{leaf}"), layer))
    layers = []
    for group in groups.values():
        for index, (_, layer) in enumerate(sorted(group, key=lambda one: one[0])):
            layers.append(Layer(layer.name, layer.own, layer.sides, layer.anchors, layer.before, begins=index == 0))
    return tuple(layers)


def is_darknet(head: bytes) -> bool:
    """Whether a file begins with a version of Darknet: 0.x, small numbers."""
    if len(head) < 20:
        return False
    major, minor, revision = struct.unpack("<3i", head[:12])
    return major == 0 and 0 < minor < 10 and 0 <= revision < 100


def read_darknet(data: memoryview, path: str) -> DarknetFile:
    """Header and numbers of a mapped file. Raises UnreadableFile if it is no whole number of numbers."""
    version = struct.unpack("<3i", data[:12])
    major, minor, revision = version
    header = DarknetHeader((major, minor, revision))
    start = len(header.to_bytes())
    header = DarknetHeader(header.version, int.from_bytes(data[12:start], "little"))
    count, rest = divmod(len(data) - start, 4)
    if rest:
        raise UnreadableFile(f"its last number has {rest} of 4 bytes")
    values = tensor_from(data[start:], torch.float32, (count,))
    return DarknetFile(header, values, _BACKBONE.search(path) is not None)


def header_of(path: str | os.PathLike[str]) -> DarknetHeader | None:
    """The header of a Darknet file; None for any other. WeightsError if it cannot be opened."""
    data = map_file(path)
    return read_darknet(data, os.fspath(path)).header if is_darknet(bytes(data[:32])) else None


def write_darknet(detector: Detector, path: str | os.PathLike[str], header: DarknetHeader | None = None) -> Path:
    """Writes a detector in training form as a Darknet file, whole or not at all; returns the path.

    A file that was read into it (in float32) is written back byte for byte, given its own header; without one, it says
    that no image was seen. WeightsError for a network that Darknet has no layers for, and for one without batch norm.
    """
    architecture = detector.architecture
    layers = None if architecture is None else layout(architecture)
    if layers is None:
        raise WeightsError(
            f"{type(architecture).__name__} cannot be written as a Darknet file: Darknet has no such network.",
            "Choose a YOLOv4 model, or write safetensors or ONNX.",
        )
    if detector.deployed:
        raise WeightsError("A deployed detector has no batch norm to write.", "Write its training form.")
    state: Mapping[str, Tensor] = detector.state_dict()
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write((header or DarknetHeader()).to_bytes())
        for layer in layers:
            file.write(state[layer.own].detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
    return Path(path)

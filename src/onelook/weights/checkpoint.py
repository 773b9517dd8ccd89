"""Reads any supported weights file: the formats, told apart by content, and their readers.

A new format is a row of `FORMATS`: a test of the file's first bytes, and a reader of the mapped file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onelook.errors import UserError, WeightsError
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.weights.convolutions import Convolution, FoldedConvolution, graph_of_file
from onelook.weights.darknet import DarknetFile, is_darknet, read_darknet
from onelook.weights.file import map_file
from onelook.weights.header import Header
from onelook.weights.modules import MODULE_PACKAGES, PickledModule, read_module
from onelook.weights.onnx_file import read_onnx_file
from onelook.weights.problems import UnreadableFile, printable
from onelook.weights.safe_globals import Placeholder
from onelook.weights.safetensors_file import read_safetensors
from onelook.weights.torch_file import STREAM_MAGIC, ZIP_MAGIC, StoredTensor, read_torch_file

_HEAD = 512  # bytes that formats are told apart by


@dataclass(frozen=True)
class ConvolutionGraph:
    """The convolutions of a file that names them as it likes: how they are linked, and their tensors."""

    links: dict[str, Convolution]
    convolutions: dict[str, FoldedConvolution]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, under the file's own names and in its dtypes: mostly views of the mapped file.

    format: for people.  header: of our own files.  folded: whether batch norm is folded into convolutions.  graph: of
    files that carry a network (ONNX), whose tensor names mean nothing.  exported: the metadata of a file that
    Onelook exported.  darknet: of Darknet's files, which an architecture cuts into tensors.  pickled: of torch's files,
    what a network that was pickled whole holds beside its tensors.
    """

    path: str
    format: str
    tensors: dict[str, Tensor]
    folded: bool
    header: Header | None = None
    graph: ConvolutionGraph | None = None
    exported: ExportedMetadata | None = None
    darknet: DarknetFile | None = None
    pickled: PickledModule | None = None


@dataclass(frozen=True)
class Format:
    """A file format: its name in messages, a test of the first bytes, and a reader (which raises UnreadableFile)."""

    name: str
    detect: Callable[[bytes], bool]
    read: Callable[[str, memoryview], Checkpoint]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The content of any supported weights file, told by content, whatever its name ends in.

    WeightsError for anything else. Nothing in a file is executed, and sizes are checked before memory is taken.
    """
    name = os.fspath(path)
    data = map_file(name)
    head = bytes(data[:_HEAD])
    for kind in FORMATS:
        if kind.detect(head):
            try:
                return kind.read(name, data)
            except UnreadableFile as error:
                raise error.to_weights_error(name, kind.name) from error
    raise WeightsError(f"'{name}' is not a weights file: it {_looks_like(head)}.", f"Readable are {_READABLE}.")


def _is_torch(head: bytes) -> bool:
    return head.startswith((ZIP_MAGIC, STREAM_MAGIC, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) or (
        head[257:262] == b"ustar"
    )


def _read_torch(path: str, data: memoryview) -> Checkpoint:
    file = read_torch_file(data, MODULE_PACKAGES)
    value = _weights_of(file.value)
    if isinstance(value, Placeholder):
        network = read_module(value)
        kind = f"torch {file.form} checkpoint of a pickled network"
    else:
        network = PickledModule(_state_dict(value))
        kind = f"torch {file.form} checkpoint"
    tensors = {name: file.tensor(tensor) for name, tensor in network.tensors.items()}
    return Checkpoint(path, kind, tensors, is_folded(tensors), pickled=network)


def _weights_of(value: Any) -> Any:
    """The weights in a checkpoint: its moving average where it has one, else its model, else all of it."""
    if isinstance(value, dict):
        average, model = value.get("ema"), value.get("model")
        if isinstance(average, Placeholder) or _is_state_dict(average):
            return average
        if isinstance(model, Placeholder | dict):
            return model
    return value


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, StoredTensor) for entry in value.values())


def _state_dict(value: Any) -> dict[str, StoredTensor]:
    """A state dict, checked; `module.` prefixes removed."""
    if not isinstance(value, dict) or not value:
        raise UnreadableFile(f"it holds {_described(value)}, no state dict", "Save model.state_dict() with torch.save.")
    for name, entry in value.items():
        if not isinstance(name, str) or not isinstance(entry, StoredTensor):
            reason = f"it holds no state dict: its entry '{printable(name)}' is {_described(entry)}"
            raise UnreadableFile(reason, "Save {'model': model.state_dict()} with torch.save.")
    if all(name.startswith("module.") for name in value):
        value = {name.removeprefix("module."): entry for name, entry in value.items()}
    return value


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "an empty dictionary" if not value else f"a dictionary of {len(value)} entries"
    return "nothing" if value is None else f"a {type(value).__name__}"


def is_folded(tensors: dict[str, Tensor]) -> bool:
    """Whether batch norm has been folded into the convolutions that these names belong to."""
    return not any(name.endswith(".running_var") for name in tensors)


def _is_onnx(head: bytes) -> bool:
    # Field 1, a number: ir_version, the first that every exporter writes; then a tag of a field of ModelProto.
    return (
        len(head) > 3 and head[0] == 0x08 and head[1] < 0x80 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
    )


_EXPORTED = "detector."  # how the tensors of `onelook export` begin: its wrapper around the network
_LOST = "It is an export of Onelook that another program rewrote: export the model again, or keep its metadata."


def _read_onnx(path: str, data: memoryview) -> Checkpoint:
    file = read_onnx_file(data, path)
    links, convolutions = graph_of_file(file)
    if not convolutions:
        raise UnreadableFile("its graph has no convolutions", "Name the file of a detector.")
    exported = None
    if METADATA_KEY in file.metadata:
        try:
            exported = ExportedMetadata.from_json(file.metadata[METADATA_KEY], path)
        except UserError as error:
            raise UnreadableFile(error.message.rstrip("."), error.remedy) from error
    elif any(name.startswith(_EXPORTED) for name in file.tensors):
        raise UnreadableFile("its description is gone, without which its colours and boxes mean nothing", _LOST)
    graph = ConvolutionGraph(links, convolutions)
    kind = "ONNX file" if exported is None else "ONNX file exported by Onelook"
    return Checkpoint(path, kind, file.tensors, True, graph=graph, exported=exported)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{"


def _read_safetensors(path: str, data: memoryview) -> Checkpoint:
    tensors, header = read_safetensors(path, data)
    kind = "safetensors file" if header is None else "Onelook safetensors file"
    return Checkpoint(path, kind, tensors, is_folded(tensors), header=header)


def _read_darknet(path: str, data: memoryview) -> Checkpoint:
    return Checkpoint(path, "Darknet file", {}, False, darknet=read_darknet(data, path))


FORMATS: tuple[Format, ...] = (
    Format("a torch checkpoint", _is_torch, _read_torch),
    Format("a safetensors file", _is_safetensors, _read_safetensors),
    Format("an ONNX file", _is_onnx, _read_onnx),
    Format("a Darknet file", is_darknet, _read_darknet),
)
_READABLE = "safetensors files, torch checkpoints (.pth, .pt), ONNX files and Darknet's .weights"
_LOOKS = (
    (b"version https://git-lfs", "is a Git LFS pointer: the file itself was not fetched"),
    (b"<!doctype", "looks like a web page: the download failed"),
    (b"<html", "looks like a web page: the download failed"),
    (b"<?xml", "is XML, and no weights"),
    (b"<", "is HTML or XML: if it was downloaded, the download failed"),
    (b"\xff\xd8\xff", "is a JPEG image"),
    (b"\x89PNG", "is a PNG image"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"PK\x05\x06", "is an empty zip file"),
    (b"\x93NUMPY", "is a NumPy array"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"{", "looks like JSON text"),
)


def _looks_like(head: bytes) -> str:
    stripped = head.lstrip().lower() if head.lstrip().startswith(b"<") else head.lstrip()
    if re.match(rb"(<\?xml[^>]*>)?\s*<net\b", stripped):
        return "is an OpenVINO model, which PyTorch cannot take weights from"
    for start, description in _LOOKS:
        if stripped.startswith(start):
            return description
    try:
        text = head.decode("utf-8", "strict") if len(head) < _HEAD else head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return "is text" if all(letter.isprintable() or letter.isspace() for letter in text) else "has an unknown format"

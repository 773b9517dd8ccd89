"""Our own format: safetensors (https://github.com/huggingface/safetensors) with a `Header` in its metadata.

The safetensors library reads and checks the file. It takes headers of up to 100 MB and the last of two tensors of one
name, so that the size and the keys of the header are checked here, before it is given the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onelook.weights.file import MOST_DIMENSIONS, atomic_file, map_file
from onelook.weights.header import HEADER_KEY, Header, parse_json
from onelook.weights.problems import UnreadableFile, printable

_LARGEST_HEADER = 8_000_000  # bytes; 2,000 tensors and 10,000 class names take less than one
_MOST_TENSORS = 50_000
_TYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
)
_DAMAGE = (SafetensorError, RuntimeError, ValueError, TypeError, OverflowError)


def read_safetensors(path: str | os.PathLike[str], data: memoryview) -> tuple[dict[str, Tensor], Header | None]:
    """The tensors of a file, as views of it, and its header if it is a file of ours. Raises UnreadableFile.

    data: the mapped file, of which only the header is read here.
    """
    _check_header(data)
    tensors = {}
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                what = f"its tensor '{printable(name)}'"
                try:
                    tensor = file.get_tensor(name)
                except AttributeError as error:  # the library asks torch for a type that an older one does not have
                    raise UnreadableFile(f"{what} has a type that this PyTorch does not have") from error
                tensors[name] = _usable(tensor, what)
    except _DAMAGE as error:
        raise UnreadableFile(f"it is damaged ({printable(error, 200)})") from error
    return tensors, _header(metadata)


def _usable(tensor: Tensor, what: str) -> Tensor:
    """The tensor, or a copy where its numbers do not lie at multiples of their size."""
    if tensor.dtype not in _TYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UnreadableFile(f"{what} has the type '{kind}', which is not supported")
    if tensor.dim() > MOST_DIMENSIONS:
        raise UnreadableFile(f"{what} has {tensor.dim()} dimensions")
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def read_header(path: str | os.PathLike[str]) -> Header:
    """The description that a weights file of ours carries; no tensor is read. WeightsError for any other file."""
    try:
        _check_header(map_file(path))
        try:
            with safe_open(os.fspath(path), framework="np") as file:
                header = _header(file.metadata() or {})
        except _DAMAGE as error:
            raise UnreadableFile(f"it is damaged ({printable(error, 200)})") from error
        if header is None:
            remedy = (
                f"Name the model: --model NAME --weights {os.fspath(path)}; in Python, load_weights(build(NAME), path)."
            )
            raise UnreadableFile("it has no description by Onelook", remedy)
    except UnreadableFile as error:
        raise error.to_weights_error(path, "a weights file of Onelook") from error
    return header


def _header(metadata: Mapping[str, str]) -> Header | None:
    return Header.from_json(metadata[HEADER_KEY]) if HEADER_KEY in metadata else None


def _check_header(data: memoryview) -> None:
    """Raises UnreadableFile for a header that is too large, or that names something twice."""
    if len(data) < 10 or data[8] != ord("{"):
        raise UnreadableFile("it does not begin like one")
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise UnreadableFile(f"its header claims {length} bytes, and the file has {len(data)}")
    if length > _LARGEST_HEADER:
        raise UnreadableFile(f"its header claims {length} bytes, far more than any model needs")
    try:
        content = parse_json(str(data[8 : 8 + length], "utf-8"))
    except UnicodeDecodeError as error:
        raise UnreadableFile("its header is damaged: it is not text") from error
    if len(content) > _MOST_TENSORS:
        raise UnreadableFile(f"it claims {len(content)} tensors")


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Header) -> Path:
    """Writes the file so that a crash at any moment leaves the previous one whole; returns the path.

    WeightsError if the place cannot be written.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_tensors(own, temporary, {HEADER_KEY: header.to_json()})
    return Path(path)


def save_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Writes tensors and texts; OSError where the disk is full or the place cannot be written, as for any other file.

    safetensors tells of both in an error of its own, with the system's number in its text.
    """
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

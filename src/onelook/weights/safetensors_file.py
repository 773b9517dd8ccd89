"""Our own format: safetensors (https://github.com/huggingface/safetensors) with a `Header` in its metadata.

A file is a length of 8 bytes, a JSON header of that length, and the tensors one after the other. It is parsed here,
because every claim of the header is compared with the file before anything is made of it, and the messages say so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from onelook.weights.file import check_shape, map_file, tensor_from, whole_file
from onelook.weights.header import HEADER_KEY, Header, parse_json
from onelook.weights.problems import UnreadableFile, shown

_LARGEST_HEADER = 8_000_000  # bytes; 2,000 tensors and 10,000 class names take less than one
_MOST_TENSORS = 50_000
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(data: memoryview) -> tuple[dict[str, Tensor], Header | None]:
    """The tensors of a mapped file, as views, and its header if it is a file of ours. Raises UnreadableFile."""
    content, header, start = _parse_header(data)
    if len(content) > _MOST_TENSORS:
        raise UnreadableFile(f"it claims {len(content)} tensors")
    body = data[start:]
    places = []
    tensors = {}
    for name, entry in content.items():
        dtype, shape, first, last = _place(name, entry, len(body))
        places.append((first, last))
        tensors[name] = tensor_from(body[first:last], dtype, shape)
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise UnreadableFile("its tensors overlap or leave gaps")
        end = last
    if end != len(body):
        raise UnreadableFile(f"it has {len(body)} bytes of tensors where its header says {end}")
    return tensors, header


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a weights file of ours says of itself; no tensor is read. WeightsError for any other file."""
    try:
        header = _parse_header(map_file(path))[1]
        if header is None:
            remedy = (
                f"Name the model: --model NAME --weights {os.fspath(path)}; in Python, load_weights(build(NAME), path)."
            )
            raise UnreadableFile("it has no description by Onelook", remedy)
    except UnreadableFile as error:
        raise error.to_weights_error(path, "a weights file of Onelook") from error
    return header


def _parse_header(data: memoryview) -> tuple[dict[str, Any], Header | None, int]:
    """The entries of all tensors, our header, and where the tensors begin."""
    if len(data) < 10 or data[8] != ord("{"):
        raise UnreadableFile("it does not begin like one")
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise UnreadableFile(f"its header claims {length} bytes, and the file has {len(data)}")
    if length > _LARGEST_HEADER:
        raise UnreadableFile(f"its header claims {length} bytes, far more than any model needs")
    try:
        text = str(data[8 : 8 + length], "utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableFile("its header is damaged: it is not text") from error
    content = parse_json(text)
    if not isinstance(content, dict):
        raise UnreadableFile("its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableFile("its metadata are not text")
    header = Header.from_json(metadata[HEADER_KEY]) if HEADER_KEY in metadata else None
    return content, header, 8 + length


def _place(name: str, entry: Any, available: int) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    what = f"its tensor '{shown(name)}'"
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise UnreadableFile(f"{what} has no proper entry in the header")
    if entry["dtype"] not in _TYPES:
        raise UnreadableFile(f"{what} has the type '{shown(entry['dtype'])}', which is not supported")
    dtype = _TYPES[entry["dtype"]]
    shape = check_shape(entry.get("shape"), what)
    place = entry.get("data_offsets")
    if not isinstance(place, list) or len(place) != 2 or not all(type(one) is int for one in place):
        raise UnreadableFile(f"{what} has no proper place in the file")
    first, last = place
    if not 0 <= first <= last <= available:
        raise UnreadableFile(f"{what} claims the bytes {first} to {last} of {available}")
    if prod(shape) * dtype.itemsize != last - first:
        raise UnreadableFile(f"{what} of shape {list(shape)} claims {last - first} bytes")
    return dtype, shape, first, last


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Header) -> Path:
    """Writes the file so that a crash at any moment leaves the previous one whole; returns the path.

    WeightsError if the place cannot be written.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
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

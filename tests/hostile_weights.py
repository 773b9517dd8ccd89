"""Weights files that mean harm, or are merely broken: safetensors and ONNX byte by byte, and files of other kinds."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hostile_torch import SIX, broken_archives, broken_tensors, executing_pickles, torch_bytes, with_pickle


def safetensors_bytes(header: Any, body: bytes = SIX, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(first: int = 0, last: int = 24, shape: Any = (2, 3), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def broken_safetensors() -> dict[str, bytes]:
    """Safetensors files whose headers lie."""
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return {
        "header longer than the file": safetensors_bytes({"a": entry()}, length=1 << 40),
        "header of 2^64-1": safetensors_bytes({"a": entry()}, length=(1 << 64) - 1),
        "header of zero": safetensors_bytes({"a": entry()}, length=0),
        "not JSON": safetensors_bytes(b'{"a": nope}'),
        "half of a JSON": safetensors_bytes(b'{"a": {"dtype": "F32"'),
        "not text": safetensors_bytes(b'{"\xff\xfe": 1}'),
        "deeply nested": safetensors_bytes(deep),
        "deep lists": safetensors_bytes(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        "a number of 10,000 digits": safetensors_bytes(b'{"a": ' + b"9" * 10_000 + b"}"),
        "key twice": safetensors_bytes(b'{"a": 1, "a": 2}'),
        "a tensor twice": safetensors_bytes(b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2)),
        "a text of our header twice": safetensors_bytes(
            b'{"__metadata__": {"onelook": "{}", "onelook": "[]"}, "a": %s}' % json.dumps(entry()).encode()
        ),
        "header of 9 MB": safetensors_bytes(b'{"a": ' + b" " * 9_000_000 + b"1}"),
        "8-bit floats": safetensors_bytes({"a": entry(shape=(24,), dtype="F8_E4M3")}),
        "4-bit floats": safetensors_bytes({"a": entry(shape=(48,), dtype="F4")}),
        "entry is a number": safetensors_bytes({"a": 1}),
        "unknown type": safetensors_bytes({"a": entry(dtype="F1024")}),
        "type is a list": safetensors_bytes({"a": entry(dtype=["F32"])}),
        "offsets behind the end": safetensors_bytes({"a": entry(0, 1 << 50, (1 << 48,))}),
        "offsets reversed": safetensors_bytes({"a": entry(24, 0)}),
        "negative offsets": safetensors_bytes({"a": entry(-24, 0)}),
        "fractional offsets": safetensors_bytes({"a": {**entry(), "data_offsets": [0.0, 24.0]}}),
        "boolean offsets": safetensors_bytes({"a": {**entry(), "data_offsets": [False, True]}}),
        "three offsets": safetensors_bytes({"a": {**entry(), "data_offsets": [0, 12, 24]}}),
        "no offsets": safetensors_bytes({"a": {"dtype": "F32", "shape": [2, 3]}}),
        "overlapping tensors": safetensors_bytes({"a": entry(), "b": entry()}),
        "gap between tensors": safetensors_bytes({"a": entry(4, 24, (5,))}),
        "bytes left over": safetensors_bytes({"a": entry(0, 12, (3,))}),
        "shape of a terabyte": safetensors_bytes({"a": entry(shape=(1 << 38,))}),
        "shape that overflows": safetensors_bytes({"a": entry(shape=(1 << 62, 1 << 62))}),
        "negative shape": safetensors_bytes({"a": entry(shape=(-2, -3))}),
        "shape of texts": safetensors_bytes({"a": entry(shape=("2", "3"))}),
        "shape of 1000 sides": safetensors_bytes({"a": entry(shape=(1,) * 1000)}),
        "100,000 tensors": safetensors_bytes({str(k): entry(0, 0, (0,)) for k in range(60_000)}, b""),
        "metadata of numbers": safetensors_bytes({"__metadata__": {"a": 1}, "a": entry()}),
        "metadata is a list": safetensors_bytes({"__metadata__": [], "a": entry()}),
        "our header is no JSON": safetensors_bytes({"__metadata__": {"onelook": "{"}, "a": entry()}),
        "our header is empty": safetensors_bytes({"__metadata__": {"onelook": "{}"}, "a": entry()}),
        "our header is a list": safetensors_bytes({"__metadata__": {"onelook": "[]"}, "a": entry()}),
        "our header is newer": safetensors_bytes({"__metadata__": {"onelook": '{"format": 99}'}, "a": entry()}),
    }


def varint(value: int) -> bytes:
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*raw, value])


def part(field: int, content: bytes, length: int | None = None) -> bytes:
    """A length-delimited protobuf field."""
    return varint(field << 3 | 2) + varint(len(content) if length is None else length) + content


def flag(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def onnx_bytes(graph: bytes, *more: bytes) -> bytes:
    return flag(1, 7) + part(2, b"pytorch") + part(7, graph) + b"".join(more)


CONV = part(1, part(1, b"images") + part(1, b"w") + part(1, b"b") + part(2, b"y") + part(4, b"Conv"))
IMAGES = part(11, part(1, b"images"))


def onnx_tensor(
    name: bytes = b"w", dims: tuple[int, ...] = (2, 3, 1, 1), raw: bytes | None = SIX, kind: int = 1, more: bytes = b""
) -> bytes:
    sides = b"".join(flag(1, side % (1 << 64)) for side in dims)
    return part(5, sides + flag(2, kind) + part(8, name) + (b"" if raw is None else part(9, raw)) + more)


def outside(**entries: str) -> bytes:
    """external_data of a tensor, and the mark that it has some."""
    pairs = (part(1, key.encode()) + part(2, value.encode()) for key, value in entries.items())
    return b"".join(part(13, pair) for pair in pairs) + flag(14, 1)


def broken_onnx() -> dict[str, bytes]:
    """ONNX files that claim, loop or reach outside."""
    bias = onnx_tensor(b"b", (2,), bytes(8))
    kernel = onnx_tensor()
    tiny = b"".join(part(1, b"") for _ in range(60_000))

    deep = b""
    for _ in range(400):
        deep = part(1, part(4, b"If") + part(5, part(6, deep)))

    def external(**entries: str) -> bytes:
        return onnx_bytes(IMAGES + CONV + bias + onnx_tensor(raw=None, more=outside(**entries)))

    return {
        "length of 2^63": flag(1, 7) + part(2, b"pytorch", length=1 << 63),
        "graph longer than the file": flag(1, 7) + part(2, b"x") + part(7, b"", length=1 << 40),
        "varint without end": flag(1, 7) + part(2, b"x") + b"\x38" + b"\xff" * 200,
        "field number zero": flag(1, 7) + part(2, b"x") + b"\x02\x00",
        "groups": flag(1, 7) + part(2, b"x") + b"\x3b\x3c",
        "no graph": flag(1, 7) + part(2, b"pytorch"),
        "empty graph": onnx_bytes(b""),
        "two graphs": onnx_bytes(IMAGES + CONV + kernel + bias, part(7, IMAGES + CONV + kernel + bias)),
        "graph as a number": flag(1, 7) + part(2, b"x") + flag(7, 5),
        "no convolutions": onnx_bytes(IMAGES + part(1, part(1, b"images") + part(2, b"y") + part(4, b"Relu"))),
        "60,000 nodes": onnx_bytes(tiny),
        "a million operations": onnx_bytes(part(1, b"") * 990_000),
        "a million texts": onnx_bytes(b"", part(14, b"") * 990_000),
        "a million sides": onnx_bytes(IMAGES + CONV + part(5, part(1, b"\x01" * 1_900_000))),
        "operations inside operations": onnx_bytes(IMAGES + deep),
        "numbers under a tag of too many bits": onnx_bytes(
            IMAGES + CONV + onnx_tensor(raw=None, more=b"\xca\x80\x80\x80\x10" + varint(24) + SIX)
        ),
        "floats that are said to be doubles": onnx_bytes(
            IMAGES + CONV + bias + onnx_tensor(kind=11, raw=None, more=part(4, bytes(48)))
        ),
        "halves without end": onnx_bytes(
            IMAGES + CONV + bias + onnx_tensor(kind=10, raw=None, more=part(5, b"\x81" * 12))
        ),
        "halves of ten bytes": onnx_bytes(
            IMAGES + CONV + bias + onnx_tensor(kind=10, raw=None, more=part(5, (b"\x81" * 9 + b"\x01") * 6))
        ),
        "halves by the million": onnx_bytes(
            IMAGES + CONV + bias + onnx_tensor(dims=(4_000_000,), kind=10, raw=None, more=part(5, bytes(4_000_000)))
        ),
        "no halves": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(kind=10, raw=None, more=part(5, b""))),
        "too few floats": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(raw=None, more=part(4, SIX[:-4]))),
        "millions of fields": onnx_bytes(part(1, flag(99, 1) * 1_500_000)),
        "kernel of a terabyte": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(dims=(1 << 38, 1, 1, 1))),
        "kernel that overflows": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(dims=(1 << 40, 1 << 40, 1 << 40, 1))),
        "an empty kernel whose strides overflow": onnx_bytes(
            IMAGES + CONV + bias + onnx_tensor(dims=(0, 1 << 40, 1 << 40, 1), raw=b"")
        ),
        "negative sides": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(dims=(-2, -3, 1, 1))),
        "a thousand sides": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(dims=(1,) * 1000)),
        "kernel without values": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(raw=None)),
        "too few values": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(raw=SIX[:-1])),
        "kernel that is computed": onnx_bytes(IMAGES + part(11, part(1, b"w")) + CONV + bias),
        "kernel of text": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(kind=8)),
        "kernel of one dimension": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(dims=(6,))),
        "convolution without inputs": onnx_bytes(IMAGES + part(1, part(2, b"y") + part(4, b"Conv"))),
        "unknown input": onnx_bytes(CONV + kernel + bias),
        "a loop": onnx_bytes(IMAGES + part(1, part(1, b"z") + part(2, b"z") + part(4, b"Relu")) + CONV + kernel + bias),
        "a tensor twice": onnx_bytes(IMAGES + CONV + kernel + kernel + bias),
        "name that is not text": onnx_bytes(IMAGES + CONV + bias + onnx_tensor(b"\xff\xfe")),
        "data in /etc/passwd": external(location="/etc/passwd"),
        "data above the folder": external(location="../secret.bin"),
        "data above by backslash": external(location="..\\secret.bin"),
        "data in a drive": external(location="C:secret.bin"),
        "data in the folder itself": external(location="."),
        "data nowhere": external(),
        "data in a missing file": external(location="missing.bin"),
        "data behind a zero byte": external(location="a\0b"),
        "data at a negative place": external(location="beside.bin", offset="-24"),
        "data at 2^60": external(location="beside.bin", offset=str(1 << 60)),
        "data at a word": external(location="beside.bin", offset="here"),
        "data of another length": external(location="beside.bin", length="1000000000000"),
        "damaged description": onnx_bytes(IMAGES + CONV + kernel + bias, part(14, part(1, b"onelook") + part(2, b"{"))),
    }


def other_files() -> dict[str, bytes]:
    """Files that are no weights at all."""
    return {
        "empty": b"",
        "one byte": b"\x80",
        "text": b"these are no weights\n" * 50,
        "web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "JPEG": b"\xff\xd8\xff\xe0" + bytes(100),
        "zeros": bytes(5000),
        "JSON": b'{"a": 1}',
        "gzip": b"\x1f\x8b" + bytes(50),
        "plain pickle": pickle.dumps({"a": 1}, 2),
        "pickle of protocol 0": pickle.dumps({"a": 1}, 0),
        "torch number": torch_bytes(3),
        "torch list": torch_bytes([torch.zeros(2)]),
        "torch empty": torch_bytes({}),
        "state dict with text": torch_bytes({"model": {"a": torch.zeros(1), "b": "text"}}),
        "state dict with numbers as names": torch_bytes({1: torch.zeros(1)}),
        "nested state dicts": torch_bytes({"model": {"a": {"b": torch.zeros(1)}}}),
        "stream cut in its header": torch_bytes(_use_new_zipfile_serialization=False)[:30],
        "stream cut in its tensors": torch_bytes(_use_new_zipfile_serialization=False)[:-3],
        "stream with a wrong count": torch_bytes(_use_new_zipfile_serialization=False)[:-32] + bytes(32),
    }


def all_hostile(touched: Path) -> dict[str, bytes]:
    """Every file, by a word on it."""
    files: dict[str, bytes] = {}
    for word, program in executing_pickles(touched).items():
        files[f"zip: {word}"] = program if program.startswith(b"PK") else with_pickle(program, d0=SIX)
        files[f"plain: {word}"] = program
    makers: dict[str, Callable[[], dict[str, bytes]]] = {
        "tensors": broken_tensors,
        "archive": broken_archives,
        "safetensors": broken_safetensors,
        "onnx": broken_onnx,
        "other": other_files,
    }
    for kind, make in makers.items():
        files |= {f"{kind}: {word}": content for word, content in make().items()}
    return files

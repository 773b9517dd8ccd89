"""What the globals in torch checkpoints stand for: containers, NumPy scalars and arrays, dtypes. Tensors are
`torch_file`'s. Each builds plain data of a size that its own bytes already have."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np

from onelook.weights.file import check_shape
from onelook.weights.problems import UnreadableFile, shown
from onelook.weights.unpickle import AttributedDict, Global, Stateful, key

_NUMPY_TYPE = re.compile(r"(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,4}|\?)\Z")


class NumpyType(Stateful):
    """A NumPy dtype as it is pickled: made from its code, then told its byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _NUMPY_TYPE.match(code.lstrip("<>=|")):
            raise UnreadableFile(f"it holds NumPy values of the type '{shown(code)}', which are not plain data")
        self.value = np.dtype(code)

    def set_state(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) >= 2 else None
        if order not in ("<", ">", "=", "|"):
            raise UnreadableFile("it holds a damaged NumPy type")
        self.value = self.value.newbyteorder(order)


class NumpyArray(Stateful):
    """A NumPy array as it is pickled: made empty, then given version, shape, dtype, order and bytes."""

    def __init__(self, *_: object) -> None:
        self.value = np.zeros(0)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnreadableFile("it holds a damaged NumPy array")
        _, shape, kind, is_fortran, raw = state
        self.value = _array(raw, kind, shape, "F" if is_fortran else "C")


def _array(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, NumpyType) or not isinstance(raw, bytes | bytearray):
        raise UnreadableFile("it holds a NumPy array that is not made of numbers")
    sides = check_shape(shape, "a NumPy array in it")
    if prod(sides) * kind.value.itemsize != len(raw) or not raw:
        if prod(sides) == 0:
            return np.zeros(0, kind.value)
        raise UnreadableFile(f"it holds a NumPy array that claims {prod(sides)} elements in {len(raw)} bytes")
    return np.frombuffer(raw, kind.value).reshape(sides, order="F" if order == "F" else "C")


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> NumpyArray:
    array = NumpyArray()
    array.value = _array(raw, kind, shape, order)
    return array


def _scalar(kind: Any, raw: Any) -> Any:
    if not isinstance(kind, NumpyType) or not isinstance(raw, bytes) or len(raw) != kind.value.itemsize or not raw:
        raise UnreadableFile("it holds a damaged NumPy number")
    return np.frombuffer(raw, kind.value)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise UnreadableFile("it holds damaged bytes")
    return text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")


def _dictionary(pairs: Any = ()) -> AttributedDict:
    values = AttributedDict()
    for pair in pairs.items() if isinstance(pairs, dict) else pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UnreadableFile("it holds a damaged dictionary")
        values[key(pair[0])] = pair[1]
    return values


def _plain_items(items: Any) -> Any:
    if not isinstance(items, list | tuple | set | frozenset):
        raise UnreadableFile("it holds a damaged set")
    return map(key, items)


def _set(items: Any = ()) -> set[Any]:
    return set(_plain_items(items))


def _frozen_set(items: Any = ()) -> frozenset[Any]:
    return frozenset(_plain_items(items))


def _size(sides: Any = ()) -> tuple[int, ...]:
    return check_shape(sides, "a torch.Size in it")


def _bytearray(raw: Any = b"") -> bytearray:
    if not isinstance(raw, bytes):
        raise UnreadableFile("it holds damaged bytes")
    return bytearray(raw)


def _complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise UnreadableFile("it holds a damaged complex number")
    return complex(real, imaginary)


def _device(kind: Any = "cpu", index: Any = None) -> str:
    if not isinstance(kind, str):
        raise UnreadableFile("it holds a damaged device")
    return kind


def _table() -> dict[str, Global]:
    makers: dict[str, Any] = {
        "collections.OrderedDict": _dictionary,
        "collections.defaultdict": lambda factory=None, pairs=(): _dictionary(pairs),
        "_codecs.encode": _encode,
        "torch.Size": _size,
        "torch.device": _device,
        "numpy.dtype": NumpyType,
    }
    for module in ("builtins", "__builtin__"):
        made = {"set": _set, "frozenset": _frozen_set, "bytearray": _bytearray, "complex": _complex}
        makers |= {f"{module}.{name}": make for name, make in made.items()}
        makers |= dict.fromkeys(f"{module}.{name}" for name in ("int", "float", "bool", "str", "list", "dict"))
    for module in ("numpy.core", "numpy._core"):
        makers[f"{module}.multiarray.scalar"] = _scalar
        makers[f"{module}.multiarray._reconstruct"] = NumpyArray
        makers[f"{module}.numeric._frombuffer"] = _from_buffer
    makers["numpy.ndarray"] = None
    types = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    makers |= dict.fromkeys(f"torch.{name}" for name in types)
    return {name: Global(name, make) for name, make in makers.items()}


PLAIN_DATA = _table()

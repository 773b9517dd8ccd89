"""Files that torch.save wrote: the zip form (torch 1.6 and later) and the stream before it. Nothing is executed.

Tensors stay references (`StoredTensor`) until `TorchFile.tensor` is asked for one; it is then a view of the mapped
file. All sizes are compared with the file before that. Very old tar files and TorchScript archives are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from onelook.weights.archive import Entry, read_entries
from onelook.weights.file import check_shape, tensor_from
from onelook.weights.problems import UnreadableFile, printable
from onelook.weights.safe_globals import Function, SafeGlobals, Unchangeable
from onelook.weights.unpickle import LARGEST_PICKLE, read_pickle

STREAM_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number 0x1950a86a20f9469cfc6c
ZIP_MAGIC = b"PK\x03\x04"
_LARGEST_HEADER = 64_000  # bytes of each small pickle before the value of a stream
_LARGEST_KEYS = 4_000_000  # bytes of the list of a stream's storages
_RESAVE = "Save the weights again with torch.save, on a little-endian machine."
_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage(Unchangeable):
    """A run of `count` numbers, kept under `key` in the file."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, eq=False)
class StoredTensor(Unchangeable):
    """A tensor that has not been read: a strided part of a storage, known to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class TorchFile:
    """The object given to torch.save, with `StoredTensor`s in place of tensors, and the bytes of their storages.

    form: "zip" or "stream".
    """

    form: str
    value: Any
    entries: dict[str, Entry]
    _storages: dict[str, Tensor] = field(default_factory=dict)

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The tensor itself, in the dtype of the file: a view of the file where it can be. Raises UnreadableFile."""
        storage = stored.storage
        if storage.key not in self._storages:
            # Once for each storage: any number of tensors can share one.
            entry = self.entries[storage.key]
            entry.verify()
            self._storages[storage.key] = tensor_from(entry.data, storage.dtype, (storage.count,))
        return self._storages[storage.key].as_strided(stored.shape, stored.stride, stored.offset)


def read_torch_file(data: memoryview, packages: Sequence[str] = ()) -> TorchFile:
    """The content of a mapped file. `packages`: module prefixes whose classes may appear, as inert `Placeholder`s.

    Raises UnreadableFile.
    """
    if bytes(data[:4]) == ZIP_MAGIC:
        return _read_zip(data, packages)
    if bytes(data[: len(STREAM_MAGIC)]) == STREAM_MAGIC:
        return _read_stream(data, packages)
    if bytes(data[257:262]) == b"ustar":
        raise UnreadableFile("it is a tar file, as torch wrote before 0.2", "Save it again with a newer torch.")
    # A plain pickle holds no tensors of torch's, but it may name something that the message must show.
    read_pickle(data, SafeGlobals(packages=packages))
    raise UnreadableFile("it is a plain pickle without torch's tensors", "Save the weights with torch.save.")


def _read_zip(data: memoryview, packages: Sequence[str]) -> TorchFile:
    entries = read_entries(data)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        held = ", ".join(printable(name, 40) for name in list(entries)[:3]) or "nothing"
        raise UnreadableFile(f"it is a zip file without one 'data.pkl' (it holds {held})", _RESAVE)
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries or any(name.startswith(f"{root}code/") for name in entries):
        raise UnreadableFile(
            "it is a TorchScript program", "Save the weights with torch.save(model.state_dict(), ...)."
        )
    order = entries.get(f"{root}byteorder")
    if order is not None and bytes(order.data[:16]) != b"little":
        raise UnreadableFile("its numbers are in big-endian order", _RESAVE)
    structure = entries[pickles[0]]
    if len(structure.data) > LARGEST_PICKLE:
        raise UnreadableFile(f"its 'data.pkl' has {len(structure.data)} bytes, far more than any checkpoint")
    structure.verify()
    prefix = f"{root}data/"
    stored = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
    storages = _storages(lambda key: len(stored[key].data) if key in stored else None, {})
    value, _ = read_pickle(structure.data, _globals(packages), storages)
    return TorchFile("zip", value, stored)


def _read_stream(data: memoryview, packages: Sequence[str]) -> TorchFile:
    """Reads the old form: pickles of magic, version, machine, value and storage keys, then the bytes of each key."""
    nothing = SafeGlobals()
    version, position = read_pickle(data, nothing, position=len(STREAM_MAGIC), limit=_LARGEST_HEADER)
    machine, position = read_pickle(data, nothing, position=position, limit=_LARGEST_HEADER)
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnreadableFile("its stream has another version than 1001, or big-endian numbers", _RESAVE)
    wanted: dict[str, Storage] = {}
    value, position = read_pickle(data, _globals(packages), _storages(lambda key: len(data), wanted), position=position)
    keys, position = read_pickle(data, nothing, position=position, limit=_LARGEST_KEYS)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise UnreadableFile("its list of tensor data is damaged")
    entries = {}
    for key in keys:
        if key not in wanted:
            raise UnreadableFile(f"it holds tensor data '{printable(key)}' that belongs to no tensor")
        if position + 8 > len(data):
            raise UnreadableFile("it ends before its tensors do: the file is cut off")
        (count,) = struct.unpack_from("<q", data, position)
        if count != wanted[key].count:
            raise UnreadableFile(f"the tensor data '{printable(key)}' has another size than its tensor claims")
        end = position + 8 + count * wanted[key].dtype.itemsize
        if end > len(data):
            raise UnreadableFile("it ends before its tensors do: the file is cut off")
        entries[key] = Entry(key, data[position + 8 : end], 0)
        position = end
    if missing := wanted.keys() - entries.keys():
        raise UnreadableFile(f"the tensor data '{printable(min(missing))}' is missing")
    return TorchFile("stream", value, entries)


def _storages(available: Callable[[str], int | None], known: dict[str, Storage]) -> Callable[[Any], Storage]:
    """Reads persistent ids: ("storage", type, key, device, count), in streams followed by the None of "no view".

    available: how many bytes the file has for a key, None for an unknown one.  known: receives every storage.
    """

    def storage(identity: Any) -> Storage:
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise UnreadableFile("its pickle refers to data in an unknown way")
        _, kind, key, _, count = identity[:5]
        if not isinstance(kind, Function) or kind.name not in _STORAGES:
            what = kind.name if isinstance(kind, Function) else type(kind).__name__
            raise UnreadableFile(f"it holds tensors of the kind '{printable(what)}', which are not supported")
        if identity[5:] not in ((), (None,)):
            raise UnreadableFile(
                "it shares tensor data in a way that torch 0.3 had", "Save it again with a newer torch."
            )
        if not isinstance(key, str) or not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise UnreadableFile("it has damaged references to tensor data")
        found = Storage(key, _STORAGES[kind.name], count)
        here, needed = available(key), count * found.dtype.itemsize
        if here is None:
            raise UnreadableFile(f"the tensor data '{printable(key)}' is missing")
        if needed > here:
            raise UnreadableFile(
                f"the tensor data '{printable(key)}' claims {needed} bytes; the file has {here} for it"
            )
        if known.setdefault(key, found) != found:
            raise UnreadableFile(f"the tensor data '{printable(key)}' has two types or sizes")
        return found

    return storage


def _globals(packages: Sequence[str]) -> SafeGlobals:
    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
    }
    return SafeGlobals(functions, tuple(_STORAGES), packages)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise UnreadableFile("it has a tensor without data")
    sides = check_shape(shape, "a tensor in it")
    layout = (offset, *stride) if isinstance(stride, list | tuple) else ()
    if len(layout) != 1 + len(sides) or not all(type(step) is int and 0 <= step < 1 << 48 for step in layout):
        raise UnreadableFile("it has a tensor with a damaged layout")
    count = prod(sides)
    steps = tuple(stride)
    last = offset + sum((side - 1) * step for side, step in zip(sides, steps)) if count else -1
    if last >= storage.count or count > storage.count:
        raise UnreadableFile(
            f"it has a tensor of shape {list(sides)} that claims more than the {storage.count} numbers stored for it"
        )
    return StoredTensor(storage, offset if count else 0, sides, steps)


def _parameter(tensor: Any, *_: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise UnreadableFile("it has a parameter that is not a tensor")
    return tensor

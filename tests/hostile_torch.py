"""Torch files that mean harm, or are merely broken, made byte by byte: pickles and zips.

Whatever a pickle here would execute writes the file `touched`, so that a test can see that nothing did.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

STATE = {"backbone.weight": torch.arange(6.0).reshape(2, 3), "counter": torch.tensor(3)}


def torch_bytes(value: Any = None, **options: Any) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(STATE if value is None else value, stream, **options)
    return stream.getvalue()


def zip_bytes(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def with_pickle(program: bytes, **data: bytes) -> bytes:
    """A torch zip file with this `data.pkl` and tensor data `d0`, `d1`, ..."""
    stored = {f"archive/data/{key[1:]}": content for key, content in data.items()}
    return zip_bytes({"archive/data.pkl": program, **stored, "archive/version": b"3\n"})


class _Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(name: str, *arguments: bytes) -> bytes:
    """The instructions of a call; arguments are instructions too."""
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def storage(kind: str = "FloatStorage", key: str = "0", count: bytes = b"K\x06") -> bytes:
    return b"(" + text("storage") + named(f"torch.{kind}") + text(key) + text("cpu") + count + b"tQ"


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tensor(shape: tuple[int, ...] = (2, 3), stride: tuple[int, ...] = (3, 1), offset: int = 0, **stored: Any) -> bytes:
    sides = b"(" + b"".join(map(number, shape)) + b"t"
    steps = b"(" + b"".join(map(number, stride)) + b"t"
    hooks = named("collections.OrderedDict") + b")R"
    return call("torch._utils._rebuild_tensor_v2", storage(**stored), number(offset), sides, steps, b"\x89", hooks)


def state_of(*instructions: bytes) -> bytes:
    """A pickle of {"w": the value of the instructions}."""
    return b"\x80\x02}" + text("w") + b"".join(instructions) + b"s."


SIX = bytes(24)


def executing_pickles(touched: Path) -> dict[str, bytes]:
    """Pickles that run something in Python's own unpickler, by a word on each."""
    command = f"touch {touched}"
    source = f"open({str(touched)!r}, 'w')"
    calls: dict[str, Any] = {
        "os.system": _Calls(os.system, command),
        "eval": _Calls(eval, source),
        "exec": _Calls(exec, source),
        "open": _Calls(open, str(touched), "w"),
        "getattr": _Calls(getattr, "x", "upper"),
        "import": _Calls(__import__, "os"),
        "mkdir": _Calls(os.mkdir, str(touched)),
        "nested in a tuple": (1, (2, _Calls(os.system, command))),
        "a call of what a call returned": _Calls(_Calls(getattr, os, "system"), command),
        "as a dictionary's key": {"x": {_Calls(os.getcwd): 1}},
        "as the state of a container": _Calls(dict, state=_Calls(os.system, command)),
        "numpy from file": _Calls(np.load, str(touched)),
        "torch.load": _Calls(torch.load, str(touched)),
        "bytes from memory": _Calls(torch.storage._load_from_bytes, b"x"),
        "path": Path("/"),
        "a class of this module": _Calls(_Calls, 1),
    }
    found = {}
    for word, value in calls.items():
        try:
            for protocol in (2, 4):
                found[f"{word}, protocol {protocol}"] = pickle.dumps({"model": value}, protocol)
        except (TypeError, pickle.PicklingError, AttributeError):
            continue
    shell = text(command)
    found |= {
        "posix.system": b"\x80\x02" + call("posix.system", shell) + b".",
        "nt.system": b"\x80\x02" + call("nt.system", shell) + b".",
        "subprocess.Popen": b"\x80\x02" + call("subprocess.Popen", shell) + b".",
        "builtins.getattr by stack": b"\x80\x04" + text("builtins") + text("getattr") + b"\x93(" + shell + b"tR.",
        "dotted name": b"\x80\x04" + text("collections") + text("OrderedDict.__reduce__") + b"\x93).",
        "dunder of an allowed name": b"\x80\x04" + text("torch") + text("Size.__class__") + b"\x93)R.",
        "old instruction INST": b"(" + shell + b"ios\nsystem\n.",
        "old instruction OBJ": b"(" + named("os.system") + shell + b"o.",
        "NEWOBJ of a function": b"\x80\x02" + named("os.system") + b"(" + shell + b"t\x81.",
        "NEWOBJ_EX with keywords": b"\x80\x04" + named("collections.OrderedDict") + b")}" + text("a") + b"K\x01s\x92.",
        "call of a storage type": b"\x80\x02" + named("torch.FloatStorage") + b"K\x01\x85R.",
        "call of a text": b"\x80\x02" + text("os.system") + shell + b"\x85R.",
        "call of a tensor": with_program(tensor() + b")R"),
        "copyreg._reconstructor": b"\x80\x02" + call("copyreg._reconstructor", named("os.system"), b"NN") + b".",
        "copy_reg.__newobj__": b"\x80\x02" + call("copy_reg.__newobj__", named("os.system")) + b".",
        "extension registry": b"\x80\x02\x82\x01.",
        "state for an allowed name": b"\x80\x02" + named("torch.Size") + b"}" + text("make") + text("x") + b"sb.",
        "state for a dictionary's class": b"\x80\x02" + named("collections.OrderedDict") + b"}" + text("x") + b"Nsb.",
        "state for a list": b"\x80\x02]}" + text("append") + b"Nsb.",
        "persistent id in text": b"Pos.system\n.",
        "codecs to rot13": b"\x80\x02" + call("_codecs.encode", shell, text("rot13")) + b".",
        "codecs.decode": b"\x80\x02" + call("_codecs.decode", shell, text("unicode_escape")) + b".",
        "numpy object dtype": b"\x80\x02" + call("numpy.dtype", text("O8"), b"\x89\x88") + b".",
        "numpy record dtype": b"\x80\x02" + call("numpy.dtype", text("V16"), b"\x89\x88") + b".",
        "torch.jit": b"\x80\x02" + call("torch.jit._script.unpackage_script_module", shell) + b".",
        "hidden in the hooks": state_of(
            named("torch._utils._rebuild_tensor_v2")
            + b"("
            + storage()
            + b"K\x00))\x89"
            + call("os.system", shell)
            + b"tR"
        ),
        "copyreg.__newobj_ex__": b"\x80\x04" + call("copyreg.__newobj_ex__", named("os.system"), b")}") + b".",
        "copyreg.add_extension": b"\x80\x02"
        + call("copyreg.add_extension", text("os"), text("system"), b"K\x01")
        + b".",
        "copyreg.dispatch_table": b"\x80\x02"
        + named("copyreg.dispatch_table")
        + text("x")
        + named("os.system")
        + b"s.",
        "object.__reduce_ex__": b"\x80\x04"
        + text("builtins")
        + text("object.__reduce_ex__")
        + b"\x93"
        + shell
        + b"\x85R.",
        "functools.partial": b"\x80\x02" + call("functools.partial", named("os.system"), shell) + b".",
        "importlib.import_module": b"\x80\x02" + call("importlib.import_module", text("antigravity")) + b".",
        "pickle in a pickle": b"\x80\x02" + call("pickle.loads", b"C\x02N.") + b".",
        "runpy": b"\x80\x02" + call("runpy._run_code", text(source), b"}") + b".",
        "a class that sounds like os": b"\x80\x02" + call("models.os.system", shell) + b".",
        "state for a repository's class": b"\x80\x02" + named("models.yolo.Model") + b"}" + text("kind") + b"Nsb.",
        "slots for a repository's class": b"\x80\x02" + named("models.yolo.Model") + b"N}" + text("kind") + b"Ns\x86b.",
        "slots for an allowed name": b"\x80\x02"
        + named("collections.OrderedDict")
        + b"N}"
        + text("name")
        + b"Ns\x86b.",
        "items for an allowed name": b"\x80\x02" + named("collections.OrderedDict") + text("x") + b"Ns.",
        "call of an object": b"\x80\x02" + named("models.yolo.Model") + b")\x81" + shell + b"\x85R.",
        "class that is made of a call": b"\x80\x02" + named("collections.OrderedDict") + b")R)\x81.",
        "a repository's class": b"\x80\x02" + named("models.yolo.Model") + b")\x81}" + text("a") + b"K\x01sb.",
    }
    return found


def with_program(instructions: bytes) -> bytes:
    return b"\x80\x02" + instructions + b"."


def broken_tensors() -> dict[str, bytes]:
    """Torch files whose tensors claim what they do not have."""
    huge = 1 << 40
    rebuild = named("torch._utils._rebuild_tensor_v2")
    programs = {
        "a terabyte of storage": tensor((huge,), (1,), count=number(huge)),
        "storage of 2^63 numbers": tensor((2, 3), count=number((1 << 63) - 1)),
        "storage of negative size": tensor(count=number(-6)),
        "shape larger than storage": tensor((huge,), (1,)),
        "an expanded number": tensor((huge,), (0,)),
        "offset behind the storage": tensor(offset=5),
        "negative offset": tensor(offset=-1),
        "negative side": tensor((-2, -3)),
        "negative stride": tensor((2, 3), (-3, 1)),
        "more strides than sides": tensor((2, 3), (3, 1, 1)),
        "fewer strides than sides": tensor((2, 3), (1,)),
        "a hundred dimensions": tensor((1,) * 100, (1,) * 100),
        "stride beyond the storage": tensor((2, 3), (1 << 60, 1)),
        "sides that overflow": tensor((1 << 33, 1 << 33), (1, 1)),
        "no such data": tensor(key="7"),
        "data outside the archive": tensor(key="../../etc/passwd"),
        "complex storage": tensor(kind="ComplexFloatStorage"),
        "quantised storage": tensor(kind="QInt8Storage"),
        "storage that is a number": rebuild + b"(K\x05K\x00))\x89NtR",
        "tensor without arguments": rebuild + b")R",
        "another shape as state": tensor() + b"}" + text("shape") + b"(" + number(huge) + b"tsb",
        "another shape as slots": tensor() + b"N}" + text("shape") + b"(" + number(huge) + b"ts\x86b",
        "another shape as a list of fields": tensor() + b"](K\x01K\x00(" + number(huge) + b"tK\x01\x85eb",
        "another count as state of the storage": rebuild
        + b"("
        + storage()
        + b"}"
        + text("count")
        + number(huge)
        + b"sbK\x00("
        + number(huge)
        + b"tK\x01\x85\x89NtR",
        "parameter of a text": call("torch._utils._rebuild_parameter", text("x"), b"\x89N"),
        "sparse tensor": call("torch._utils._rebuild_sparse_tensor", b"K\x01"),
        "persistent id of text": text("storage") + b"Q",
        "persistent id of numbers": b"(K\x01K\x02K\x03K\x04K\x05tQ",
        "boolean count": tensor(count=b"\x88"),
        "array larger than its bytes": _array(huge, b"C\x08" + bytes(8)),
        "array of a million dimensions": _array(1, b"C\x08" + bytes(8), sides=b"(" + b"K\x01" * 100_000 + b"t"),
        "array of objects": _array(1, b"]"),
        "scalar of too few bytes": call("numpy.core.multiarray.scalar", call("numpy.dtype", text("f8")), b"C\x01a"),
        "text of 2 GB": b"X\xff\xff\xff\x7fabc",
        "bytes of 2^63": b"\x8e" + struct.pack("<Q", 1 << 63),
        "number of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "number of a kilobyte and more": b"\x8b" + struct.pack("<i", 5000) + bytes(5000),
        "bytearray of 2^62": b"\x96" + struct.pack("<Q", 1 << 62),
        "frame of 2^62": b"\x95" + struct.pack("<Q", 1 << 62) + text("x"),
        "memo at 2^31": text("x") + b"r\xff\xff\xff\x7f" + b"j\xfe\xff\xff\x7f",
        "marks without end": b"(" * 200_000,
        "nested lists": b"]" * 100_000 + b"a" * 99_999,
        "keys that are nested tuples": b"}" + b")" + b"\x85" * 40 + b"Ns",
        "nested lists, a million deep": b"]" * 900_000 + b"a" * 899_999,
        "nested tuples, a million deep": b")" + b"\x85" * 1_000_000,
        "nested tuples as a key, a million deep": b"})" + b"\x85" * 1_000_000 + b"Ns",
        "nested classes, a hundred thousand deep": (named("models.a.B") + b"q\x010")
        + b"h\x01" * 100_000
        + b")\x81"
        + b"\x85\x81" * 99_999,
        "nested tuples in a set": b"\x8f(" + b")" + b"\x85" * 40 + b"\x90",
        "nested tuples in a frozen set": b"()" + b"\x85" * 40 + b"\x91",
        "nested tuples as a remembered key": b")" + b"\x85" * 40 + b"q\x010}(h\x01Nu",
        "a dictionary from the mark with huge keys": b"(" + number((1 << 61) - 1) + b"Nd",
        "sets by the million": b"\x8f" * 700_000,
        "classes by the thousand": b"".join(b"cmodels.a\nC%d\n0" % index for index in range(5_000)) + b"N",
        "a state that is set again and again": b"}("
        + b"".join(text(str(index)) + b"N" for index in range(20_000))
        + b"uq\x010"
        + named("models.a.B")
        + b")\x81"
        + b"h\x01b" * 300_000,
        "a dictionary that is copied": b"]("
        + (text("k") + b"N\x86") * 50_000
        + b"eq\x01"
        + (b"0" + named("collections.OrderedDict") + b"h\x01\x85R") * 2_000,
        "memo far ahead": text("x") + b"r\x00\x00\x10\x00",
        "memo that is empty": b"h\x05",
        "tuples that double": b"}K\x01" + b"q\x01h\x01\x86" * 60 + b"Ns",
        "integers that collide": b"}(" + b"".join(number(k * ((1 << 61) - 1)) + b"N" for k in range(1, 3000)) + b"u",
        "lists that are copied": b"](" + b"K\x01" * 50_000 + b"eq\x01" + b"0cbuiltins\nset\nh\x01\x85R" * 2_000,
        "text that is encoded again and again": text("x" * 500_000)
        + b"q\x01"
        + (b"0" + named("_codecs.encode") + b"h\x01\x85R") * 20_000,
        "a million instructions too many": b"N0" * 1_100_000 + b"N",
        "stack underflow": b"0000",
        "tuple of nothing": b"\x87",
        "append to a number": b"K\x01K\x02a",
        "items for a list": b"]K\x01K\x02s",
        "odd items": b"}(K\x01u",
        "a list as a key": b"}]Ns",
        "protocol 255": b"\x80\xff",
        "unknown instruction": b"\xf0",
        "a global without end": b"c" + b"a" * 10_000,
        "a global that is not text": b"c\xff\xfe\nx\n",
        "a global made of numbers": b"K\x01K\x02\x93",
        "text that is not UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    }
    return {word: with_pickle(state_of(program), d0=SIX) for word, program in programs.items()}


def _array(count: int, raw: bytes, sides: bytes | None = None) -> bytes:
    kind = call("numpy.dtype", text("f8"), b"\x89\x88")
    made = call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), b"K\x00\x85C\x01b")
    sides = b"(" + number(count) + b"t" if sides is None else sides
    return made + b"(K\x01" + sides + kind + b"\x89" + raw + b"tb"


def broken_archives() -> dict[str, bytes]:
    """Zip files that are not what they say."""
    good = torch_bytes()
    end = good.rfind(b"PK\x05\x06")
    first = good.find(b"PK\x01\x02")
    deflated = zip_bytes({"archive/data.pkl": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    doubled = io.BytesIO()
    with zipfile.ZipFile(doubled, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive._didModify = True
        information = zipfile.ZipInfo("a/data.pkk")
        archive.writestr(information, b"\x80\x02].")

    def patched(position: int, layout: str, *values: int) -> bytes:
        data = bytearray(good)
        struct.pack_into(layout, data, position, *values)
        return bytes(data)

    return {
        "a zip bomb": deflated,
        "two entries of one name": doubled.getvalue().replace(b"a/data.pkk", b"a/data.pkl"),
        "no data.pkl": zip_bytes({"weights.txt": b"hello"}),
        "two data.pkl": zip_bytes({"a/data.pkl": b"\x80\x02}.", "b/data.pkl": b"\x80\x02}."}),
        "empty zip with a start": b"PK\x03\x04" + bytes(30),
        "TorchScript": zip_bytes({"a/data.pkl": b"\x80\x02}.", "a/code/x.py": b"", "a/constants.pkl": b"\x80\x02)."}),
        "big-endian": zip_bytes({"a/data.pkl": b"\x80\x02}.", "a/byteorder": b"big"}),
        "100,000 entries": zip_bytes({f"a/{index}": b"" for index in range(100_000)}),
        "no end": good[:end],
        "60,000 entries claimed": patched(end + 8, "<HH", 60_000, 60_000),
        "directory behind the end": patched(end + 16, "<I", len(good) + 5),
        "directory of 4 GB": patched(end + 12, "<I", 0xFFFF_FFF0),
        "entry of 4 GB": patched(first + 20, "<II", 0xFFFF_FFF0, 0xFFFF_FFF0),
        "entry with two sizes": patched(first + 20, "<II", 10, 11),
        "entry that starts behind the end": patched(first + 42, "<I", len(good) - 2),
        "entry that starts in another": patched(first + 42, "<I", 7),
        "encrypted entry": patched(first + 8, "<H", 1),
        "entry with another checksum": patched(first + 16, "<I", 12345),
        "entry that reaches into the directory": patched(first + 20, "<II", first - 20, first - 20),
        "a flipped weight": good.replace(struct.pack("<f", 5.0), struct.pack("<f", 5.5)),
        "an .npz file": _npz(),
        "tar": bytes(257) + b"ustar\x0000" + bytes(500),
    }


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()

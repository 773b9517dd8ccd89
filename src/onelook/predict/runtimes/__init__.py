"""The formats of exported files, one file each. A new one is its file and a line here; nothing else names runtimes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from onelook.errors import UsageError
from onelook.named import import_named
from onelook.predict.runtimes.exported import ExportedRuntime

# The ending of a file's name: module and class of its runtime, imported where a file of this name is given.
RUNTIMES: Mapping[str, str] = MappingProxyType(
    {
        ".onnx": "onelook.predict.runtimes.onnx:OnnxRuntime",
        ".xml": "onelook.predict.runtimes.openvino:OpenvinoRuntime",
        ".param": "onelook.predict.runtimes.ncnn:NcnnRuntime",
        ".tflite": "onelook.predict.runtimes.litert:LitertRuntime",
        ".pt2": "onelook.predict.runtimes.torch_program:TorchProgramRuntime",
        ".engine": "onelook.predict.runtimes.tensorrt:TensorrtRuntime",
    }
)
# The ending of a file that is a part of a model: the endings of the file beside it that is given in its place. A table,
# so that no runtime is imported for a file of weights.
_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType({".bin": (".xml", ".param")})


def exported_runtime(path: str | os.PathLike[str]) -> type[ExportedRuntime] | None:
    """The runtime of an exported file, by the ending of its name; None where no runtime has it."""
    name = os.fspath(path).lower()
    target = next((target for suffix, target in RUNTIMES.items() if name.endswith(suffix)), None)
    if target is None:
        return None
    found: type[ExportedRuntime] = import_named(target)
    return found


def check_whole(path: str | os.PathLike[str]) -> None:
    """UsageError for a file that is a part of an exported model beside it, such as the .bin of an .xml."""
    stem, ending = os.path.splitext(path)
    named = [file for other in _PARTS.get(ending.lower(), ()) if os.path.isfile(file := stem + other)]
    if named and os.path.isfile(path):
        files = " or ".join(f"'{file}'" for file in named)
        raise UsageError(f"'{os.fspath(path)}' is only a part of an exported model.", f"Give the file {files}.")

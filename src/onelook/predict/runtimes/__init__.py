"""The formats of exported files, one file each. A new one is its file and a line here; nothing else names runtimes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

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


def exported_runtime(path: str | os.PathLike[str]) -> type[ExportedRuntime] | None:
    """The runtime of an exported file, by the ending of its name; None where no runtime has it."""
    name = os.fspath(path).lower()
    target = next((target for suffix, target in RUNTIMES.items() if name.endswith(suffix)), None)
    if target is None:
        return None
    found: type[ExportedRuntime] = import_named(target)
    return found
